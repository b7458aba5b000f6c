package engine

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// addAs adds the pod's networks to another sandbox, with no pod behind it but its name.
func (n *node) addAs(sandbox, networks string) *Request {
	n.t.Helper()
	r := n.request(networks)
	r.Sandbox = sandbox
	if _, err := n.Add(n.t.Context(), r); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// GC undoes what is stale, leaves what the runtime knows and what is damaged, and tells
// executed plugins what is valid. TestGCSkipsLockedSandboxes is about what is locked.
func TestGCWithTheToy(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.api.noPlace = true
	for _, sandbox := range []string{"valid", "stale", "damaged"} {
		n.addAs(sandbox, "between")
	}
	if err := os.WriteFile(n.Journal.File("damaged"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := n.request("")
	if err := n.GC(t.Context(), r, []types.GCAttachment{{ContainerID: "valid", IfName: "eth0"}}); err != nil {
		t.Error(err)
	}
	compareLines(t, "ports", n.world.Ports(), []string{switchA + " damaged-net1", switchA + " valid-net1"})
	var given struct {
		Valid []types.GCAttachment `json:"cni.dev/valid-attachments"`
	}
	data, err := os.ReadFile(filepath.Join(n.dir, "bin", "gc-last"))
	if err == nil {
		err = json.Unmarshal(data, &given)
	}
	if err != nil {
		t.Fatal(err)
	}
	var sandboxes []string
	for _, a := range given.Valid {
		sandboxes = append(sandboxes, a.ContainerID)
	}
	slices.Sort(sandboxes)
	compareLines(t, "valid for plugin last", sandboxes, []string{"damaged", "valid"})
	n.world.Fail("detach", "net1", errors.New("it is busy"))
	says(t, n.GC(t.Context(), r, nil), "sandbox valid: undo net1 (network default/between): toy: it is busy")
	n.world.Fail("detach", "net1", nil)
	n.failPlugin("GC", "last", true)
	says(t, n.GC(t.Context(), r, nil), "network between", "last was told to fail")
}

// The record of a sandbox is lost: DEL finds its ports by their marks, at the endpoints that
// the node's configuration allows, and its lists in libcni's cache.
func TestSalvage(t *testing.T) {
	t.Parallel()
	for _, keepCache := range []bool{true, false} {
		n := newNode(t)
		r := n.mustAdd("static,script,other")
		n.api.ask("")
		n.addAs("another", "bare")
		if err := os.Remove(n.Journal.File(r.Sandbox)); err != nil {
			t.Fatal(err)
		}
		if !keepCache {
			if err := os.RemoveAll(filepath.Join(n.dir, "results")); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Del(t.Context(), r); err != nil {
			t.Errorf("with cache %v: %v", keepCache, err)
		}
		compareLines(t, "ports", append(n.world.Ports(), n.other.Ports()...), []string{switchA + " another-net1"})
		if got := n.log(); !slices.Contains(got, "DEL cluster eth0") || slices.Contains(got, "DEL addresses net2") != keepCache {
			t.Errorf("with cache %v: executed %q", keepCache, got)
		}
		if place := len(n.api.published()); place != 0 {
			t.Errorf("%d network-status are left", place)
		}
	}
}

// The journal file is not usable: DEL undoes by marks, sets the file aside and says so; the
// next DEL succeeds.
func TestSalvageOfADamagedFile(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.mustAdd("probed,bare")
	if err := os.WriteFile(n.Journal.File(r.Sandbox), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.world.SetAway(switchB, true) // it is logged alone
	says(t, n.Del(t.Context(), r), "is kept as", "eth0 (cluster)", "The next DEL succeeds")
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	compareLines(t, "left", n.left(), []string{"damaged/" + r.Sandbox + ".json"})
}

// A sandbox that is not recorded and has the network namespace of one that is: nothing is
// looked for in that.
func TestSalvageInTheNamespaceOfAnother(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addAs("another", "bare")
	r := n.request("")
	r.Sandbox = "unknown"
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	compareLines(t, "executed", n.log(), []string{"ADD cluster another eth0", "DEL cluster unknown eth0"})
	r.Conf.ClusterNetwork = "nad" // not in the node's files: it is not looked for
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	if got := n.log(); len(got) != 2 {
		t.Errorf("executed %q", got)
	}
}

// A cluster network whose plugin is not there any more has nothing to undo without a record.
func TestDelOfNothingWithoutThePlugin(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if err := os.Remove(filepath.Join(n.dir, "bin", "cluster")); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), n.request("")); err != nil {
		t.Error(err)
	}
	says(t, n.Status(t.Context(), n.request("")), `network cluster is not ready`, `plugin "cluster"`)
}

// STATUS and ADD wait for the cluster network's file, STATUS no longer than a look.
func TestReadiness(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	file := filepath.Join(n.dir, "ready")
	n.configure(`"readinessindicatorfile": "` + file + `", `)
	says(t, n.Status(t.Context(), n.request("")), "readinessindicatorfile "+file+" does not exist")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Status(t.Context(), n.request("")); err != nil {
		t.Error(err)
	}
	n.mustAdd("")
	n.configure(`"defaultNetworks": ["absent"], `)
	says(t, n.Status(t.Context(), n.request("")), "absent: not found")
}

// Patterns in the node's bounds stand for what is there.
func TestEndpointsByPattern(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a.sock", "b.sock"} {
		l, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}
	if err := os.WriteFile(filepath.Join(dir, "c.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := sockets([]string{"unix:" + dir + "/?.sock", dir + "/a*", "tcp:10.0.0.1:6640", "tcp:10.0.0.*:6640", "/run/x"})
	compareLines(t, "endpoints", got, []string{"unix:" + dir + "/a.sock", "unix:" + dir + "/b.sock", dir + "/a.sock", "tcp:10.0.0.1:6640", "/run/x"})
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	compareLines(t, "folders", folders([]string{dir + "/*", "/x"}), []string{dir + "/folder", "/x"})
}

// A pod's own default network, which a NAD defines.
func TestTheDefaultNetworkOfAPod(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.configure(`"multusNamespace": "default", `)
	n.api.pod.Annotations[conf.DefaultNetworkAnnotation] = "between"
	r := n.mustAdd("bare")
	compareLines(t, "interfaces", n.interfaces(), []string{"eth0 default/between", "net1 default/bare"})
	if err := n.Check(t.Context(), r); err != nil {
		t.Error(err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// What another meta-plugin has attached by executables is undone by them, built-in or not.
func TestWhatWasExecuted(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	if err := os.Symlink(filepath.Join(n.dir, "bin", "first"), filepath.Join(n.dir, "bin", "toy")); err != nil {
		t.Fatal(err)
	}
	tx := &journal.Transaction{Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Path: []string{n.dir + "/bin"}, Attachments: []*journal.Entry{{
		Network: conf.Network{Name: "theirs", IfName: "net1", List: conf.List{CNIVersion: "1.1.0", Name: "theirs", Plugins: []json.RawMessage{[]byte(`{"type": "toy"}`)}}}, Executed: true,
	}}}
	rec := &journal.Record{Sandbox: sandboxOfPod, Transactions: []*journal.Transaction{tx}}
	if err := n.Journal.Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	if got := Endpoints(n.Delegates, rec); len(got) > 0 {
		t.Errorf("endpoints %v", got)
	}
	if err := n.Del(t.Context(), n.request("")); err != nil {
		t.Error(err)
	}
	compareLines(t, "executed", n.log(), []string{"DEL toy net1"})
	if calls := n.world.Calls(); len(calls) > 0 {
		t.Errorf("the built-in was called: %q", calls)
	}
}

// What carries the mark of this data folder and is nobody's goes with GC, at every endpoint
// that is known. What carries another folder's mark stays.
func TestGCByMarks(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.addAs("lost", "bare")
	for _, folder := range []string{"sandboxes", "results"} {
		if err := os.RemoveAll(filepath.Join(n.dir, folder)); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := *n
	elsewhere.dir = t.TempDir()
	elsewhere.start()
	elsewhere.addAs("theirs", "bare")
	if err := n.GC(t.Context(), n.request(""), nil); err != nil {
		t.Error(err)
	}
	if got := n.world.Ports(); len(got) != 1 || !strings.Contains(got[0], "theirs") {
		t.Errorf("ports %q", got)
	}
}
