package storm

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

const stormPods = 32

// 32 pods are attached at once, one of them by two requests, each to the
// cluster network and two vhost-user networks whose bridges plexus makes with
// the first pod and removes with the last: everyone gets what is theirs, and
// nothing is left when they have all gone at once. Twice over, as the second
// time meets what the first has left.
func TestStormOfExecutables(t *testing.T) {
	storm(t, func(s *site.Site, r site.Request) ([]byte, error) {
		out, _, err := s.Call(r)
		return out, err
	})
}

// The same within one process.
func TestStormInProcess(t *testing.T) {
	storm(t, (*site.Site).InProcess)
}

func storm(t *testing.T, do func(*site.Site, site.Request) ([]byte, error)) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v)
	for i, network := range []string{"left", "right"} {
		s.NAD(network, site.Vhost(v, s, map[string]any{
			"bridge": "br-" + network, "vlan": i + 1,
			"ipam": map[string]any{"type": "host-local", "subnet": fmt.Sprintf("192.168.%d.0/24", 20+i), "dataDir": filepath.Join(s.Dir, "ipam")},
		}))
	}
	var pods []*site.StormPod
	for n := range stormPods {
		p := &site.StormPod{Id: fmt.Sprintf("%012x", 0x570000+n), Name: fmt.Sprintf("storm%d", n)}
		p.Pod = site.NewPod(t, p.Name)
		s.Pod(p.Name, "left, right")
		pods = append(pods, p)
	}
	first := site.Request{Verb: "ADD", Sandbox: pods[0].Id, Netns: pods[0].Path(), Pod: pods[0].Name}
	_, err := do(s, first)
	must.Do(t, err)
	first.Verb = "DEL"
	_, err = do(s, first)
	must.Do(t, err)
	before := s.World(v)

	for range 2 {
		results := addAll(s, pods, do)
		if t.Failed() {
			t.FailNow()
		}
		distinct(s, pods, results)
		noCrossTalk(s, v, pods)
		all(s, pods, "CHECK", do)
		all(s, pods, "DEL", do)
		site.SameWorld(t, before, s.World(v))
		if t.Failed() {
			t.FailNow()
		}
	}
}

// addAll adds all the pods at once, the one in the middle by two requests.
func addAll(s *site.Site, pods []*site.StormPod, do func(*site.Site, site.Request) ([]byte, error)) []*types100.Result {
	s.T.Helper()
	asked := append([]*site.StormPod{}, pods...)
	twice := len(pods) / 2
	asked = append(asked, pods[twice])
	outs, errs := make([][]byte, len(asked)), make([]error, len(asked))
	var group sync.WaitGroup
	for i, p := range asked {
		group.Go(func() {
			outs[i], errs[i] = do(s, site.Request{Verb: "ADD", Sandbox: p.Id, Netns: p.Path(), Pod: p.Name})
		})
	}
	group.Wait()
	last := len(pods)
	switch {
	case errs[twice] == nil && errs[last] == nil:
		s.T.Error("both ADDs of one sandbox succeeded")
	case errs[twice] != nil && errs[last] != nil:
		s.T.Errorf("both ADDs of one sandbox failed: %v; %v", errs[twice], errs[last])
	case errs[twice] != nil:
		outs[twice], errs[twice], errs[last] = outs[last], nil, errs[twice]
	}
	site.Says(s.T, errs[last], pods[twice].Id, "is attached")
	results := make([]*types100.Result, len(pods))
	for i := range pods {
		if errs[i] != nil {
			s.T.Errorf("ADD %s: %v", pods[i].Name, errs[i])
			continue
		}
		results[i] = &types100.Result{}
		must.Decode(s.T, outs[i], results[i])
	}
	return results
}

// all does a verb to all the pods at once.
func all(s *site.Site, pods []*site.StormPod, verb string, do func(*site.Site, site.Request) ([]byte, error)) {
	s.T.Helper()
	errs := make([]error, len(pods))
	var group sync.WaitGroup
	for i, p := range pods {
		group.Go(func() {
			_, errs[i] = do(s, site.Request{Verb: verb, Sandbox: p.Id, Netns: p.Path(), Pod: p.Name})
		})
	}
	group.Wait()
	for i, err := range errs {
		if err != nil {
			s.T.Errorf("%s %s: %v", verb, pods[i].Name, err)
		}
	}
}

// distinct wants that no address, socket or interface on the node was given
// twice, and that the cluster network's address is on the pod's eth0.
func distinct(s *site.Site, pods []*site.StormPod, results []*types100.Result) {
	s.T.Helper()
	owner := map[string]string{}
	take := func(what, pod string) {
		if other := owner[what]; other != "" {
			s.T.Errorf("%s was given to %s and to %s", what, other, pod)
		}
		owner[what] = pod
	}
	for i, r := range results {
		name := pods[i].Name
		if len(r.IPs) != 3 || len(r.Interfaces) != 5 {
			s.T.Errorf("%s: addresses %v, interfaces %v: want three, and a bridge, a veth, eth0, net1 and net2", name, r.IPs, r.Interfaces)
			continue
		}
		for _, ip := range r.IPs {
			take(ip.Address.IP.String(), name)
		}
		take(r.Interfaces[1].Name, name)
		for n, iface := range r.Interfaces[3:] {
			if want := fmt.Sprintf("/%s/%s-net%d", shareddir.OwnName(pods[i].Id), pods[i].Id, n+1); !strings.HasSuffix(iface.SocketPath, want) {
				s.T.Errorf("%s: socketPath %s, want one that ends with %s", name, iface.SocketPath, want)
			}
			take(iface.SocketPath, name)
		}
		if inside := site.Links(s.T, pods[i].Pod); !strings.Contains(inside, "addr eth0 "+r.IPs[0].Address.String()+"\n") {
			s.T.Errorf("%s: want %s on eth0:\n%s", name, r.IPs[0].Address.String(), inside)
		}
	}
}

// noCrossTalk wants exactly two ports for each pod, each with the marks and the
// socket of its pod, in the bridge of its network, and as the journal of the
// sandbox has it.
func noCrossTalk(s *site.Site, v *ovs.Switch, pods []*site.StormPod) {
	s.T.Helper()
	found, err := v.Transact(must.Deadline(s.T), map[string]any{
		"op": "select", "table": "Interface", "where": []any{[]any{"type", "==", "dpdkvhostuserclient"}},
		"columns": []string{"name", "external_ids", "options"},
	})
	must.Do(s.T, err)
	if n := len(found[0].Rows); n != 2*len(pods) {
		s.T.Errorf("OVS has %d vhost-user ports, want %d", n, 2*len(pods))
	}
	ports := map[string]map[string]string{} // by sandbox and interface
	for _, row := range found[0].Rows {
		ids := pairs(row["external_ids"])
		if ids["plexus-owner"] != s.DataDir {
			s.T.Errorf("a port of another test is left: %v", row)
		}
		name := row["name"].(string)
		ports[ids["plexus-sandbox"]+" "+ids["plexus-ifname"]] = map[string]string{
			"port": name, "pod": ids["plexus-pod"], "network": ids["plexus-network"], "socket": pairs(row["options"])["vhost-server-path"],
			"bridge": site.Vsctl(s.T, v, "port-to-br "+name),
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
		lines := strings.Split(strings.TrimSpace(must.ReadFile(s.T, s.JournalFile(p.Id))), "\n")
		body := lines[len(lines)-1]
		must.Decode(s.T, []byte(body), &record)
		if record.Sandbox != p.Id || len(record.Transactions) != 1 || len(record.Transactions[0].Attachments) != 3 ||
			record.Transactions[0].Netns != p.Path() || record.Transactions[0].Phase != "attached" {
			s.T.Errorf("journal of %s: %s", p.Name, body)
			continue
		}
		for n, network := range []string{"left", "right"} {
			ifName := fmt.Sprintf("net%d", n+1)
			port := ports[p.Id+" "+ifName]
			if port["pod"] != "default/"+p.Name || port["network"] != "default/"+network || port["bridge"] != "br-"+network ||
				!strings.Contains(port["socket"], "/"+shareddir.OwnName(p.Id)+"/") {
				s.T.Errorf("port of %s, %s: %v", p.Name, ifName, port)
			}
			entry := record.Transactions[0].Attachments[n+1]
			if state := entry.State["ovsdpdk"]; entry.IfName != ifName || state.Port != port["port"] || state.Socket != port["socket"] {
				s.T.Errorf("journal of %s has %s with %v, OVS %v", p.Name, entry.IfName, state, port)
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
