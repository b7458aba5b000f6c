package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// change is a change of a running pod's networks, done by a process of its own:
// this test's executable with changeEnv set.
type change struct {
	DataDir, Manifests, Sandbox string
	Pod, UID, Networks, Status  string
	Kind                        string // fail, kill or none
	At                          int    // at which step
}

type changed_ struct {
	Steps []string
	Did   *engine.Change
	Error string
}

const changeEnv = "PLEXUS_TEST_CHANGE"

func init() {
	if text := os.Getenv(changeEnv); text != "" {
		_ = os.Unsetenv(changeEnv) // of the plugins that it executes, which may be this executable
		os.Exit(changeProcess(text))
	}
}

func changeProcess(text string) int {
	var c change
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	var out changed_
	ctx := delegates.WithSteps(context.Background(), func(step string) error {
		out.Steps = append(out.Steps, step)
		if len(out.Steps) != c.At {
			return nil
		}
		if c.Kind == "kill" {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return fmt.Errorf("injected failure at step %d, %s", c.At, step)
	})
	e := updateEngine(c.DataDir, c.Manifests)
	defer e.Close()
	did, err := e.Update(ctx, c.Sandbox, &conf.Pod{Namespace: "default", Name: c.Pod, UID: c.UID, Annotations: map[string]string{
		conf.NetworksAnnotation: c.Networks, conf.NetworkStatusAnnotation: c.Status,
	}})
	out.Did = did
	if err != nil {
		out.Error = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 2
	}
	return 0
}

// updateEngine is the agent's engine, whose pods and networks are in a folder.
func updateEngine(dataDir, manifests string) *engine.Engine {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return &engine.Engine{
		Delegates: engine.Builtin(log), Source: &kube.Manifests{Dir: manifests}, Journal: journal.Open(dataDir), Log: log, Stderr: os.Stderr,
	}
}

// update changes what a pod asks for. It returns the steps; none when it was
// killed, which is no error.
func (s *site) update(sandbox, pod, networks, kind string, at int) (changed_, error) {
	s.t.Helper()
	status := ""
	if data, err := os.ReadFile(filepath.Join(s.manifests, pod+".status.json")); err == nil {
		var file struct {
			Metadata struct{ Annotations map[string]string }
		}
		decode(s.t, data, &file)
		status = file.Metadata.Annotations[conf.NetworkStatusAnnotation]
	}
	return s.updateBeside(sandbox, pod, networks, status, kind, at)
}

func (s *site) updateBeside(sandbox, pod, networks, status, kind string, at int) (changed_, error) {
	s.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), changeEnv+"="+string(jsonOf(s.t, change{s.dataDir, s.manifests, sandbox, pod, "", networks, status, kind, at})))
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return changed_{}, nil
	}
	if err != nil {
		s.t.Fatalf("change: %v: %s", err, &stderr)
	}
	var done changed_
	decode(s.t, out.Bytes(), &done)
	if done.Error != "" {
		err = errors.New(done.Error)
	}
	return done, err
}

func (s *site) mustUpdate(sandbox, pod, networks string) changed_ {
	s.t.Helper()
	done, err := s.update(sandbox, pod, networks, "none", 0)
	if err != nil {
		s.t.Fatalf("change of %s to %q: %v", pod, networks, err)
	}
	return done
}

// reconcile is what the agent does when it begins.
func (s *site) reconcile(sandbox string) []engine.Finding {
	s.t.Helper()
	e := updateEngine(s.dataDir, s.manifests)
	defer e.Close()
	found, err := e.Reconcile(deadline(s.t), sandbox)
	if err != nil {
		s.t.Fatalf("reconcile: %v", err)
	}
	return found
}

// journalled are the attachments of a sandbox in the journal, "interface=network",
// with the phase of those that come or go.
func (s *site) journalled(sandbox string) []string {
	s.t.Helper()
	rec, err := journal.Open(s.dataDir).Read(sandbox)
	must(s.t, err)
	var list []string
	if rec == nil {
		return nil
	}
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			one := entry.IfName + "=" + entry.Name
			if entry.Phase != "" {
				one += " (" + string(entry.Phase) + ")"
			}
			list = append(list, one)
		}
	}
	return list
}

// told are the elements of a pod's network-status, "interface=network".
func (s *site) told(pod string) []string {
	s.t.Helper()
	var list []string
	for _, status := range s.statusOf(pod) {
		list = append(list, status.Interface+"="+status.Name)
	}
	return list
}

func (s *site) statusOf(pod string) []conf.NetworkStatus {
	s.t.Helper()
	var file struct {
		Metadata struct{ Annotations map[string]string }
	}
	decode(s.t, []byte(readFile(s.t, filepath.Join(s.manifests, pod+".status.json"))), &file)
	var list []conf.NetworkStatus
	decode(s.t, []byte(file.Metadata.Annotations[conf.NetworkStatusAnnotation]), &list)
	return list
}

// linkNames are the interfaces in a pod.
func linkNames(t testing.TB, p *node.Pod) []string {
	t.Helper()
	var list []string
	for line := range strings.Lines(links(t, p)) {
		if words := strings.Fields(line); words[0] == "link" && words[1] != "lo" {
			list = append(list, words[1])
		}
	}
	slices.Sort(list)
	return list
}

func wants(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: have %q, want %q", what, got, want)
	}
}

// plugSite has a bridge cluster network, two bridge networks a and b, and with a
// vswitch two vhost-user networks u and v.
func plugSite(t testing.TB, v *ovs.Switch) *site {
	t.Helper()
	s := newSite(t, nil)
	s = s.withConf(map[string]any{"delegates": []any{clusterBridge(filepath.Join(s.dir, "ipam"))}, "confDir": nil})
	for i, name := range []string{"a", "b"} {
		s.nad(name, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{
			plugin("bridge", map[string]any{"bridge": "cni-" + name, "isGateway": true, "ipam": s.hostLocal(fmt.Sprintf("10.7%d.0.0/24", i))}),
			plugin("tuning", map[string]any{"mtu": 1400}),
		}})
	}
	if v != nil {
		for i, name := range []string{"u", "w"} {
			s.nad(name, vhost(v, s, map[string]any{"bridge": "br-" + name, "ipam": map[string]any{"type": "host-local", "subnet": fmt.Sprintf("192.168.%d.0/24", 40+i), "dataDir": filepath.Join(s.dir, "ipam")}}))
		}
		t.Cleanup(func() {
			if t.Failed() {
				_ = s.gc()
			}
		})
	}
	// The bridges and the folders that stay are there from the first pod on.
	p := newPod(t, "plugwarm")
	all := "a,b"
	if v != nil {
		all += ",u,w"
	}
	s.pod("plugwarm", all)
	s.mustAdd("plugwarm0", p, "plugwarm")
	s.mustDel("plugwarm0", p, "plugwarm")
	must(t, p.Close())
	return s
}

const plugSandbox = "fedcba9876543210"

// Networks come, go and are replaced; those that stay are not touched, and keep
// their names; everyone can be checked, and DEL leaves nothing.
func TestUpdate(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "a")
	before, inside := s.world(nil), links(t, p)
	s.mustAdd(plugSandbox, p, "plug")
	first := s.statusOf("plug")[1]
	for _, c := range []struct{ networks, did, have string }{
		{"a, b", "attached net2 (default/b)", "eth0=cluster net1=default/a net2=default/b"},
		{"a, b, b", "attached net3 (default/b)", "eth0=cluster net1=default/a net2=default/b net3=default/b"},
		{"b, a", "detached net3 (default/b)", "eth0=cluster net1=default/a net2=default/b"},
		{"b, a@x", "detached net1 (default/a); attached x (default/a)", "eth0=cluster net2=default/b x=default/a"},
		{"b@net1, a@x", "detached net2 (default/b); attached net1 (default/b)", "eth0=cluster x=default/a net1=default/b"},
		{"b@x, a@net1", "detached x (default/a), net1 (default/b); attached x (default/b), net1 (default/a)", "eth0=cluster x=default/b net1=default/a"},
		{"", "detached x (default/b), net1 (default/a)", "eth0=cluster"},
		{"a", "attached net1 (default/a)", "eth0=cluster net1=default/a"},
		{`[{"name": "a"}, {"name": "b", "interface": "net2"}]`, "attached net2 (default/b)", "eth0=cluster net1=default/a net2=default/b"},
	} {
		done := s.mustUpdate(plugSandbox, "plug", c.networks)
		if done.Did == nil || done.Did.String() != c.did {
			t.Errorf("%q: did %v, want %s", c.networks, done.Did, c.did)
		}
		want := strings.Fields(c.have)
		wants(t, c.networks+": journal", s.journalled(plugSandbox), want...)
		wants(t, c.networks+": status", s.told("plug"), want...)
		var names []string
		for _, one := range want {
			name, _, _ := strings.Cut(one, "=")
			names = append(names, name)
		}
		slices.Sort(names)
		wants(t, c.networks+": pod", linkNames(t, p), names...)
		s.mustCheck(plugSandbox, p, "plug")
		if again := s.mustUpdate(plugSandbox, "plug", c.networks); again.Did != nil || len(again.Steps) != 0 {
			t.Errorf("%q again: %+v", c.networks, again)
		}
		if c.networks == "a, b, b" {
			if now := s.statusOf("plug")[1]; now.IPs[0] != first.IPs[0] || now.MAC != first.MAC {
				t.Errorf("net1 is %v, was %v: it was not to be touched", now, first)
			}
		}
	}
	s.mustDel(plugSandbox, p, "plug")
	sameWorld(t, before, s.world(nil))
	sameWorld(t, inside, links(t, p))
}

// What cannot be planned changes nothing, and the error names object and cause.
func TestUpdateThatCannotBe(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "a")
	for name, keys := range map[string]map[string]any{
		"broken": {"type": "no-such-plugin"},
		"host":   {"type": "host-device", "capabilities": map[string]bool{"deviceID": true}},
		"vf":     {"type": "sriov", "pf": "nic0", "deviceID": "0000:01:10.0"},
		"open":   {"type": "sriov", "pf": "nic0"},
		"nested": {"type": "multus", "binDir": s.dir},
	} {
		keys["cniVersion"], keys["name"] = "1.1.0", name
		s.nad(name, keys)
	}
	s.mustAdd(plugSandbox, p, "plug")
	inPod(t, p, "ip link add theirs type veth peer name net2")
	before, inside := s.world(nil), links(t, p)
	for networks, part := range map[string]string{
		"nowhere": "default/nowhere does not exist", "a, nowhere/b": "nowhere/b", "{": "k8s.v1.cni.cncf.io/networks", "a@": "a@", `[{"name": "a", "nmae": "x"}]`: "", "a, b@eth0": "eth0", "a, b@theirs": "theirs",
		"a, b@net1": "net1", "b@q, b@q": "q", "a, b@../x": "../x", "a, broken": "no-such-plugin", `[{"name": "b", "default-route": ["x"]}]`: "default-route", `[{"name": "b", "interface": 7}]`: "interface",
		"a, b@averyveryverylongname": "averyvery", `[{"name":"a","default-route":["10.70.0.1"]},{"name":"b","default-route":["10.71.0.1"]}]`: "default route",
		`[{"name": "host", "deviceID": "0000:00:03.0"}]`: `key "deviceID": "0000:00:03.0": a pod cannot choose`, `[{"name": "vf", "deviceID": "0000:00:03.0"}]`: "its own \"deviceID\"",
		`[{"name": "a"}, {"name": "open", "deviceID": "0000:ff:1f.7"}]`: "no such PCI device", `[{"name": "host", "cni-args": {"deviceID": "0000:00:03.0"}}]`: "cni-args", "a, nested": "takes Multus' place",
	} {
		if done, err := s.update(plugSandbox, "plug", networks, "none", 0); err == nil || !strings.Contains(err.Error(), part) {
			if part == "" && err == nil { // a key that is not known may be passed over
				s.mustUpdate(plugSandbox, "plug", "a")
				continue
			}
			t.Errorf("%q: %v, did %v; want an error that says %q", networks, err, done.Did, part)
		}
		sameWorld(t, before, s.world(nil))
		sameWorld(t, inside, links(t, p))
	}
	wants(t, "journal", s.journalled(plugSandbox), "eth0=cluster", "net1=default/a")
	// A name that a foreign link has is passed over where the pod names none.
	s.mustUpdate(plugSandbox, "plug", "a, b")
	wants(t, "journal", s.journalled(plugSandbox), "eth0=cluster", "net1=default/a", "net3=default/b")
	s.mustDel(plugSandbox, p, "plug")
	wants(t, "pod", linkNames(t, p), "net2", "theirs")
}

// DEL alone, without the agent's recovery, undoes a change that was killed.
func TestDelAfterAKilledUpdate(t *testing.T) {
	v := startOVS(t)
	s := plugSite(t, v)
	p := newPod(t, "plug")
	s.pod("plug", "a, u")
	before, inside := s.world(v), links(t, p)
	for at := 1; ; at++ {
		s.mustAdd(plugSandbox, p, "plug")
		done, err := s.update(plugSandbox, "plug", "w, b", "kill", at)
		must(t, err)
		s.mustDel(plugSandbox, p, "plug")
		sameWorld(t, before, s.world(v))
		sameWorld(t, inside, links(t, p))
		if t.Failed() {
			t.Fatalf("after a kill at step %d", at)
		}
		if done.Did != nil {
			t.Logf("killed at %d steps", at-1)
			return
		}
	}
}

// What others have written into the pod's status stays; what plexus has written
// of what is gone does not come back.
func TestUpdateKeepsWhatOthersTold(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "a")
	s.mustAdd(plugSandbox, p, "plug")
	own := s.statusOf("plug")
	s.mustUpdate(plugSandbox, "plug", "a, b")
	foreign := `{"name":"others/net","interface":"ext0","ips":["192.0.2.7"],"x-more":{"deep":[1]}}`
	stale := append(slices.Clone(own), s.statusOf("plug")...) // as an old copy has them, twice
	var list []json.RawMessage
	for _, one := range stale {
		list = append(list, jsonOf(t, one))
	}
	list = append(list, json.RawMessage(foreign), json.RawMessage(`7`), json.RawMessage(`null`))
	_, err := s.updateBeside(plugSandbox, "plug", "b", string(jsonOf(t, list)), "none", 0)
	must(t, err)
	got := s.told("plug")
	if !slices.Contains(got, "ext0=others/net") || slices.Contains(got, "net1=default/a") || !slices.Equal(got[:2], []string{"eth0=cluster", "net2=default/b"}) {
		t.Errorf("status %q", got)
	}
	if text := readFile(t, filepath.Join(s.manifests, "plug.status.json")); !strings.Contains(text, `x-more`) {
		t.Errorf("a foreign element lost keys: %s", text)
	}
	for _, status := range []string{"{", "null", "{}", `"x"`, ""} { // hostile ones
		_, err := s.updateBeside(plugSandbox, "plug", "b, a", status, "none", 0)
		must(t, err)
		_, err = s.updateBeside(plugSandbox, "plug", "b", status, "none", 0)
		must(t, err)
		wants(t, "status", s.told("plug"), "eth0=cluster", "net2=default/b")
	}
	s.mustDel(plugSandbox, p, "plug")
}

// Changes and a DEL come at the same time: whoever is first, nothing is left.
func TestUpdateBesideDel(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "a")
	before, inside := s.world(nil), links(t, p)
	for round := range 8 {
		s.mustAdd(plugSandbox, p, "plug")
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() {
				if _, err := s.update(plugSandbox, "plug", []string{"b", "a, b", ""}[(i+round)%3], "none", 0); err != nil {
					t.Errorf("change: %v", err)
				}
			})
		}
		group.Go(func() { s.mustDel(plugSandbox, p, "plug") })
		group.Wait()
		sameWorld(t, before, s.world(nil))
		sameWorld(t, inside, links(t, p))
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// A record without a configuration, one that was taken over from another
// meta-plugin, is left as it is; so is another pod's, and one whose DEL has begun.
func TestUpdateOfWhatIsNotItsOwn(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "a")
	s.mustAdd(plugSandbox, p, "plug")
	j := journal.Open(s.dataDir)
	for name, change := range map[string]func(*journal.Transaction){
		"no configuration": func(tx *journal.Transaction) { tx.Conf = nil },
		"no pod":           func(tx *journal.Transaction) { tx.Pod = nil },
		"another pod":      func(tx *journal.Transaction) { tx.Pod.UID = "other" },
		"removing":         func(tx *journal.Transaction) { tx.Phase = journal.PhaseRemoving },
		"adding":           func(tx *journal.Transaction) { tx.Phase = journal.PhaseAdding },
	} {
		rec, err := j.Read(plugSandbox)
		must(t, err)
		change(rec.Transactions[0])
		whole := readFile(t, s.journalFile(plugSandbox))
		must(t, j.Write(t.Context(), rec))
		before, inside := s.world(nil), links(t, p)
		if done := s.mustUpdate(plugSandbox, "plug", "b"); done.Did != nil || len(done.Steps) > 0 {
			t.Errorf("%s: did %+v", name, done)
		}
		sameWorld(t, before, s.world(nil))
		sameWorld(t, inside, links(t, p))
		writeFile(t, s.journalFile(plugSandbox), whole)
	}
	s.mustDel(plugSandbox, p, "plug")
}

// Names are given once, the explicit ones first.
func TestUpdateNames(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "")
	s.mustAdd(plugSandbox, p, "plug")
	s.mustUpdate(plugSandbox, "plug", "a, b@net1, a, b@net3")
	wants(t, "journal", s.journalled(plugSandbox), "eth0=cluster", "net2=default/a", "net1=default/b", "net4=default/a", "net3=default/b")
	s.mustDel(plugSandbox, p, "plug")
}
