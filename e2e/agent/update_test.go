package agent

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
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
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
func update(s *site.Site, sandbox, pod, networks, kind string, at int) (changed_, error) {
	s.T.Helper()
	status := ""
	if data, err := os.ReadFile(filepath.Join(s.Manifests, pod+".status.json")); err == nil {
		var file struct {
			Metadata struct{ Annotations map[string]string }
		}
		must.Decode(s.T, data, &file)
		status = file.Metadata.Annotations[conf.NetworkStatusAnnotation]
	}
	return updateBeside(s, sandbox, pod, networks, status, kind, at)
}

func updateBeside(s *site.Site, sandbox, pod, networks, status, kind string, at int) (changed_, error) {
	s.T.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), changeEnv+"="+string(must.JSON(s.T, change{s.DataDir, s.Manifests, sandbox, pod, "", networks, status, kind, at})))
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return changed_{}, nil
	}
	if err != nil {
		s.T.Fatalf("change: %v: %s", err, &stderr)
	}
	var done changed_
	must.Decode(s.T, out.Bytes(), &done)
	if done.Error != "" {
		err = errors.New(done.Error)
	}
	return done, err
}

func mustUpdate(s *site.Site, sandbox, pod, networks string) changed_ {
	s.T.Helper()
	done, err := update(s, sandbox, pod, networks, "none", 0)
	if err != nil {
		s.T.Fatalf("change of %s to %q: %v", pod, networks, err)
	}
	return done
}

// reconcile is what the agent does when it begins.
func reconcile(s *site.Site, sandbox string) []engine.Finding {
	s.T.Helper()
	e := updateEngine(s.DataDir, s.Manifests)
	defer e.Close()
	found, err := e.Reconcile(must.Deadline(s.T), sandbox, nil)
	if err != nil {
		s.T.Fatalf("reconcile: %v", err)
	}
	return found
}

// journalled are the attachments of a sandbox in the journal, "interface=network",
// with the phase of those that come or go.
func journalled(s *site.Site, sandbox string) []string {
	s.T.Helper()
	rec, err := journal.Open(s.DataDir).Read(sandbox)
	must.Do(s.T, err)
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
func told(s *site.Site, pod string) []string {
	s.T.Helper()
	var list []string
	for _, status := range statusOf(s, pod) {
		list = append(list, status.Interface+"="+status.Name)
	}
	return list
}

func statusOf(s *site.Site, pod string) []conf.NetworkStatus {
	s.T.Helper()
	var file struct {
		Metadata struct{ Annotations map[string]string }
	}
	must.Decode(s.T, []byte(must.ReadFile(s.T, filepath.Join(s.Manifests, pod+".status.json"))), &file)
	var list []conf.NetworkStatus
	must.Decode(s.T, []byte(file.Metadata.Annotations[conf.NetworkStatusAnnotation]), &list)
	return list
}

// linkNames are the interfaces in a pod.
func linkNames(t testing.TB, p *node.Pod) []string {
	t.Helper()
	var list []string
	for line := range strings.Lines(site.Links(t, p)) {
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
func plugSite(t testing.TB, v *ovs.Switch) *site.Site {
	t.Helper()
	s := site.New(t, nil)
	s = s.With(map[string]any{"delegates": []any{site.ClusterBridge(filepath.Join(s.Dir, "ipam"))}, "confDir": nil})
	for i, name := range []string{"a", "b"} {
		s.NAD(name, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{
			site.Plugin("bridge", map[string]any{"bridge": "cni-" + name, "isGateway": true, "ipam": s.HostLocal(fmt.Sprintf("10.7%d.0.0/24", i))}),
			site.Plugin("tuning", map[string]any{"mtu": 1400}),
		}})
	}
	if v != nil {
		for i, name := range []string{"u", "w"} {
			s.NAD(name, site.Vhost(v, s, map[string]any{"bridge": "br-" + name, "ipam": map[string]any{"type": "host-local", "subnet": fmt.Sprintf("192.168.%d.0/24", 40+i), "dataDir": filepath.Join(s.Dir, "ipam")}}))
		}
		t.Cleanup(func() {
			if t.Failed() {
				_ = s.GC()
			}
		})
	}
	// The bridges and the folders that stay are there from the first pod on.
	p := site.NewPod(t, "plugwarm")
	all := "a,b"
	if v != nil {
		all += ",u,w"
	}
	s.Pod("plugwarm", all)
	s.MustAdd("plugwarm0", p, "plugwarm")
	s.MustDel("plugwarm0", p, "plugwarm")
	must.Do(t, p.Close())
	return s
}

const plugSandbox = "fedcba9876543210"

// Networks come, go and are replaced; those that stay are not touched, and keep
// their names; everyone can be checked, and DEL leaves nothing.
func TestUpdate(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	before, inside := s.World(nil), site.Links(t, p)
	s.MustAdd(plugSandbox, p, "plug")
	first := statusOf(s, "plug")[1]
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
		done := mustUpdate(s, plugSandbox, "plug", c.networks)
		if done.Did == nil || done.Did.String() != c.did {
			t.Errorf("%q: did %v, want %s", c.networks, done.Did, c.did)
		}
		want := strings.Fields(c.have)
		wants(t, c.networks+": journal", journalled(s, plugSandbox), want...)
		wants(t, c.networks+": status", told(s, "plug"), want...)
		var names []string
		for _, one := range want {
			name, _, _ := strings.Cut(one, "=")
			names = append(names, name)
		}
		slices.Sort(names)
		wants(t, c.networks+": pod", linkNames(t, p), names...)
		s.MustCheck(plugSandbox, p, "plug")
		if again := mustUpdate(s, plugSandbox, "plug", c.networks); again.Did != nil || len(again.Steps) != 0 {
			t.Errorf("%q again: %+v", c.networks, again)
		}
		if c.networks == "a, b, b" {
			if now := statusOf(s, "plug")[1]; now.IPs[0] != first.IPs[0] || now.MAC != first.MAC {
				t.Errorf("net1 is %v, was %v: it was not to be touched", now, first)
			}
		}
	}
	s.MustDel(plugSandbox, p, "plug")
	site.SameWorld(t, before, s.World(nil))
	site.SameWorld(t, inside, site.Links(t, p))
}

// What cannot be planned changes nothing, and the error names object and cause.
func TestUpdateThatCannotBe(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	for name, keys := range map[string]map[string]any{
		"broken": {"type": "no-such-plugin"},
		"host":   {"type": "host-device", "capabilities": map[string]bool{"deviceID": true}},
		"vf":     {"type": "sriov", "pf": "nic0", "deviceID": "0000:01:10.0"},
		"open":   {"type": "sriov", "pf": "nic0"},
		"nested": {"type": "multus", "binDir": s.Dir},
	} {
		keys["cniVersion"], keys["name"] = "1.1.0", name
		s.NAD(name, keys)
	}
	s.MustAdd(plugSandbox, p, "plug")
	site.InPod(t, p, "ip link add theirs type veth peer name net2")
	before, inside := s.World(nil), site.Links(t, p)
	for networks, part := range map[string]string{
		"nowhere": "default/nowhere does not exist", "a, nowhere/b": "nowhere/b", "{": "k8s.v1.cni.cncf.io/networks", "a@": "a@", `[{"name": "a", "nmae": "x"}]`: "", "a, b@eth0": "eth0", "a, b@theirs": "theirs",
		"a, b@net1": "net1", "b@q, b@q": "q", "a, b@../x": "../x", "a, broken": "no-such-plugin", `[{"name": "b", "default-route": ["x"]}]`: "default-route", `[{"name": "b", "interface": 7}]`: "interface",
		"a, b@averyveryverylongname": "averyvery", `[{"name":"a","default-route":["10.70.0.1"]},{"name":"b","default-route":["10.71.0.1"]}]`: "default route",
		`[{"name": "host", "deviceID": "0000:00:03.0"}]`: `key "deviceID": "0000:00:03.0": a pod cannot choose`, `[{"name": "vf", "deviceID": "0000:00:03.0"}]`: "its own \"deviceID\"",
		`[{"name": "a"}, {"name": "open", "deviceID": "0000:ff:1f.7"}]`: "no such PCI device", `[{"name": "host", "cni-args": {"deviceID": "0000:00:03.0"}}]`: "cni-args", "a, nested": "takes Multus' place",
	} {
		if done, err := update(s, plugSandbox, "plug", networks, "none", 0); err == nil || !strings.Contains(err.Error(), part) {
			if part == "" && err == nil { // a key that is not known may be passed over
				mustUpdate(s, plugSandbox, "plug", "a")
				continue
			}
			t.Errorf("%q: %v, did %v; want an error that says %q", networks, err, done.Did, part)
		}
		site.SameWorld(t, before, s.World(nil))
		site.SameWorld(t, inside, site.Links(t, p))
	}
	wants(t, "journal", journalled(s, plugSandbox), "eth0=cluster", "net1=default/a")
	// A name that a foreign link has is passed over where the pod names none.
	mustUpdate(s, plugSandbox, "plug", "a, b")
	wants(t, "journal", journalled(s, plugSandbox), "eth0=cluster", "net1=default/a", "net3=default/b")
	s.MustDel(plugSandbox, p, "plug")
	wants(t, "pod", linkNames(t, p), "net2", "theirs")
}

// DEL alone, without the agent's recovery, undoes a change that was killed.
func TestDelAfterAKilledUpdate(t *testing.T) {
	v := site.OVS(t)
	s := plugSite(t, v)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a, u")
	before, inside := s.World(v), site.Links(t, p)
	for at := 1; ; at++ {
		s.MustAdd(plugSandbox, p, "plug")
		done, err := update(s, plugSandbox, "plug", "w, b", "kill", at)
		must.Do(t, err)
		s.MustDel(plugSandbox, p, "plug")
		site.SameWorld(t, before, s.World(v))
		site.SameWorld(t, inside, site.Links(t, p))
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
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	s.MustAdd(plugSandbox, p, "plug")
	own := statusOf(s, "plug")
	mustUpdate(s, plugSandbox, "plug", "a, b")
	foreign := `{"name":"others/net","interface":"ext0","ips":["192.0.2.7"],"x-more":{"deep":[1]}}`
	stale := append(slices.Clone(own), statusOf(s, "plug")...) // as an old copy has them, twice
	var list []json.RawMessage
	for _, one := range stale {
		list = append(list, must.JSON(t, one))
	}
	list = append(list, json.RawMessage(foreign), json.RawMessage(`7`), json.RawMessage(`null`))
	_, err := updateBeside(s, plugSandbox, "plug", "b", string(must.JSON(t, list)), "none", 0)
	must.Do(t, err)
	got := told(s, "plug")
	if !slices.Contains(got, "ext0=others/net") || slices.Contains(got, "net1=default/a") || !slices.Equal(got[:2], []string{"eth0=cluster", "net2=default/b"}) {
		t.Errorf("status %q", got)
	}
	if text := must.ReadFile(t, filepath.Join(s.Manifests, "plug.status.json")); !strings.Contains(text, `x-more`) {
		t.Errorf("a foreign element lost keys: %s", text)
	}
	for _, status := range []string{"{", "null", "{}", `"x"`, ""} { // hostile ones
		_, err := updateBeside(s, plugSandbox, "plug", "b, a", status, "none", 0)
		must.Do(t, err)
		_, err = updateBeside(s, plugSandbox, "plug", "b", status, "none", 0)
		must.Do(t, err)
		wants(t, "status", told(s, "plug"), "eth0=cluster", "net2=default/b")
	}
	s.MustDel(plugSandbox, p, "plug")
}

// Changes and a DEL come at the same time: whoever is first, nothing is left.
func TestUpdateBesideDel(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	before, inside := s.World(nil), site.Links(t, p)
	for round := range 8 {
		s.MustAdd(plugSandbox, p, "plug")
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() {
				if _, err := update(s, plugSandbox, "plug", []string{"b", "a, b", ""}[(i+round)%3], "none", 0); err != nil {
					t.Errorf("change: %v", err)
				}
			})
		}
		group.Go(func() { s.MustDel(plugSandbox, p, "plug") })
		group.Wait()
		site.SameWorld(t, before, s.World(nil))
		site.SameWorld(t, inside, site.Links(t, p))
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// A record without a configuration, one that was taken over from another
// meta-plugin, is left as it is; so is another pod's, and one whose DEL has begun.
func TestUpdateOfWhatIsNotItsOwn(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	s.MustAdd(plugSandbox, p, "plug")
	j := journal.Open(s.DataDir)
	for name, change := range map[string]func(*journal.Transaction){
		"no configuration": func(tx *journal.Transaction) { tx.Conf = nil },
		"no pod":           func(tx *journal.Transaction) { tx.Pod = nil },
		"another pod":      func(tx *journal.Transaction) { tx.Pod.UID = "other" },
		"removing":         func(tx *journal.Transaction) { tx.Phase = journal.PhaseRemoving },
		"adding":           func(tx *journal.Transaction) { tx.Phase = journal.PhaseAdding },
	} {
		rec, err := j.Read(plugSandbox)
		must.Do(t, err)
		change(rec.Transactions[0])
		whole := must.ReadFile(t, s.JournalFile(plugSandbox))
		must.Do(t, j.Write(t.Context(), rec))
		before, inside := s.World(nil), site.Links(t, p)
		if done := mustUpdate(s, plugSandbox, "plug", "b"); done.Did != nil || len(done.Steps) > 0 {
			t.Errorf("%s: did %+v", name, done)
		}
		site.SameWorld(t, before, s.World(nil))
		site.SameWorld(t, inside, site.Links(t, p))
		must.WriteFile(t, s.JournalFile(plugSandbox), whole)
	}
	s.MustDel(plugSandbox, p, "plug")
}

// Names are given once, the explicit ones first.
func TestUpdateNames(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "")
	s.MustAdd(plugSandbox, p, "plug")
	mustUpdate(s, plugSandbox, "plug", "a, b@net1, a, b@net3")
	wants(t, "journal", journalled(s, plugSandbox), "eth0=cluster", "net2=default/a", "net1=default/b", "net4=default/a", "net3=default/b")
	s.MustDel(plugSandbox, p, "plug")
}
