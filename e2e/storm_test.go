package e2e

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/shareddir"
)

const stormPods = 32

// inProcess makes a request within this process, as a daemon would.
func (s *site) inProcess(r request) ([]byte, error) {
	if r.ifName == "" {
		r.ifName = "eth0"
	}
	var out, stderr bytes.Buffer
	status := agent.Answer(context.Background(), agent.Call{
		As: "plexus", Getenv: agent.Environ(s.environ(r)...),
		Stdin: bytes.NewReader(s.conf), Stdout: &out, Stderr: &stderr,
	})
	if status == 0 {
		return out.Bytes(), nil
	}
	failed := &cniError{stderr: stderr.String()}
	decode(s.t, out.Bytes(), failed)
	return nil, failed
}

// stormPod is one of the pods of a storm.
type stormPod struct {
	*node.Pod
	id, name string
}

// 32 pods are attached at once, one of them by two requests, each to the
// cluster network and two vhost-user networks whose bridges plexus makes with
// the first pod and removes with the last: everyone gets what is theirs, and
// nothing is left when they have all gone at once. Twice over, as the second
// time meets what the first has left.
func TestStormOfExecutables(t *testing.T) {
	storm(t, func(s *site, r request) ([]byte, error) {
		out, _, err := s.call(r)
		return out, err
	})
}

// The same within one process.
func TestStormInProcess(t *testing.T) {
	storm(t, (*site).inProcess)
}

func storm(t *testing.T, do func(*site, request) ([]byte, error)) {
	v := startOVS(t)
	s := vhostSite(t, v)
	for i, network := range []string{"left", "right"} {
		s.nad(network, vhost(v, s, map[string]any{
			"bridge": "br-" + network, "vlan": i + 1,
			"ipam": map[string]any{"type": "host-local", "subnet": fmt.Sprintf("192.168.%d.0/24", 20+i), "dataDir": filepath.Join(s.dir, "ipam")},
		}))
	}
	var pods []*stormPod
	for n := range stormPods {
		p := &stormPod{id: fmt.Sprintf("%012x", 0x570000+n), name: fmt.Sprintf("storm%d", n)}
		p.Pod = newPod(t, p.name)
		s.pod(p.name, "left, right")
		pods = append(pods, p)
	}
	first := request{verb: "ADD", sandbox: pods[0].id, netns: pods[0].Path(), pod: pods[0].name}
	_, err := do(s, first)
	must(t, err)
	first.verb = "DEL"
	_, err = do(s, first)
	must(t, err)
	before := s.world(v)

	for range 2 {
		results := s.addAll(pods, do)
		if t.Failed() {
			t.FailNow()
		}
		s.distinct(pods, results)
		s.noCrossTalk(v, pods)
		s.all(pods, "CHECK", do)
		s.all(pods, "DEL", do)
		sameWorld(t, before, s.world(v))
		if t.Failed() {
			t.FailNow()
		}
	}
}

// addAll adds all the pods at once, the one in the middle by two requests.
func (s *site) addAll(pods []*stormPod, do func(*site, request) ([]byte, error)) []*types100.Result {
	s.t.Helper()
	asked := append([]*stormPod{}, pods...)
	twice := len(pods) / 2
	asked = append(asked, pods[twice])
	outs, errs := make([][]byte, len(asked)), make([]error, len(asked))
	var group sync.WaitGroup
	for i, p := range asked {
		group.Go(func() {
			outs[i], errs[i] = do(s, request{verb: "ADD", sandbox: p.id, netns: p.Path(), pod: p.name})
		})
	}
	group.Wait()
	last := len(pods)
	switch {
	case errs[twice] == nil && errs[last] == nil:
		s.t.Error("both ADDs of one sandbox succeeded")
	case errs[twice] != nil && errs[last] != nil:
		s.t.Errorf("both ADDs of one sandbox failed: %v; %v", errs[twice], errs[last])
	case errs[twice] != nil:
		outs[twice], errs[twice], errs[last] = outs[last], nil, errs[twice]
	}
	says(s.t, errs[last], pods[twice].id, "is attached")
	results := make([]*types100.Result, len(pods))
	for i := range pods {
		if errs[i] != nil {
			s.t.Errorf("ADD %s: %v", pods[i].name, errs[i])
			continue
		}
		results[i] = &types100.Result{}
		decode(s.t, outs[i], results[i])
	}
	return results
}

// all does a verb to all the pods at once.
func (s *site) all(pods []*stormPod, verb string, do func(*site, request) ([]byte, error)) {
	s.t.Helper()
	errs := make([]error, len(pods))
	var group sync.WaitGroup
	for i, p := range pods {
		group.Go(func() {
			_, errs[i] = do(s, request{verb: verb, sandbox: p.id, netns: p.Path(), pod: p.name})
		})
	}
	group.Wait()
	for i, err := range errs {
		if err != nil {
			s.t.Errorf("%s %s: %v", verb, pods[i].name, err)
		}
	}
}

// distinct wants that no address, socket or interface on the node was given
// twice, and that the cluster network's address is on the pod's eth0.
func (s *site) distinct(pods []*stormPod, results []*types100.Result) {
	s.t.Helper()
	owner := map[string]string{}
	take := func(what, pod string) {
		if other := owner[what]; other != "" {
			s.t.Errorf("%s was given to %s and to %s", what, other, pod)
		}
		owner[what] = pod
	}
	for i, r := range results {
		name := pods[i].name
		if len(r.IPs) != 3 || len(r.Interfaces) != 5 {
			s.t.Errorf("%s: addresses %v, interfaces %v: want three, and a bridge, a veth, eth0, net1 and net2", name, r.IPs, r.Interfaces)
			continue
		}
		for _, ip := range r.IPs {
			take(ip.Address.IP.String(), name)
		}
		take(r.Interfaces[1].Name, name)
		for n, iface := range r.Interfaces[3:] {
			if want := fmt.Sprintf("/%s/%s-net%d", shareddir.OwnName(pods[i].id), pods[i].id, n+1); !strings.HasSuffix(iface.SocketPath, want) {
				s.t.Errorf("%s: socketPath %s, want one that ends with %s", name, iface.SocketPath, want)
			}
			take(iface.SocketPath, name)
		}
		if inside := links(s.t, pods[i].Pod); !strings.Contains(inside, "addr eth0 "+r.IPs[0].Address.String()+"\n") {
			s.t.Errorf("%s: want %s on eth0:\n%s", name, r.IPs[0].Address.String(), inside)
		}
	}
}

// noCrossTalk wants exactly two ports for each pod, each with the marks and the
// socket of its pod, in the bridge of its network, and as the journal of the
// sandbox has it.
func (s *site) noCrossTalk(v *ovs.Switch, pods []*stormPod) {
	s.t.Helper()
	found, err := v.Transact(deadline(s.t), map[string]any{
		"op": "select", "table": "Interface", "where": []any{[]any{"type", "==", "dpdkvhostuserclient"}},
		"columns": []string{"name", "external_ids", "options"},
	})
	must(s.t, err)
	if n := len(found[0].Rows); n != 2*len(pods) {
		s.t.Errorf("OVS has %d vhost-user ports, want %d", n, 2*len(pods))
	}
	ports := map[string]map[string]string{} // by sandbox and interface
	for _, row := range found[0].Rows {
		ids := pairs(row["external_ids"])
		if ids["plexus-owner"] != s.dataDir {
			s.t.Errorf("a port of another test is left: %v", row)
		}
		name := row["name"].(string)
		ports[ids["plexus-sandbox"]+" "+ids["plexus-ifname"]] = map[string]string{
			"port": name, "pod": ids["plexus-pod"], "network": ids["plexus-network"], "socket": pairs(row["options"])["vhost-server-path"],
			"bridge": vsctl(s.t, v, "port-to-br "+name),
		}
	}
	for _, p := range pods {
		var record struct {
			Sandbox      string
			Transactions []struct {
				Phase       string
				Netns       string
				Attachments []struct {
					IfName string
					State  map[string]struct{ Port, Socket string }
				}
			}
		}
		lines := strings.Split(strings.TrimSpace(readFile(s.t, s.journalFile(p.id))), "\n")
		body := lines[len(lines)-1]
		decode(s.t, []byte(body), &record)
		if record.Sandbox != p.id || len(record.Transactions) != 1 || len(record.Transactions[0].Attachments) != 3 ||
			record.Transactions[0].Netns != p.Path() || record.Transactions[0].Phase != "attached" {
			s.t.Errorf("journal of %s: %s", p.name, body)
			continue
		}
		for n, network := range []string{"left", "right"} {
			ifName := fmt.Sprintf("net%d", n+1)
			port := ports[p.id+" "+ifName]
			if port["pod"] != "default/"+p.name || port["network"] != "default/"+network || port["bridge"] != "br-"+network ||
				!strings.Contains(port["socket"], "/"+shareddir.OwnName(p.id)+"/") {
				s.t.Errorf("port of %s, %s: %v", p.name, ifName, port)
			}
			entry := record.Transactions[0].Attachments[n+1]
			if state := entry.State["ovsdpdk"]; entry.IfName != ifName || state.Port != port["port"] || state.Socket != port["socket"] {
				s.t.Errorf("journal of %s has %s with %v, OVS %v", p.name, entry.IfName, state, port)
			}
		}
	}
}

// pairs reads a map of OVSDB (RFC 7047, section 5.1).
func pairs(value any) map[string]string {
	out := map[string]string{}
	outer, _ := value.([]any)
	if len(outer) != 2 {
		return out
	}
	inner, _ := outer[1].([]any)
	for _, pair := range inner {
		if kv, ok := pair.([]any); ok && len(kv) == 2 {
			out[fmt.Sprint(kv[0])] = fmt.Sprint(kv[1])
		}
	}
	return out
}
