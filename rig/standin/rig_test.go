package standin_test

import (
	"net"
	"path/filepath"
	"time"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/memif"
)

type index = interface_types.InterfaceIndex

const unset = ^uint32(0)

// path is a file in the folder of the stand-in.
func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// addSocket returns the id of a memif socket it adds.
func (r *rig) addSocket(file string) uint32 {
	r.t.Helper()
	reply := &binmemif.MemifSocketFilenameAddDelV2Reply{}
	r.do(&binmemif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: unset, SocketFilename: file}, reply)
	return reply.SocketID
}

// create makes a memif and returns its index and the return code.
func (r *rig) create(m *binmemif.MemifCreateV2) (index, int32) {
	r.t.Helper()
	reply := &binmemif.MemifCreateV2Reply{}
	code := r.retval(m, reply)
	return reply.SwIfIndex, code
}

// server0 makes the memif server 0 of a socket of its own, and sets it up.
func (r *rig) server0(file string) index {
	r.t.Helper()
	i, code := r.create(&binmemif.MemifCreateV2{SocketID: r.addSocket(file)})
	if code != 0 {
		r.t.Fatalf("create memif at %s: %d", file, code)
	}
	r.up(i)
	return i
}

// client0 makes a memif that connects to a socket, with id 0, and sets it up.
func (r *rig) client0(file string) index {
	r.t.Helper()
	i, code := r.create(&binmemif.MemifCreateV2{SocketID: r.addSocket(file), Role: binmemif.MEMIF_ROLE_API_SLAVE})
	if code != 0 {
		r.t.Fatalf("memif at %s: %d", file, code)
	}
	r.up(i)
	return i
}

func (r *rig) up(i index)   { r.t.Helper(); r.flags(i, interface_types.IF_STATUS_API_FLAG_ADMIN_UP) }
func (r *rig) down(i index) { r.t.Helper(); r.flags(i, 0) }

func (r *rig) flags(i index, f interface_types.IfStatusFlags) {
	r.t.Helper()
	r.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: i, Flags: f}, &interfaces.SwInterfaceSetFlagsReply{})
}

// addBridge makes a bridge domain that learns and floods.
func (r *rig) addBridge(id uint32) {
	r.t.Helper()
	r.do(&l2.BridgeDomainAddDelV2{BdID: id, IsAdd: true, Flood: true, UuFlood: true, Forward: true, Learn: true},
		&l2.BridgeDomainAddDelV2Reply{})
}

// join puts an interface into a bridge domain.
func (r *rig) join(i index, bridge uint32) {
	r.t.Helper()
	r.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i, BdID: bridge, Enable: true}, &l2.SwInterfaceSetL2BridgeReply{})
}

// address gives an interface an address.
func (r *rig) address(i index, prefix string) {
	r.t.Helper()
	p, err := ip_types.ParseAddressWithPrefix(prefix)
	if err != nil {
		r.t.Fatal(err)
	}
	r.do(&interfaces.SwInterfaceAddDelAddress{SwIfIndex: i, IsAdd: true, Prefix: p}, &interfaces.SwInterfaceAddDelAddressReply{})
}

// peer is a connected peer of the memif at a socket.
func (r *rig) peer(socket string, o memif.Options) *memif.Peer {
	r.t.Helper()
	p := r.dial(socket, o)
	if err := p.WaitLink(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return p
}

// dial is a peer that may connect.
func (r *rig) dial(socket string, o memif.Options) *memif.Peer {
	r.t.Helper()
	p, err := memif.Dial(r.t.Context(), socket, 0, o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(p.Close)
	return p
}

// waitLink returns when the link of a memif is up.
func (r *rig) waitLink(i index) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		for _, d := range dump[binmemif.MemifDetails](r, &binmemif.MemifDump{}) {
			if d.SwIfIndex == i && d.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the link of interface %d is not up", i)
		}
	}
}

// transfer sends frames and fails unless exactly those arrive.
func (r *rig) transfer(from, to *memif.Peer, n int, t memif.Traffic) {
	r.t.Helper()
	got, err := memif.Transfer(r.t.Context(), from, to, n, t)
	if err != nil {
		r.t.Fatal(err)
	}
	if got != n {
		r.t.Errorf("%d frames of %d have arrived", got, n)
	}
}

// clean fails unless a peer has received n test frames and nothing odd.
func (r *rig) clean(p *memif.Peer, want string) {
	r.t.Helper()
	if got := p.Tally().String(); got != want {
		r.t.Errorf("peer has %s, want %s", got, want)
	}
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
