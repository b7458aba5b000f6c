package vppmemif

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/conf"
)

// found is what VPP has of an attachment. The zero value is nothing.
type found struct {
	port      *port                   // the interface on its socket, nil if there is none
	other     *port                   // one of somebody else's on its socket
	socket    bool                    // VPP knows the socket's name
	domain    *l2.BridgeDomainDetails // that the interface is a member of
	joined    bool                    // it is the attachment's
	tables    [2]uint32               // of IPv4, of IPv6
	addresses []netip.Prefix
	routes    []bool       // of the configuration's, which are there
	dangling  []ip.IPRoute // of its destinations, paths through interfaces that are gone left out
}

// look reads what VPP has of an attachment.
func (s *session) look(ctx context.Context, c *Config, a conf.Attachment, st *state) (*found, error) {
	sockets, err := s.sockets(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.ports(ctx, sockets)
	if err != nil {
		return nil, err
	}
	f := &found{}
	for _, name := range sockets {
		f.socket = f.socket || name == st.Socket
	}
	for _, p := range all {
		f.take(st, p)
	}
	switch {
	case c.BridgeDomain != nil:
		err = s.lookL2(ctx, c, st, f)
	case c.VRF != 0 || len(c.Routes) > 0 || len(c.addressesOf(a.IPAM)) > 0:
		err = s.lookL3(ctx, c, f)
	}
	return f, err
}

// take takes an interface on the attachment's socket for the attachment's own,
// one with its tag before all.
func (f *found) take(st *state, p port) {
	if p.socket != st.Socket {
		return
	}
	own := p.link != nil && (p.memif == nil) == st.Vhost && (st.Vhost || p.memif.ID == st.ID)
	switch {
	case own && f.port == nil:
		f.port = &p
	case own && p.tag() == st.Tag:
		f.port, f.other = &p, f.port
	default:
		f.other = &p
	}
}

// lookL2 finds the bridge domain of the interface.
func (s *session) lookL2(ctx context.Context, c *Config, st *state, f *found) error {
	if f.port == nil {
		return nil
	}
	all, err := s.domains(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(d *l2.BridgeDomainDetails) bool {
		return slices.ContainsFunc(d.SwIfDetails, func(i l2.BridgeDomainSwIf) bool { return i.SwIfIndex == f.port.index })
	})
	if at >= 0 {
		f.domain, f.joined = all[at], st.isDomain(c.BridgeDomain, all[at])
	}
	return nil
}

// lookL3 reads tables and addresses of the interface, and the configuration's
// routes.
func (s *session) lookL3(ctx context.Context, c *Config, f *found) error {
	if err := compatible(ctx, s.conn, lookMessages()...); err != nil {
		return err
	}
	for family, six := range []bool{false, true} {
		if f.port == nil {
			break
		}
		table, err := call(ctx, s, func(ctx context.Context) (*interfaces.SwInterfaceGetTableReply, error) {
			return interfaces.NewServiceClient(s.conn).SwInterfaceGetTable(ctx, &interfaces.SwInterfaceGetTable{SwIfIndex: f.port.index, IsIPv6: six})
		})
		if err != nil {
			return fmt.Errorf("read the table of %s: %w", f.port.name, err)
		}
		f.tables[family] = table.VrfID
		addresses, err := list(ctx, s, func(ctx context.Context) (ip.RPCService_IPAddressDumpClient, error) {
			return ip.NewServiceClient(s.conn).IPAddressDump(ctx, &ip.IPAddressDump{SwIfIndex: f.port.index, IsIPv6: six})
		})
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", f.port.name, err)
		}
		for _, a := range addresses {
			if p, err := netip.ParsePrefix(a.Prefix.String()); err == nil {
				f.addresses = append(f.addresses, p)
			}
		}
	}
	return s.lookRoutes(ctx, c, f)
}

// lookRoutes reads the table of each family that the configuration has routes of.
func (s *session) lookRoutes(ctx context.Context, c *Config, f *found) error {
	f.routes = make([]bool, len(c.Routes))
	if len(c.Routes) == 0 {
		return nil
	}
	links, err := s.interfaces(ctx)
	if err != nil {
		return err
	}
	for _, six := range []bool{false, true} {
		wanted := map[netip.Prefix][]int{} // by where they lead
		for i, r := range c.Routes {
			if dst, err := netip.ParsePrefix(r.Dst); err == nil && dst.Addr().Is6() == six {
				wanted[dst.Masked()] = append(wanted[dst.Masked()], i)
			}
		}
		if len(wanted) == 0 {
			continue
		}
		all, err := list(ctx, s, func(ctx context.Context) (ip.RPCService_IPRouteDumpClient, error) {
			return ip.NewServiceClient(s.conn).IPRouteDump(ctx, &ip.IPRouteDump{Table: ip.IPTable{TableID: c.VRF, IsIP6: six}})
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, d := range all {
			dst, err := netip.ParsePrefix(d.Route.Prefix.String())
			if err != nil || wanted[dst.Masked()] == nil {
				continue
			}
			for _, i := range wanted[dst.Masked()] {
				f.routes[i] = f.port != nil && leads(d.Route.Paths, c.VRF, c.Routes[i], f.port.index)
			}
			f.addDangling(d.Route, links)
		}
	}
	return nil
}

// leads tells whether one of the paths is that of a route through an interface.
func leads(paths []fib_types.FibPath, vrf uint32, r Route, index interface_types.InterfaceIndex) bool {
	want, err := pathOf(vrf, r, index)
	return err == nil && slices.ContainsFunc(paths, func(p fib_types.FibPath) bool {
		return p.Type == want.Type && p.SwIfIndex == want.SwIfIndex && p.Proto == want.Proto && p.Nh.Address == want.Nh.Address
	})
}

// addDangling keeps a route with paths through interfaces that are gone. Such a
// path drops what it gets, also when an interface of its number is made again,
// and VPP 26.06 dies of another path beside it.
func (f *found) addDangling(r ip.IPRoute, links map[interface_types.InterfaceIndex]*interfaces.SwInterfaceDetails) {
	living := slices.DeleteFunc(slices.Clone(r.Paths), func(p fib_types.FibPath) bool {
		return p.Type == fib_types.FIB_API_PATH_TYPE_NORMAL && p.SwIfIndex != noInterface && links[interface_types.InterfaceIndex(p.SwIfIndex)] == nil
	})
	if len(living) < len(r.Paths) {
		r.Paths, r.NPaths = living, uint8(len(living))
		f.dangling = append(f.dangling, r)
	}
}

// noInterface is the number that stands for none (vnet's ~0).
const noInterface = ^uint32(0)

func (f *found) up() bool {
	return f.port != nil && f.port.link.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0
}

func (f *found) linkUp() bool {
	return f.port != nil && f.port.link.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0
}

// mtu is that of all that passes, 0 without an interface.
func (f *found) mtu() int {
	if f.port == nil || len(f.port.link.Mtu) == 0 {
		return 0
	}
	return int(f.port.link.Mtu[0])
}

func (f *found) mac() string {
	if f.port == nil {
		return ""
	}
	return net.HardwareAddr(f.port.link.L2Address[:]).String()
}

// vlan is the tag that the pod's frames get, 0 for none.
func (f *found) vlan() int {
	if f.port == nil || f.port.link.VtrOp != vtrPush1 {
		return 0
	}
	return int(f.port.link.VtrTag1)
}

// hasAddress tells whether the interface has an address, however it is written.
func (f *found) hasAddress(text string) bool {
	p, err := netip.ParsePrefix(text)
	return err == nil && slices.Contains(f.addresses, p)
}

func (f *found) routed(i int) bool { return i < len(f.routes) && f.routes[i] }

// hasMAC tells whether the configuration gives the interface an address. In mode
// ip a memif has none.
func (c *Config) hasMAC() bool { return c.MAC != "" && (c.vhost || c.Mode == "ethernet") }

// mac is the configuration's address in the usual form.
func (c *Config) mac() string {
	hw, err := net.ParseMAC(c.MAC)
	if err != nil {
		return c.MAC
	}
	return hw.String()
}

// differences holds what VPP has against what Add makes. Each one is named.
func (f *found) differences(c *Config, a conf.Attachment, st *state) (errs []error) {
	p := f.port
	switch {
	case p == nil && !f.socket && !st.Vhost:
		return []error{fmt.Errorf("socket %s is gone from VPP (has it been restarted?)", st.Socket)}
	case p == nil:
		return []error{fmt.Errorf("the %s on socket %s (id %d) is gone from VPP", st.kind(), st.Socket, st.ID)}
	}
	object := st.kind() + " " + p.name
	differs := func(what string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			errs = append(errs, fmt.Errorf("%s: %s is %s, was %s", object, what, h, w))
		}
	}
	gone := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s is gone", object, fmt.Sprintf(format, args...)))
	}
	differs("tag", p.tag(), st.Tag)
	differs("role", roleOf(p.server), c.Role)
	if p.memif != nil {
		differs("mode", modeOf(p.memif.Mode), c.Mode)
	}
	differs("admin state up", f.up(), true)
	if c.MTU != 0 {
		differs("mtu", f.mtu(), c.MTU)
	}
	if c.hasMAC() {
		differs("mac", f.mac(), c.mac())
	}
	if c.VLAN != 0 {
		differs("vlan", f.vlan(), c.VLAN)
	}
	if c.BridgeDomain != nil && !f.joined {
		errs = append(errs, fmt.Errorf("%s is no longer in its bridge domain %s", object, st.DomainTag))
	}
	if c.BridgeDomain == nil {
		f.differencesL3(c, a.IPAM, differs, gone)
	}
	return errs
}

func (f *found) differencesL3(c *Config, ipam *types100.Result, differs func(what string, have, want any), gone func(format string, args ...any)) {
	if f.routes == nil {
		return // nothing was read, as there is nothing to compare
	}
	differs("vrf of IPv4", f.tables[0], c.VRF)
	differs("vrf of IPv6", f.tables[1], c.VRF)
	for _, text := range c.addressesOf(ipam) {
		if !f.hasAddress(text) {
			gone("address %s", text)
		}
	}
	for i, r := range c.Routes {
		if !f.routed(i) {
			gone("route %s", r)
		}
	}
}

func (r Route) String() string {
	if r.GW == "" {
		return r.Dst
	}
	return r.Dst + " via " + r.GW
}

func roleOf(server bool) string {
	if server {
		return "server"
	}
	return "client"
}

func modeOf(m memif.MemifMode) string {
	switch m {
	case memif.MEMIF_MODE_API_ETHERNET:
		return "ethernet"
	case memif.MEMIF_MODE_API_IP:
		return "ip"
	}
	return m.String()
}
