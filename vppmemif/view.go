package vppmemif

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
)

// view is the part of VPP that is of one attachment. The zero value is nothing.
type view struct {
	port      *port                   // the interface on its socket, nil if there is none
	other     *port                   // another one on its socket
	numbers   []uint32                // of its socket
	domain    *l2.BridgeDomainDetails // of which the interface is a member
	joined    bool                    // the domain is the attachment's
	tables    [2]uint32               // of IPv4, of IPv6
	addresses []netip.Prefix
	routes    []bool       // which of the configuration's are there; nil: L3 is not read
	dangling  []ip.IPRoute // of the same destinations, less their paths through interfaces that are gone
}

// look reads the view of an attachment.
func (s *session) look(ctx context.Context, p *attachment) (*view, error) {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{numbers: snap.numbers(p.state.Socket)}
	for _, port := range snap.ports {
		v.assign(p.state, port)
	}
	c := p.config
	switch {
	case c.BridgeDomain != nil:
		err = s.lookL2(ctx, p, v)
	case c.VRF != 0 || len(c.Routes) > 0 || len(p.addresses) > 0:
		err = s.lookL3(ctx, c, v, snap)
	}
	return v, err
}

// assign decides whether an interface on the attachment's socket is its own. One with its tag
// has precedence.
func (v *view) assign(st *state, p port) {
	if p.socket != st.Socket {
		return
	}
	own := p.details != nil && p.isOf(st)
	switch {
	case own && v.port == nil:
		v.port = &p
	case own && p.tag() == st.Tag:
		v.port, v.other = &p, v.port
	default:
		v.other = &p
	}
}

// lookL2 finds the bridge domain of the interface.
func (s *session) lookL2(ctx context.Context, p *attachment, v *view) error {
	if v.port == nil {
		return nil
	}
	all, err := s.domains(ctx)
	for _, d := range all {
		if slices.ContainsFunc(d.SwIfDetails, func(i l2.BridgeDomainSwIf) bool { return i.SwIfIndex == v.port.index }) {
			v.domain, v.joined = d, p.state.isDomain(p.config.BridgeDomain, d)
		}
	}
	return err
}

// lookL3 reads tables and addresses of the interface, and the tables in which the
// configuration has routes.
func (s *session) lookL3(ctx context.Context, c *Config, v *view, snap *snapshot) error {
	if err := s.conn.compatible(ctx, layer3Messages()...); err != nil {
		return err
	}
	var addresses []*ip.IPAddressDetails
	var routes []*ip.IPRouteDetails
	for family, six := range []bool{false, true} {
		if v.port != nil {
			s.send(request{
				doing: "read the table of " + v.port.name, message: &interfaces.SwInterfaceGetTable{SwIfIndex: v.port.index, IsIPv6: six},
				done: func(reply api.Message) { v.tables[family] = reply.(*interfaces.SwInterfaceGetTableReply).VrfID },
			})
			list(s, "addresses of "+v.port.name, &ip.IPAddressDump{SwIfIndex: v.port.index, IsIPv6: six}, &addresses)
		}
		if slices.ContainsFunc(c.Routes, func(r Route) bool { return r.isIPv6() == six }) {
			list(s, "routes", &ip.IPRouteDump{Table: ip.IPTable{TableID: c.VRF, IsIP6: six}}, &routes)
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.Prefix.String()); err == nil {
			v.addresses = append(v.addresses, p)
		}
	}
	v.readRoutes(c, routes, snap)
	return nil
}

// readRoutes compares the routes of VPP with the configuration's.
func (v *view) readRoutes(c *Config, all []*ip.IPRouteDetails, snap *snapshot) {
	v.routes = make([]bool, len(c.Routes))
	byDst := map[netip.Prefix][]int{}
	for i, r := range c.Routes {
		if dst, err := netip.ParsePrefix(r.Dst); err == nil {
			byDst[dst.Masked()] = append(byDst[dst.Masked()], i)
		}
	}
	for _, d := range all {
		dst, err := netip.ParsePrefix(d.Route.Prefix.String())
		if err != nil || byDst[dst.Masked()] == nil {
			continue
		}
		for _, i := range byDst[dst.Masked()] {
			v.routes[i] = v.port != nil && hasPath(d.Route.Paths, c.VRF, c.Routes[i], v.port.index)
		}
		v.addDangling(d.Route, snap)
	}
}

// hasPath reports whether one of the paths is that of a route through an interface.
func hasPath(paths []fib_types.FibPath, vrf uint32, r Route, index interface_types.InterfaceIndex) bool {
	want, err := pathOf(vrf, r, index)
	return err == nil && slices.ContainsFunc(paths, func(p fib_types.FibPath) bool {
		return p.Type == want.Type && p.SwIfIndex == want.SwIfIndex && p.Proto == want.Proto && p.Nh.Address == want.Nh.Address
	})
}

// addDangling keeps a route with paths through interfaces that are gone. Such a path drops
// its frames, also when an interface of its number is made again, and VPP 26.06 dies of
// another path beside it.
func (v *view) addDangling(r ip.IPRoute, snap *snapshot) {
	living := slices.DeleteFunc(slices.Clone(r.Paths), func(p fib_types.FibPath) bool {
		return p.Type == fib_types.FIB_API_PATH_TYPE_NORMAL && p.SwIfIndex != noInterface && snap.interfaces[interface_types.InterfaceIndex(p.SwIfIndex)] == nil
	})
	if len(living) < len(r.Paths) {
		r.Paths, r.NPaths = living, uint8(len(living))
		v.dangling = append(v.dangling, r)
	}
}

func (v *view) hasFlag(flag interface_types.IfStatusFlags) bool {
	return v.port != nil && v.port.details.Flags&flag != 0
}

func (v *view) isUp() bool { return v.hasFlag(interface_types.IF_STATUS_API_FLAG_ADMIN_UP) }

func (v *view) isLinkUp() bool { return v.hasFlag(interface_types.IF_STATUS_API_FLAG_LINK_UP) }

// mtu is that of all protocols, 0 without an interface.
func (v *view) mtu() int {
	if v.port == nil || len(v.port.details.Mtu) == 0 {
		return 0
	}
	return int(v.port.details.Mtu[0])
}

func (v *view) mac() string {
	if v.port == nil {
		return ""
	}
	return net.HardwareAddr(v.port.details.L2Address[:]).String()
}

// vlan is the tag that the pod's frames get, 0 for none.
func (v *view) vlan() int {
	if v.port == nil || v.port.details.VtrOp != vtrPush1 {
		return 0
	}
	return int(v.port.details.VtrTag1)
}

func (v *view) hasRoute(i int) bool { return i < len(v.routes) && v.routes[i] }
