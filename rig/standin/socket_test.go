package standin_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
)

// A socket id that failed to listen answers success without a listener, until it
// is deleted and added again.
func TestPoisoned(t *testing.T) {
	r := newRig(t, standin.Options{})
	folder := r.path("missing")
	file := folder + "/s"
	id := r.addSocket(file)
	if _, code := r.create(&binmemif.MemifCreateV2{SocketID: id}); code != -14 {
		t.Fatalf("create without a folder: %d", code)
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	i, code := r.create(&binmemif.MemifCreateV2{SocketID: id})
	if code != 0 {
		t.Fatalf("create again: %d", code)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a listener")
	}
	if text := r.server.State(); !strings.Contains(text, "socket "+file+" id=1 deaf\n") {
		t.Errorf("state:\n%s", text)
	}
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	r.do(&binmemif.MemifSocketFilenameAddDelV2{SocketID: id}, &binmemif.MemifSocketFilenameAddDelV2Reply{})
	r.server0(file)
	r.peer(file, memif.Options{})
}

func TestListenFailures(t *testing.T) {
	r := newRig(t, standin.Options{})
	regular := r.path("regular")
	if err := os.WriteFile(regular, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.server0(r.path("taken"))
	long := r.path(strings.Repeat("l", 106-len(r.dir)-1))
	for file, want := range map[string]int32{
		regular: -14, r.path("taken"): -14, long: 0, long + "x": -14, "abstract:a,netns_name=/run/netns/none": -14,
		"abstract:a,nonsense": -14,
	} {
		if _, code := r.create(&binmemif.MemifCreateV2{SocketID: r.addSocket(file)}); code != want {
			t.Errorf("create at %s: %d, want %d", file, code, want)
		}
	}
	if b, err := os.ReadFile(regular); err != nil || string(b) != "x" {
		t.Errorf("the regular file is %q: %v", b, err)
	}
}

func TestStaleSocket(t *testing.T) {
	r := newRig(t, standin.Options{})
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: r.path("a")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	i := r.server0(r.path("a"))
	p := r.peer(r.path("a"), memif.Options{})
	// Deleting ends the connection and leaves the file, which is stale again.
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	if err := p.WaitNoLink(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(r.path("a")); err != nil {
		t.Error(err)
	}
	r.server0(r.path("a"))
	if err := p.WaitLink(t.Context()); err != nil {
		t.Error(err)
	}
}

// A memif on an abstract socket is reached from its network namespace only.
func TestAbstractSocket(t *testing.T) {
	r := newRig(t, standin.Options{})
	pod, err := node.NewPod("abstract-1")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	r.addBridge(1)
	there, here := "abstract:plexus/x,netns_name="+pod.Path(), "abstract:plexus/x"
	r.join(r.server0(there), 1)
	outside := r.dial(here, memif.Options{})
	inside := r.peer(there, memif.Options{})
	if outside.Connected() {
		t.Error("it is reached from another network namespace")
	}
	r.join(r.server0(here), 1)
	if err := outside.WaitLink(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.transfer(inside, outside, 1000, memif.Traffic{})
	r.join(r.server0("abstract:plexus/y,netns_name="+pod.Name()), 1)
	library := r.peer("abstract:plexus/y,netns_name="+pod.Name(), memif.Options{Gomemif: true})
	r.transfer(library, outside, 1000, memif.Traffic{})
	if strings.Contains(r.server.State(), "deaf") {
		t.Errorf("state:\n%s", r.server.State())
	}
}

func TestSecretAndMode(t *testing.T) {
	r := newRig(t, standin.Options{})
	i, code := r.create(&binmemif.MemifCreateV2{SocketID: r.addSocket(r.path("a")), Secret: "open sesame", Mode: binmemif.MEMIF_MODE_API_IP})
	if code != 0 {
		t.Fatal(code)
	}
	r.up(i)
	wrong := r.dial(r.path("a"), memif.Options{Secret: "open barley", Mode: memif.IP})
	ethernet := r.dial(r.path("a"), memif.Options{Secret: "open sesame"})
	right := r.peer(r.path("a"), memif.Options{Secret: "open sesame", Mode: memif.IP})
	r.address(i, "10.0.0.1/24")
	r.address(i, "2001:db8::1/64")
	for from, to := range map[string]string{"10.0.0.9": "10.0.0.1", "2001:db8::9": "2001:db8::1"} {
		if _, err := right.Ping(t.Context(), netip.MustParseAddr(from), netip.MustParseAddr(to)); err != nil {
			t.Error(err)
		}
	}
	if wrong.Connected() || ethernet.Connected() {
		t.Error("a peer without the secret, or of another mode, is connected")
	}
}

// The vswitch as a client connects once it is up, and again to a new server.
func TestClientRole(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	r.join(r.server0(r.path("a")), 1)
	a := r.peer(r.path("a"), memif.Options{})
	p := r.dial(r.path("c"), memif.Options{Server: true})
	i, code := r.create(&binmemif.MemifCreateV2{SocketID: r.addSocket(r.path("c")), Role: binmemif.MEMIF_ROLE_API_SLAVE, RingSize: 512})
	if code != 0 {
		t.Fatal(code)
	}
	r.join(i, 1)
	if p.Connected() {
		t.Error("it has connected while it is down")
	}
	r.up(i)
	for range 2 {
		if err := p.WaitLink(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitLink(i)                                     // a server is connected a little before its client
		r.transfer(a, p, 1000, memif.Traffic{Size: 5000}) // three buffers a frame
		r.transfer(p, a, 1000, memif.Traffic{})
		d := dump[binmemif.MemifDetails](r, &binmemif.MemifDump{})[1]
		if d.RingSize != 512 || d.BufferSize != 2048 || !d.ZeroCopy || d.Flags != 3 {
			t.Errorf("memif: %+v", d)
		}
		p.Close()
		p = r.dial(r.path("c"), memif.Options{Server: true})
	}
}

func TestAdminStateAndFlags(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.do(&l2.BridgeDomainAddDelV2{BdID: 1, IsAdd: true, Flood: true, Forward: true, Learn: true}, &l2.BridgeDomainAddDelV2Reply{})
	var peers []*memif.Peer
	var ports []index
	for _, name := range []string{"a", "b", "c"} {
		i := r.server0(r.path(name))
		r.join(i, 1)
		ports = append(ports, i)
		peers = append(peers, r.peer(r.path(name), memif.Options{}))
	}
	a, b, c := peers[0], peers[1], peers[2]
	send := func(from *memif.Peer, to net.HardwareAddr) {
		t.Helper()
		if err := from.Send(t.Context(), 10, memif.Traffic{To: to}); err != nil {
			t.Fatal(err)
		}
		if err := from.WaitDrained(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	send(a, b.MAC()) // unknown, and unknown unicast is not flooded
	r.transfer(b, a, 10, memif.Traffic{To: broadcast})
	r.transfer(a, b, 10, memif.Traffic{})
	r.down(ports[1])
	send(a, b.MAC())
	send(b, a.MAC())
	r.transfer(a, c, 10, memif.Traffic{To: broadcast})
	r.up(ports[1])
	r.transfer(a, b, 10, memif.Traffic{})
	// Out of the bridge domain and back: what was learned is gone.
	r.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: ports[1]}, &l2.SwInterfaceSetL2BridgeReply{})
	r.join(ports[1], 1)
	send(a, b.MAC())
	// A split horizon group keeps its members apart.
	for _, i := range ports[1:] {
		r.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i, BdID: 1, Enable: true, Shg: 1}, &l2.SwInterfaceSetL2BridgeReply{})
	}
	r.transfer(c, a, 10, memif.Traffic{To: broadcast})
	r.clean(a, "20 frames")
	r.clean(b, "20 frames")
	r.clean(c, "20 frames")
	r.do(&interfaces.SwInterfaceTagAddDel{SwIfIndex: ports[0], IsAdd: true, Tag: "pod"}, &interfaces.SwInterfaceTagAddDelReply{})
}
