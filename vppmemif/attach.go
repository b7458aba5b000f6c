package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
	"github.com/plexus-cni/plexus/shareddir"
)

// newSocketID lets VPP choose the number of a socket (memif.api).
const newSocketID = ^uint32(0)

// vtrPush1 is a VLAN tag rewrite (l2_vtr.h): what comes from the pod gets a tag,
// what goes to it loses one.
const vtrPush1 = 1

// socketFree refuses a socket that somebody else uses in this VPP, or a place
// where VPP could not listen.
func (s *session) socketFree(ctx context.Context, st *state) error {
	if !st.Alone {
		sockets, err := s.sockets(ctx)
		if err != nil {
			return err
		}
		all, err := s.ports(ctx, sockets)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.socket == st.Socket {
				return fmt.Errorf("socket %s is used by interface %s: choose another %q, or none", st.Socket, p.name, "socket.file")
			}
		}
	}
	if st.Abstract != "" {
		return nil
	}
	if f, err := os.Lstat(st.Place(st.File)); err == nil && f.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it, or choose another %q", st.Place(st.File), "socket.file")
	}
	if st.Role == "server" && listenedAt(st.Place(st.File)) {
		return fmt.Errorf("somebody listens at %s: choose another %q", st.Place(st.File), "socket.file")
	}
	return nil
}

// listenedAt reports whether a socket has a listener, or is none of memif's
// kind; one that is left from before refuses.
func listenedAt(path string) bool {
	if len(path) > shareddir.MaxSocketPath {
		return false
	}
	c, err := net.DialTimeout("unixpacket", path, time.Second)
	if err == nil {
		_ = c.Close()
		return true
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
}

// attach makes the socket, the interface on it and its place in the network,
// up at last.
func (s *session) attach(ctx context.Context, c *Config, a conf.Attachment, st *state) error {
	step := func(format string, args ...any) error { return conf.Step(ctx, a.IfName+": "+format, args...) }
	index, err := s.make(ctx, step, c, st)
	if err != nil {
		return err
	}
	if c.MTU != 0 {
		if err := step("set mtu %d", c.MTU); err != nil {
			return err
		}
		if _, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceSetMtuReply, error) {
			return interfaces.NewServiceClient(s.conn).SwInterfaceSetMtu(ctx, &interfaces.SwInterfaceSetMtu{SwIfIndex: index, Mtu: []uint32{uint32(c.MTU), 0, 0, 0}})
		}); err != nil {
			return fmt.Errorf("set mtu %d: %w", c.MTU, err)
		}
	}
	if c.BridgeDomain != nil {
		err = s.join(ctx, step, c, index, st)
	} else {
		err = s.route(ctx, step, c, index, a.IPAM)
	}
	if err != nil {
		return err
	}
	if err := step("set up"); err != nil {
		return err
	}
	if _, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceSetFlagsReply, error) {
		return interfaces.NewServiceClient(s.conn).SwInterfaceSetFlags(ctx, &interfaces.SwInterfaceSetFlags{SwIfIndex: index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP})
	}); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// make makes the interface with its socket and tag.
func (s *session) make(ctx context.Context, step func(string, ...any) error, c *Config, st *state) (interface_types.InterfaceIndex, error) {
	if st.Vhost {
		if err := step("create vhost-user on %s", st.Socket); err != nil {
			return 0, err
		}
		return s.createVhost(ctx, c, st)
	}
	if err := step("add socket %s", st.Socket); err != nil {
		return 0, err
	}
	socket, err := s.addSocket(ctx, st)
	if err != nil {
		return 0, err
	}
	if err := step("create memif"); err != nil {
		return 0, err
	}
	index, err := s.create(ctx, c, socket)
	if answered(err, codeListen) {
		return 0, fmt.Errorf("VPP cannot use the socket %s: is its folder there, and may VPP write to it?: %w", st.Socket, err)
	}
	if err != nil {
		return 0, fmt.Errorf("create memif on %s: %w", st.Socket, err)
	}
	if err := step("tag %s", st.Tag); err != nil {
		return 0, err
	}
	if _, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceTagAddDelReply, error) {
		return interfaces.NewServiceClient(s.conn).SwInterfaceTagAddDel(ctx, &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: index, Tag: st.Tag})
	}); err != nil {
		return 0, fmt.Errorf("tag memif: %w", err)
	}
	return index, nil
}

// addSocket gives the socket a number of its own. A number that is left from
// before is not used again: after a listen failure VPP answers success on it and
// listens on nothing. Beside one of a name that is the attachment's alone it may
// stay until detach removes both.
func (s *session) addSocket(ctx context.Context, st *state) (uint32, error) {
	if !st.Alone {
		sockets, err := s.sockets(ctx)
		if err != nil {
			return 0, err
		}
		for id, name := range sockets {
			if name != st.Socket {
				continue
			}
			if err := s.deleteSocket(ctx, id); err != nil {
				return 0, fmt.Errorf("socket %s is in use: %w", st.Socket, err)
			}
		}
	}
	reply, err := call(ctx, s, func(ctx context.Context) (*memif.MemifSocketFilenameAddDelV2Reply, error) {
		return memif.NewServiceClient(s.conn).MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: newSocketID, SocketFilename: st.Socket})
	})
	if err != nil {
		return 0, fmt.Errorf("add socket %s: %w", st.Socket, err)
	}
	return reply.SocketID, nil
}

func (s *session) deleteSocket(ctx context.Context, id uint32) error {
	_, err := call(ctx, s, func(ctx context.Context) (*memif.MemifSocketFilenameAddDelV2Reply, error) {
		return memif.NewServiceClient(s.conn).MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{SocketID: id})
	})
	return err
}

func (s *session) create(ctx context.Context, c *Config, socket uint32) (interface_types.InterfaceIndex, error) {
	m := &memif.MemifCreateV2{
		Role: memif.MEMIF_ROLE_API_MASTER, Mode: memif.MEMIF_MODE_API_ETHERNET, ID: c.ID, SocketID: socket, Secret: c.Secret,
		RxQueues: c.Queues.RX, TxQueues: c.Queues.TX, RingSize: c.RingSize, BufferSize: c.BufSize,
	}
	if c.Role == "client" {
		m.Role = memif.MEMIF_ROLE_API_SLAVE
	}
	if c.Mode == "ip" {
		m.Mode = memif.MEMIF_MODE_API_IP
	}
	if c.MAC != "" {
		mac, err := ethernet_types.ParseMacAddress(c.MAC)
		if err != nil {
			return 0, err
		}
		m.HwAddr = mac
	}
	reply, err := call(ctx, s, func(ctx context.Context) (*memif.MemifCreateV2Reply, error) {
		return memif.NewServiceClient(s.conn).MemifCreateV2(ctx, m)
	})
	if err != nil {
		return 0, err
	}
	return reply.SwIfIndex, nil
}

// tries bounds how often an id of a bridge domain is looked for.
const tries = 64

// ensureDomain finds the bridge domain or makes it. One with a name is found by
// its tag; it gets the id that its name has, or the next one that is free.
func (s *session) ensureDomain(ctx context.Context, b *BridgeDomain, st *state) (uint32, error) {
	id := st.Domain
	for range tries {
		all, err := s.domains(ctx)
		if err != nil {
			return 0, err
		}
		taken := false
		for _, d := range all {
			if d.BdTag == st.DomainTag || b.ID != 0 && d.BdID == b.ID {
				return d.BdID, nil
			}
			taken = taken || d.BdID == id
		}
		if taken {
			id = id%maxBridgeDomain + 1
			continue
		}
		on := func(p *bool) bool { return p == nil || *p }
		_, err = call(ctx, s, func(ctx context.Context) (*l2.BridgeDomainAddDelV2Reply, error) {
			return l2.NewServiceClient(s.conn).BridgeDomainAddDelV2(ctx, &l2.BridgeDomainAddDelV2{
				IsAdd: true, BdID: id, Flood: on(b.Flood), UuFlood: on(b.Flood), Forward: true, Learn: on(b.Learn), ArpTerm: b.ARPTermination, BdTag: st.DomainTag,
			})
		})
		if err != nil && !answered(err, codeBDExists) {
			return 0, fmt.Errorf("make bridge domain %d: %w", id, err)
		}
		// Once more: somebody may have made one of that id, or of that name,
		// meanwhile.
	}
	return 0, fmt.Errorf("bridge domain %s: no id is free near %d", b.Name, st.Domain)
}

// lockDomain keeps a domain from going with its last member while another one
// joins: joining a domain that is not there makes one, which nobody would own.
func (s *session) lockDomain(ctx context.Context, tag string) (release func(), err error) {
	return lock.Take(ctx, filepath.Join(lockDir, digest(s.vpp.socket, tag)), "bridge domain "+tag)
}

const lockDir = "/run/plexus/locks"

// join makes the interface a member of its bridge domain.
func (s *session) join(ctx context.Context, step func(string, ...any) error, c *Config, index interface_types.InterfaceIndex, st *state) error {
	if err := step("join bridge domain %s", st.DomainTag); err != nil {
		return err
	}
	release, err := s.lockDomain(ctx, st.DomainTag)
	if err != nil {
		return err
	}
	defer release()
	domain, err := s.ensureDomain(ctx, c.BridgeDomain, st)
	if err != nil {
		return err
	}
	if _, err = call(ctx, s, func(ctx context.Context) (*l2.SwInterfaceSetL2BridgeReply, error) {
		return l2.NewServiceClient(s.conn).SwInterfaceSetL2Bridge(ctx, &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: index, BdID: domain, Enable: true})
	}); err != nil {
		return fmt.Errorf("join bridge domain %d: %w", domain, err)
	}
	if c.VLAN == 0 {
		return nil
	}
	if err := step("rewrite to vlan %d", c.VLAN); err != nil {
		return err
	}
	if _, err := call(ctx, s, func(ctx context.Context) (*l2.L2InterfaceVlanTagRewriteReply, error) {
		return l2.NewServiceClient(s.conn).L2InterfaceVlanTagRewrite(ctx, &l2.L2InterfaceVlanTagRewrite{SwIfIndex: index, VtrOp: vtrPush1, PushDot1q: 1, Tag1: uint32(c.VLAN)})
	}); err != nil {
		return fmt.Errorf("rewrite to vlan %d: %w", c.VLAN, err)
	}
	return nil
}

// route puts the interface into its vrf and gives it addresses and routes.
func (s *session) route(ctx context.Context, step func(string, ...any) error, c *Config, index interface_types.InterfaceIndex, ipam *types100.Result) error {
	if c.VRF != 0 {
		for _, six := range []bool{false, true} {
			if err := step("join vrf %d", c.VRF); err != nil {
				return err
			}
			if _, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceSetTableReply, error) {
				return interfaces.NewServiceClient(s.conn).SwInterfaceSetTable(ctx, &interfaces.SwInterfaceSetTable{SwIfIndex: index, IsIPv6: six, VrfID: c.VRF})
			}); err != nil {
				return fmt.Errorf("join vrf %d (is there such a table, for both families?): %w", c.VRF, err)
			}
		}
	}
	addresses := c.Addresses
	if c.gateways && ipam != nil {
		for _, ip := range ipam.IPs {
			if ip.Gateway != nil {
				ones, _ := ip.Address.Mask.Size()
				addresses = append(addresses, fmt.Sprintf("%s/%d", ip.Gateway, ones))
			}
		}
	}
	for _, text := range addresses {
		if err := step("add address %s", text); err != nil {
			return err
		}
		prefix, err := ip_types.ParseAddressWithPrefix(text)
		if err != nil {
			return err
		}
		if _, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceAddDelAddressReply, error) {
			return interfaces.NewServiceClient(s.conn).SwInterfaceAddDelAddress(ctx, &interfaces.SwInterfaceAddDelAddress{SwIfIndex: index, IsAdd: true, Prefix: prefix})
		}); err != nil {
			return fmt.Errorf("add address %s: %w", text, err)
		}
	}
	for _, r := range c.Routes {
		if err := step("add route %s", r.Dst); err != nil {
			return err
		}
		if err := s.setRoute(ctx, c.VRF, r, index, true); err != nil {
			return fmt.Errorf("add route %s: %w", r.Dst, err)
		}
	}
	return nil
}

func (s *session) setRoute(ctx context.Context, vrf uint32, r Route, index interface_types.InterfaceIndex, add bool) error {
	prefix, err := ip_types.ParsePrefix(r.Dst)
	if err != nil {
		return err
	}
	path := fib_types.FibPath{SwIfIndex: uint32(index), TableID: vrf, Weight: 1, Proto: fib_types.FIB_API_PATH_NH_PROTO_IP4}
	dst, err := netip.ParsePrefix(r.Dst)
	if err != nil {
		return err
	}
	if dst.Addr().Is6() {
		path.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	if r.GW != "" {
		gw, err := ip_types.ParseAddress(r.GW)
		if err != nil {
			return err
		}
		path.Nh.Address = gw.Un
	}
	_, err = call(ctx, s, func(ctx context.Context) (*ip.IPRouteAddDelReply, error) {
		return ip.NewServiceClient(s.conn).IPRouteAddDel(ctx, &ip.IPRouteAddDel{
			IsAdd: add, IsMultipath: true, Route: ip.IPRoute{TableID: vrf, Prefix: prefix, NPaths: 1, Paths: []fib_types.FibPath{path}},
		})
	})
	return err
}
