package vppmemif

import (
	"context"
	"fmt"
	"maps"
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
	snap      *snapshot
	port      *port                   // the interface on its socket, nil if there is none
	other     *port                   // another one on its socket
	numbers   []uint32                // of its socket
	domain    *l2.BridgeDomainDetails // of which the interface is a member
	joined    bool                    // the domain is the attachment's
	uplinked  bool                    // and has its uplink
	tables    [2]uint32               // of IPv4, of IPv6
	addresses []netip.Prefix
	routes    map[route]bool // which of the configuration's are there; nil: L3 is not read
	dangling  []ip.IPRoute   // of the same destinations, less their paths through interfaces that are gone
}

// look reads the view of an attachment.
func (s *session) look(ctx context.Context, p *attachment, snap *snapshot) (_ *view, err error) {
	v := &view{snap: snap, numbers: snap.numbers[p.state.Socket]}
	for _, at := range snap.on[p.state.Socket] {
		v.assign(p.state, snap.ports[at])
	}
	c := p.config
	switch {
	case c.BridgeDomain != nil && v.port != nil:
		v.domain = domainOf(snap.domains, v.port.SwIfIndex)
		v.joined = v.domain != nil && p.state.isDomain(c.BridgeDomain, v.domain)
		v.uplinked = v.joined && p.state.Uplink != "" && isUplink(findUplink(p.state.DomainTag, p.state.Uplink, slices.Collect(maps.Values(snap.interfaces)), snap.domains), v.domain)
	case c.BridgeDomain == nil && v.port != nil, c.VRF != 0, len(c.routes) > 0:
		err = s.lookL3(ctx, c, v)
	}
	return v, err
}

// assign decides whether an interface on the attachment's socket is its own. One with its tag
// has precedence.
func (v *view) assign(st *state, p port) {
	own := p.isOf(st)
	switch {
	case own && v.port == nil:
		v.port = &p
	case own && p.Tag == st.Tag:
		v.port, v.other = &p, v.port
	default:
		v.other = &p
	}
}

// lookL3 reads tables and addresses of the interface, and the configuration's routes, each by
// its prefix: others may have many.
func (s *session) lookL3(ctx context.Context, c *Config, v *view) error {
	if err := s.conn.compatible(ctx, layer3Messages()...); err != nil {
		return err
	}
	var addresses []*ip.IPAddressDetails
	var routes []*ip.IPRouteDetails
	for i, family := range families {
		six := family.six
		if p := v.port; p != nil {
			s.send(request{
				doing: "read the table of " + p.InterfaceName, message: &interfaces.SwInterfaceGetTable{SwIfIndex: p.SwIfIndex, IsIPv6: six},
				done: func(reply api.Message) { v.tables[i] = reply.(*interfaces.SwInterfaceGetTableReply).VrfID },
			})
			list(s, "addresses of "+p.InterfaceName, &ip.IPAddressDump{SwIfIndex: p.SwIfIndex, IsIPv6: six}, &addresses)
		}
	}
	for _, r := range c.routes {
		s.send(request{
			doing: "read route " + r.Dst.String(), message: &ip.IPRouteLookupV2{TableID: c.VRF, Exact: 1, Prefix: binaryPrefix(r.Dst.Masked())},
			done: func(reply api.Message) {
				found := reply.(*ip.IPRouteLookupV2Reply).Route
				routes = append(routes, &ip.IPRouteDetails{Route: ip.IPRoute{TableID: found.TableID, Prefix: found.Prefix, NPaths: found.NPaths, Paths: found.Paths}})
			},
			refused: func(err error) error {
				if isCode(err, codeNone, codeNoFIB) { // the route or its table is gone
					return nil
				}
				return fmt.Errorf("read route %s: %w", r.Dst, err)
			},
		})
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.Prefix.String()); err == nil {
			v.addresses = append(v.addresses, p)
		}
	}
	v.readRoutes(c, routes)
	return nil
}

// readRoutes compares the routes of VPP with the configuration's.
func (v *view) readRoutes(c *Config, all []*ip.IPRouteDetails) {
	v.routes = map[route]bool{}
	byDst := map[netip.Prefix][]route{}
	for _, r := range c.routes {
		byDst[r.Dst.Masked()] = append(byDst[r.Dst.Masked()], r)
	}
	for _, d := range all {
		dst, err := netip.ParsePrefix(d.Route.Prefix.String())
		if err != nil || byDst[dst.Masked()] == nil {
			continue
		}
		for _, r := range byDst[dst.Masked()] {
			v.routes[r] = v.port != nil && slices.ContainsFunc(d.Route.Paths, func(p fib_types.FibPath) bool {
				want := pathOf(c.VRF, r, v.port.SwIfIndex)
				return p.Type == want.Type && p.SwIfIndex == want.SwIfIndex && p.Proto == want.Proto && p.Nh.Address == want.Nh.Address
			})
		}
		v.addDangling(d.Route)
	}
}

// addDangling keeps a route with paths through interfaces that are gone. Such a path drops
// its frames, also when an interface of its number is made again, and VPP 26.06 dies of
// another path beside it.
func (v *view) addDangling(r ip.IPRoute) {
	living := slices.DeleteFunc(slices.Clone(r.Paths), func(p fib_types.FibPath) bool {
		return p.Type == fib_types.FIB_API_PATH_TYPE_NORMAL && p.SwIfIndex != noInterface &&
			v.snap.interfaces[interface_types.InterfaceIndex(p.SwIfIndex)] == nil
	})
	if len(living) < len(r.Paths) {
		r.Paths, r.NPaths = living, uint8(len(living))
		v.dangling = append(v.dangling, r)
	}
}
