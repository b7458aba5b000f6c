package standin

import (
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"sync"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vhost_user"

	"github.com/plexus-cni/plexus/rig/memif"
)

// success is the return code of a request that has been carried out.
const success = int32(0)

// unset is the index that stands for none.
const unset = ^uint32(0)

// tagSize is how many bytes of a tag or name are kept.
const tagSize = 63

// vswitch is the state behind the API.
type vswitch struct {
	runtimeDir string
	publish    func(api.Message)
	gone       chan struct{} // closed when it is closed

	mu         sync.Mutex
	interfaces map[uint32]*iface
	sockets    map[uint32]*socket
	bridges    map[uint32]*bridge
	tables     map[tableKey]*table4or6
	events     []api.Message // not published yet
	closed     bool
	ports      []*memif.Interface // ever opened, to wait for
	listeners  []*memif.Listener  // ever opened, to wait for
	kept       []*os.File         // network namespaces of abstract sockets
}

// kind is what an interface is.
type kind string

// Kinds of interfaces, as State names them.
const (
	kindLocal kind = "local"
	kindMemif kind = "memif"
	kindVhost kind = "vhost-user"
	kindTap   kind = "tap"
	kindVLAN  kind = "vlan"
)

// iface is an interface.
type iface struct {
	index uint32
	kind  kind
	name  string
	tag   string
	mac   net.HardwareAddr
	up    bool
	mtu   [4]uint32 // all, IPv4, IPv6, MPLS, in bytes

	linkMTU   uint16
	tables    [2]uint32 // IPv4, IPv6
	addresses []netip.Prefix

	bridge  *bridge // nil in layer 3
	shg     uint8   // split horizon group, 0 for none
	rewrite rewrite

	memif *memifIface
	vhost *vhost_user.CreateVhostUserIfV2
	// listener of a vhost-user server; nobody is let in
	listener *net.UnixListener
	tap      *tapv2.TapCreateV3

	parent *iface // of a VLAN
	vlan   uint16
	subs   map[uint16]*iface // VLANs on this one
}

// newVswitch makes one as it is when VPP has started. Events of interfaces go
// to publish.
func newVswitch(runtimeDir string, publish func(api.Message)) *vswitch {
	v := &vswitch{
		runtimeDir: runtimeDir, publish: publish, gone: make(chan struct{}),
		interfaces: map[uint32]*iface{}, sockets: map[uint32]*socket{}, bridges: map[uint32]*bridge{},
		tables: map[tableKey]*table4or6{
			{id: 0}: {}, {id: 0, ipv6: true}: {},
		},
	}
	v.interfaces[0] = &iface{kind: kindLocal, name: "local0", subs: map[uint16]*iface{}}
	v.sockets[0] = &socket{file: v.resolve("memif.sock")}
	return v
}

// close ends the data path.
func (v *vswitch) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.closed = true
	for _, l := range v.listeners {
		l.Close()
	}
	for _, p := range v.ports {
		p.Close()
	}
	for _, i := range v.interfaces {
		if i.listener != nil {
			_ = i.listener.Close()
		}
	}
	for _, f := range v.kept {
		_ = f.Close()
	}
	close(v.gone)
}

// wait returns when nothing of a closed vswitch runs any more.
func (v *vswitch) wait() {
	v.mu.Lock()
	ports, listeners := v.ports, v.listeners
	v.mu.Unlock()
	for _, l := range listeners {
		l.Wait()
	}
	for _, p := range ports {
		p.Wait()
	}
}

// takeEvents returns what is to be published once v is unlocked.
func (v *vswitch) takeEvents() []api.Message {
	events := v.events
	v.events = nil
	return events
}

// add gives an interface the lowest free index.
func (v *vswitch) add(i *iface) *iface {
	for v.interfaces[i.index] != nil {
		i.index++
	}
	if i.mac == nil {
		i.mac = madeMAC(i.name)
	}
	i.subs = map[uint16]*iface{}
	i.mtu[0], i.linkMTU = 9000, 9000
	v.interfaces[i.index] = i
	v.events = append(v.events, event(i, false))
	return i
}

// remove deletes an interface and its VLANs.
func (v *vswitch) remove(i *iface) {
	for _, sub := range i.subs {
		v.remove(sub)
	}
	if i.parent != nil {
		delete(i.parent.subs, i.vlan)
	}
	v.leave(i)
	v.dropAddresses(i)
	delete(v.interfaces, i.index)
	v.events = append(v.events, event(i, true))
}

// of is the interface of an index if it is of a kind.
func (v *vswitch) of(index interface_types.InterfaceIndex, k kind) *iface {
	if i := v.interfaces[uint32(index)]; i != nil && i.kind == k {
		return i
	}
	return nil
}

// flags are the states of an interface as the API has them.
func (i *iface) flags() (f interface_types.IfStatusFlags) {
	if i.up {
		f |= interface_types.IF_STATUS_API_FLAG_ADMIN_UP
	}
	port := i
	if i.parent != nil {
		port = i.parent
	}
	if port.up && (port.memif != nil && port.memif.connected || port.tap != nil) {
		f |= interface_types.IF_STATUS_API_FLAG_LINK_UP
	}
	return f
}

// running tells whether frames pass an interface.
func (i *iface) running() bool { return i.up && (i.parent == nil || i.parent.up) }

// madeMAC is the address of an interface that is given none.
func madeMAC(name string) net.HardwareAddr {
	hash := fnv.New32a()
	hash.Write([]byte(name))
	return hash.Sum([]byte{0x02, 0xfe})
}

// cut is a tag as it is kept.
func cut(tag string) string { return tag[:min(len(tag), tagSize)] }
