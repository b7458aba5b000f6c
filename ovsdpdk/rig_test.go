package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

func TestMain(m *testing.M) { os.Exit(node.Main(m)) }

const (
	testOwner  = "/var/lib/plexus"
	testBridge = "br-fast"
)

// rig is a real ovsdb-server with a folder for sockets, spoken to through a
// proxy that stands in for ovs-vswitchd as well.
type rig struct {
	*ovs.Switch
	t       testing.TB
	dir     string // socketDir
	wire    *proxy
	address string // of OVSDB, as configurations have it
}

func newRig(t testing.TB) *rig { return newRigAt(t, "") }

// newRigAt has its proxy listen at a path, "" for one of its own.
func newRigAt(t testing.TB, listen string) *rig {
	t.Helper()
	base := tempDir(t)
	r := &rig{t: t, dir: filepath.Join(base, "vhost")}
	for _, dir := range []string{filepath.Join(base, "ovs"), r.dir, shortLinkDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.Switch, err = ovs.StartDB(t.Context(), filepath.Join(base, "ovs"), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Stop() })
	r.wire = newProxy(t, r.OVSDB(), listen)
	r.address = r.wire.address
	// As if a vswitch had acted on every transaction.
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=true", "cur_cfg=1000000000")
	return r
}

// emptyDB replaces the database of a server that is stopped by a new one.
func (r *rig) emptyDB() {
	r.t.Helper()
	path := filepath.Join(r.Dir(), "conf.db")
	remove(r.t, path)
	if out, err := exec.CommandContext(r.t.Context(), "ovsdb-tool", "create", path, vswitchSchema).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
}

// vswitchSchema is where Debian has it (openvswitch-common).
const vswitchSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// tempDir is a folder with a path short enough for sockets.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(node.Dir(), "t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *rig) vsctl(args ...string) string {
	r.t.Helper()
	out, err := r.VSCtl(r.t.Context(), args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// config is a configuration of type ovsdpdk; keys with nil are left out.
func (r *rig) config(keys map[string]any) json.RawMessage {
	r.t.Helper()
	all := map[string]any{
		"cniVersion": "1.1.0", "name": "fast", "type": "ovsdpdk",
		"ovsdb": r.address, "bridge": testBridge, "createBridge": true,
		"vhost": map[string]any{"socketDir": r.dir},
	}
	for k, v := range keys {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	return toJSON(r.t, all)
}

// attachment is net1 of a sandbox whose pod has the sandbox's name.
func (r *rig) attachment(d *Delegate, sandbox string, keys map[string]any) *delegates.Attachment {
	r.t.Helper()
	return &delegates.Attachment{
		Sandbox: sandbox, Netns: "/run/netns/" + sandbox, IfName: "net1", Name: "default/fast", Owner: testOwner,
		Pod: &conf.Pod{Namespace: "default", Name: sandbox}, Network: mustParse(r.t, d, r.config(keys)), Bounds: conf.Bounds{}.ForOwn(),
	}
}

func mustParse(t testing.TB, d *Delegate, config []byte) delegates.Network {
	t.Helper()
	parser := delegates.Delegate(d)
	if strings.Contains(string(config), `"type":"userspace"`) {
		parser = userspace.New(userspace.EngineOVS, d)
	}
	n, _, err := parser.Parse("default/fast", config)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sibling is a new attachment of the same pod to the same network.
func sibling(a *delegates.Attachment, ifName string) *delegates.Attachment {
	b := *a
	b.IfName, b.State, b.Result = ifName, nil, nil
	return &b
}

// unrecorded is an attachment whose journal is lost.
func unrecorded(a *delegates.Attachment) *delegates.Attachment { return sibling(a, a.IfName) }

func only(a *delegates.Attachment) []*delegates.Attachment { return []*delegates.Attachment{a} }

// sweep is Sweep at endpoints of the test.
func (r *rig) sweep(d *Delegate, endpoints []string, keep func(sandbox, ifName string) bool) error {
	return errors.Join(d.Sweep(bounded(r.t), testOwner, endpoints, conf.Bounds{SocketDirs: []string{r.dir}}, keep)...)
}

// shared gives an attachment's pod the volume shared-dir.
func shared(a *delegates.Attachment, dir string) *delegates.Attachment {
	pod := *a.Pod
	pod.Volumes = []conf.Volume{{Name: conf.SharedDir, HostPath: dir}}
	a.Pod = &pod
	return a
}

// world is all that the delegate may change: rows and files.
func (r *rig) world() string {
	r.t.Helper()
	rows, err := r.Dump(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	files, err := node.Tree(r.dir, shortLinkDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return rows + files
}

func sameWorld(t testing.TB, before, after string) {
	t.Helper()
	if before != after {
		t.Errorf("the world has changed\nbefore:\n%safter:\n%s", before, after)
	}
}

// prepare is the part of ADD before anything is changed.
func prepare(t testing.TB, a *delegates.Attachment) (err error) {
	a.State, err = a.Network.Prepare(bounded(t), a)
	return err
}

// attach is an ADD of one attachment.
func attach(t testing.TB, d *Delegate, a *delegates.Attachment) error {
	if err := prepare(t, a); err != nil {
		return err
	}
	return d.Attach(bounded(t), only(a))
}

// mustPrepare, mustAttach and mustDetach are for calls that have to succeed.
func mustPrepare(t testing.TB, all ...*delegates.Attachment) {
	t.Helper()
	for _, a := range all {
		if err := prepare(t, a); err != nil {
			t.Fatal(err)
		}
	}
}

func mustAttach(t testing.TB, d *Delegate, all ...*delegates.Attachment) {
	t.Helper()
	mustPrepare(t, all...)
	if err := d.Attach(bounded(t), all); err != nil {
		t.Fatal(err)
	}
}

func mustDetach(t testing.TB, d *Delegate, all ...*delegates.Attachment) {
	t.Helper()
	if err := errors.Join(d.Detach(bounded(t), all)...); err != nil {
		t.Errorf("Detach: %v", err)
	}
}

func newDelegate(t testing.TB) *Delegate {
	return New(slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// bounded keeps a hang from lasting; it is no measure.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func toJSON(t testing.TB, v any) json.RawMessage {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wantError wants an error that says every one of the words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func wantErrorNone(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
