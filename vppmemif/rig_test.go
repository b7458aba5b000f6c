package vppmemif

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.fd.io/govpp/adapter/socketclient"
	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "24") // most of them wait for an answer that does not come; more would starve those that do
	os.Exit(node.Main(m))
}

const (
	testOwner = "/var/lib/plexus"
	sandboxA  = "0123456789abcdef0123456789abcdef"
	sandboxB  = "fedcba9876543210fedcba9876543210"
)

// rig is a stand-in with a folder for sockets.
type rig struct {
	*standin.Server
	t    testing.TB
	dir  string // socket.dir
	vpp  string // folder of the API socket
	hook atomic.Pointer[func(standin.Message)]

	tapped bool // the operator's configuration has the interface tap0
}

func newRig(t testing.TB, o standin.Options) *rig {
	t.Helper()
	base := tempDir(t)
	r := &rig{t: t, dir: filepath.Join(base, "s"), vpp: filepath.Join(base, "vpp")}
	for _, dir := range []string{r.dir, shareddir.ShortLinks} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.start(o)
	return r
}

// start starts the stand-in, anew if it was closed.
func (r *rig) start(o standin.Options) {
	r.t.Helper()
	o.RuntimeDir = filepath.Join(r.vpp, "run")
	o.OnMessage = func(m standin.Message) {
		if f := r.hook.Load(); f != nil {
			(*f)(m)
		}
	}
	server, err := standin.Start(context.WithoutCancel(r.t.Context()), r.vpp, o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(server.Close)
	r.Server = server
	if r.tapped {
		r.admin().tap()
	}
}

// age makes VPP one that has run for long: its startup configuration has run.
func (r *rig) age() {
	r.t.Helper()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(r.vpp, standin.SocketName), long, long); err != nil {
		r.t.Fatal(err)
	}
}

// young makes VPP one that has just started.
func (r *rig) young() {
	r.t.Helper()
	if err := os.Chtimes(filepath.Join(r.vpp, standin.SocketName), time.Time{}, time.Now()); err != nil {
		r.t.Fatal(err)
	}
}

// tap gives VPP the interface tap0, once, which it has after each restart.
func (r *rig) tap() {
	if !r.tapped {
		r.tapped = true
		r.admin().tap()
	}
}

// restart is a crash and a restart of VPP.
func (r *rig) restart() {
	r.t.Helper()
	r.Close()
	r.start(standin.Options{})
}

func (r *rig) onMessage(f func(standin.Message)) { r.hook.Store(&f) }

func (r *rig) faults(list ...standin.Fault) {
	r.t.Helper()
	if err := r.SetFaults(list...); err != nil {
		r.t.Fatal(err)
	}
}

// world is all that the delegate may change.
func (r *rig) world() string {
	r.t.Helper()
	files, err := node.Tree(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.State() + files
}

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

// attachment is net1 of a sandbox; keys with nil are left out.
func (r *rig) attachment(sandbox string, keys map[string]any) subject {
	r.t.Helper()
	all := map[string]any{
		"cniVersion": "1.1.0", "name": "fast", "type": "vppmemif", "apiSocket": filepath.Join(r.vpp, standin.SocketName),
		"socket": map[string]any{"dir": r.dir},
	}
	for k, v := range keys {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		r.t.Fatal(err)
	}
	return subject{Conf: data, Attachment: delegates.Attachment{
		Sandbox: sandbox, Netns: "/run/netns/" + sandbox[:4], IfName: "net1", Name: "default/fast", Owner: testOwner,
		Pod: &conf.Pod{Namespace: "default", Name: sandbox}, Bounds: conf.Bounds{}.ForOwn(),
	}}
}

// sweep is Sweep at the stand-in.
func (r *rig) sweep(d *Delegate, keep func(sandbox, ifName string) bool) error {
	endpoints := []string{filepath.Join(r.vpp, standin.SocketName), "unix:/run/openvswitch/db.sock"}
	return errors.Join(d.Sweep(bounded(r.t), testOwner, endpoints, conf.Bounds{SocketDirs: []string{r.dir}}, keep)...)
}

// shared gives an attachment's pod the volume shared-dir.
func shared(a subject, dir string) subject {
	pod := *a.Pod
	pod.Volumes = []conf.Volume{{Name: conf.SharedDir, HostPath: dir}}
	a.Pod = &pod
	return a
}

func named(name string) map[string]any {
	return map[string]any{"bridgeDomain": map[string]any{"name": name}}
}

func newDelegate(t testing.TB) *Delegate {
	return New(slog.New(slog.NewTextHandler(t.Output(), nil)))
}

// bounded keeps a hang from lasting; it is no measure.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func attach(t testing.TB, d *Delegate, a subject) (json.RawMessage, error) {
	raw, err := d.prepare(bounded(t), a)
	if err != nil {
		return nil, err
	}
	_, err = add(bounded(t), d, a, raw)
	return raw, err
}

func mustAttach(t testing.TB, d *Delegate, a subject) json.RawMessage {
	t.Helper()
	raw, err := attach(t, d, a)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func mustDel(t testing.TB, d *Delegate, a subject, raw json.RawMessage) {
	t.Helper()
	if err := d.del(bounded(t), a, raw); err != nil {
		t.Errorf("Del: %v", err)
	}
}

func same(t testing.TB, before, after string) {
	t.Helper()
	if before != after {
		t.Errorf("the world has changed\nbefore:\n%safter:\n%s", before, after)
	}
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

// linkUp wants a peer to connect at a socket.
func linkUp(t testing.TB, socket string, o memif.Options) {
	t.Helper()
	p, err := memif.Dial(bounded(t), socket, 0, o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.WaitLink(bounded(t)); err != nil {
		t.Error(err)
	}
}

func stateOf(t testing.TB, raw json.RawMessage) *state {
	t.Helper()
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// admin is another client of the same VPP.
type admin struct {
	t  testing.TB
	ch api.Channel
}

func (r *rig) admin() *admin {
	r.t.Helper()
	conn, err := core.Connect(socketclient.NewVppClient(r.Socket()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(conn.Disconnect)
	ch, err := conn.NewAPIChannel()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(ch.Close)
	ch.SetReplyTimeout(10 * time.Second)
	return &admin{r.t, ch}
}

func (a *admin) do(request, reply api.Message) {
	a.t.Helper()
	if err := a.ch.SendRequest(request).ReceiveReply(reply); err != nil {
		a.t.Fatalf("%s: %v", request.GetMessageName(), err)
	}
}

// memif makes a socket and a memif without a tag.
func (a *admin) memif(socket string) interface_types.InterfaceIndex {
	a.t.Helper()
	s, m := &binmemif.MemifSocketFilenameAddDelV2Reply{}, &binmemif.MemifCreateV2Reply{}
	a.do(&binmemif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: newSocketID, SocketFilename: socket}, s)
	a.do(&binmemif.MemifCreateV2{SocketID: s.SocketID}, m)
	return m.SwIfIndex
}

// tap makes the interface tap0, which is up.
func (a *admin) tap() {
	a.t.Helper()
	m := &tapv2.TapCreateV3Reply{}
	a.do(&tapv2.TapCreateV3{}, m)
	a.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: m.SwIfIndex, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}, &interfaces.SwInterfaceSetFlagsReply{})
}

// named is the number of the interface with a name.
func (a *admin) named(name string) interface_types.InterfaceIndex {
	a.t.Helper()
	answers := a.ch.SendMultiRequest(&interfaces.SwInterfaceDump{NameFilterValid: true, NameFilter: name})
	for {
		d := &interfaces.SwInterfaceDetails{}
		last, err := answers.ReceiveReply(d)
		if err != nil || last {
			a.t.Fatalf("interface %s: %v", name, err)
		}
		if d.InterfaceName == name {
			for !last && err == nil {
				last, err = answers.ReceiveReply(&interfaces.SwInterfaceDetails{})
			}
			return d.SwIfIndex
		}
	}
}

func (a *admin) domain(id uint32, tag string) {
	a.t.Helper()
	a.do(&l2.BridgeDomainAddDelV2{IsAdd: true, BdID: id, Learn: true, Flood: true, UuFlood: true, Forward: true, BdTag: tag}, &l2.BridgeDomainAddDelV2Reply{})
}

func (a *admin) table(id uint32) {
	a.t.Helper()
	for _, six := range []bool{false, true} {
		a.do(&ip.IPTableAddDel{IsAdd: true, Table: ip.IPTable{TableID: id, IsIP6: six}}, &ip.IPTableAddDelReply{})
	}
}

// second makes a memif with a tag on a socket that there is.
func (a *admin) second(socket, id uint32, tag string) {
	a.t.Helper()
	m := &binmemif.MemifCreateV2Reply{}
	a.do(&binmemif.MemifCreateV2{SocketID: socket, ID: id}, m)
	a.do(&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: m.SwIfIndex, Tag: tag}, &interfaces.SwInterfaceTagAddDelReply{})
}

// socketIDs are the numbers of the sockets that there are.
func (r *rig) socketIDs(d *Delegate) map[string]uint32 {
	r.t.Helper()
	s, err := d.open(bounded(r.t), r.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	snap, err := s.snapshot(bounded(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	ids := map[string]uint32{}
	for id, name := range snap.sockets {
		ids[name] = id
	}
	return ids
}
