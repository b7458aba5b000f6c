package vppmemif

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"
)

// remove removes the interfaces and sockets of attachments at one VPP, and the bridge
// domains of ours that are empty then. The error is that of a VPP that does not answer;
// VPP's refusals are in the removals.
func (s *session) remove(ctx context.Context, all []*removal) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		for _, p := range snap.ports {
			if r.owns(&p) {
				r.ports = append(r.ports, p)
			}
		}
	}
	if err := s.deleteFrom(ctx, snap, all); err != nil {
		return err
	}
	domains := map[string]*removal{} // by tag
	for _, r := range all {
		switch {
		case r.err != nil:
		case !r.recorded:
			tags, err := s.ownDomains(ctx, r.owner)
			if err != nil {
				return err
			}
			for _, tag := range tags {
				domains[tag] = r
			}
		case r.state.DomainTag != "":
			domains[r.state.DomainTag] = r
		}
	}
	return s.deleteDomains(ctx, slices.Sorted(maps.Keys(domains)), func(tag string, err error) { domains[tag].fail(err) })
}

// owns reports whether an interface is the attachment's. An interface that has no tag yet
// is, on a socket that is surely the attachment's.
func (r *removal) owns(p *port) bool {
	return p.tag() == r.tag || p.tag() == "" && r.state != nil && (r.recorded || r.state.Own || r.state.Alone) && p.isOf(r.state)
}

// sockets are the names of the sockets that go with the attachment.
func (r *removal) sockets() (names []string) {
	if r.state != nil {
		names = append(names, r.state.Socket)
	}
	for _, p := range r.ports {
		if !r.recorded {
			names = append(names, p.socket)
		}
	}
	return names
}

// deleteFrom deletes the routes, the interfaces and the sockets of attachments from VPP.
func (s *session) deleteFrom(ctx context.Context, snap *snapshot, all []*removal) error {
	if err := s.deleteRoutes(ctx, all); err != nil {
		return err
	}
	ports := map[interface_types.InterfaceIndex]*removal{}
	sockets := map[string]*removal{}
	for _, r := range all {
		if r.err != nil {
			continue
		}
		for _, p := range r.ports {
			ports[p.index] = r
			s.deletePort(&p, r.fail)
		}
		for _, name := range r.sockets() {
			sockets[name] = r
		}
	}
	for _, p := range snap.ports {
		if ports[p.index] == nil {
			delete(sockets, p.socket) // another interface uses it
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sockets)) {
		for _, number := range snap.numbers(name) {
			s.delete("socket "+name, &memif.MemifSocketFilenameAddDelV2{SocketID: number}, sockets[name].fail)
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	var left []string
	for _, p := range snap.ports {
		if ports[p.index] == nil {
			left = append(left, p.socket)
		}
	}
	for _, name := range snap.sockets { // also of an interface that is not there yet
		if sockets[name] == nil {
			left = append(left, name)
		}
	}
	others := usesOf(left)
	for _, r := range all {
		r.others = others
	}
	return nil
}

// delete queues a deletion. The codes say that the object is gone.
func (s *session) delete(object string, m api.Message, failed func(error), gone ...api.VPPApiError) {
	s.send(request{doing: "delete " + object, message: m, refused: func(err error) error {
		if !isCode(err, gone...) {
			failed(fmt.Errorf("delete %s: %w", object, err))
		}
		return nil
	}})
}

func (s *session) deletePort(p *port, failed func(error)) {
	if p.memif == nil {
		s.delete("vhost "+p.name, &vhost_user.DeleteVhostUserIf{SwIfIndex: p.index}, failed, codeNoInterface)
		return
	}
	s.delete("memif "+p.name, &memif.MemifDelete{SwIfIndex: p.index}, failed, codeNoInterface)
}

func (s *session) deleteRoute(dst string, m *ip.IPRouteAddDel, failed func(error)) {
	s.delete("route "+dst, m, failed, codeNone, codeNoFIB, codeNoPath)
}

// deleteRecordedRoutes queues the routes through an interface, before it is deleted: VPP
// keeps them for the interface that gets its number next.
func (s *session) deleteRecordedRoutes(st *state, p *port, failed func(error)) {
	for _, r := range st.Routes {
		m, err := changeRoute(st.VRF, r, p.index, false)
		if err != nil {
			failed(fmt.Errorf("delete route %s: %w", r.Dst, err))
			continue
		}
		s.deleteRoute(r.Dst, m, failed)
	}
}

// deleteRoutes deletes the routes through the interfaces of attachments, those of the
// record or, without one, all that VPP has.
func (s *session) deleteRoutes(ctx context.Context, all []*removal) error {
	unrecorded := map[uint32]*removal{} // by interface
	for _, r := range all {
		for _, p := range r.ports {
			if r.recorded {
				s.deleteRecordedRoutes(r.state, &p, r.fail)
			} else {
				unrecorded[uint32(p.index)] = r
			}
		}
	}
	if len(unrecorded) > 0 {
		if err := s.deleteUnrecordedRoutes(ctx, unrecorded); err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// deleteUnrecordedRoutes reads the routes of all tables and queues those through the
// interfaces. A member of a bridge domain has none.
func (s *session) deleteUnrecordedRoutes(ctx context.Context, interfaces map[uint32]*removal) error {
	domains, err := s.domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range domains {
		for _, member := range d.SwIfDetails {
			delete(interfaces, uint32(member.SwIfIndex))
		}
	}
	if len(interfaces) == 0 {
		return nil
	}
	if err := s.conn.compatible(ctx, routeMessages()...); err != nil {
		for _, r := range interfaces {
			r.fail(err)
		}
		return nil
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	var routes []*ip.IPRouteDetails
	for _, t := range tables {
		list(s, "routes", &ip.IPRouteDump{Table: t.Table}, &routes)
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for _, d := range routes {
		for _, path := range d.Route.Paths {
			r := interfaces[path.SwIfIndex]
			if r == nil || path.Type != fib_types.FIB_API_PATH_TYPE_NORMAL {
				continue
			}
			route := ip.IPRoute{TableID: d.Route.TableID, Prefix: d.Route.Prefix, NPaths: 1, Paths: []fib_types.FibPath{path}}
			s.deleteRoute(d.Route.Prefix.String(), &ip.IPRouteAddDel{IsMultipath: true, Route: route}, r.fail)
		}
	}
	return nil
}
