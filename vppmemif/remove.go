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

	"github.com/plexus-cni/plexus/shareddir"
)

// remove removes the interfaces and sockets of attachments at one VPP, and their bridge
// domains that are empty then. The error is that of a VPP that does not answer; VPP's
// refusals are in the removals.
func (s *session) remove(ctx context.Context, snap *snapshot, all []*removal) error {
	if err := s.deleteFrom(ctx, snap, all); err != nil {
		return err
	}
	domains := map[string]*removal{} // by tag
	for _, r := range all {
		for _, tag := range r.domains {
			if r.err == nil {
				domains[tag] = r
			}
		}
	}
	return s.deleteDomains(ctx, domains)
}

// owns reports whether an interface is the attachment's. An interface that has no tag yet
// is, on a socket that is surely the attachment's, and so is one with another tag on a socket that
// nobody else has a reason to use.
func (r *removal) owns(p *port) bool {
	if p.Tag == r.tag || r.state == nil || !p.isOf(r.state) {
		return p.Tag == r.tag
	}
	return r.state.ownsSocket() || p.Tag == "" && (r.recorded || r.state.Own || r.state.Alone)
}

// uplink is the sub-interface that the attachment has of a domain's uplink, "" for none.
func (r *removal) uplink() string {
	if r.state == nil {
		return ""
	}
	return r.state.Uplink
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
	if err := s.deleteRoutes(ctx, snap, all); err != nil {
		return err
	}
	ports := map[interface_types.InterfaceIndex]*removal{}
	sockets := map[string]*removal{}
	for _, r := range all {
		if r.err != nil {
			continue
		}
		for _, p := range r.ports {
			ports[p.SwIfIndex] = r
			s.deletePort(r, &p)
		}
		for _, name := range r.sockets() {
			sockets[name] = r
		}
	}
	var left []shareddir.Use
	for _, p := range snap.ports {
		if ports[p.SwIfIndex] == nil {
			delete(sockets, p.socket) // another interface uses it
			left = appendUse(left, p.socket, p.Tag)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(snap.sockets)) {
		name := snap.sockets[number]
		if r := sockets[name]; r != nil {
			s.delete(r, "socket "+name, &memif.MemifSocketFilenameAddDelV2{SocketID: number})
		} else { // also of an interface that is not there yet
			left = appendUse(left, name, "")
		}
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	for _, r := range all {
		r.others = left
	}
	return nil
}

// delete queues a deletion. The codes say that the object is gone.
func (s *session) delete(r *removal, object string, m api.Message, gone ...api.VPPApiError) {
	s.send(request{doing: "delete " + object, message: m, refused: func(err error) error {
		if !isCode(err, gone...) {
			r.fail(fmt.Errorf("delete %s: %w", object, err))
		}
		return nil
	}})
}

func (s *session) deletePort(r *removal, p *port) {
	if p.memif == nil {
		s.delete(r, "vhost "+p.InterfaceName, &vhost_user.DeleteVhostUserIf{SwIfIndex: p.SwIfIndex}, codeNoInterface)
		return
	}
	s.delete(r, "memif "+p.InterfaceName, &memif.MemifDelete{SwIfIndex: p.SwIfIndex}, codeNoInterface)
}

func (s *session) deleteRoute(r *removal, dst string, m *ip.IPRouteAddDel) {
	s.delete(r, "route "+dst, m, codeNone, codeNoFIB, codeNoPath)
}

// deleteRoutes deletes the routes through the interfaces of attachments before these: VPP keeps
// them for the interface that gets the number next. They are those of the record or, without
// one, all that VPP has. A member of a bridge domain has none.
func (s *session) deleteRoutes(ctx context.Context, snap *snapshot, all []*removal) error {
	unrecorded := map[uint32]*removal{} // by interface
	for _, r := range all {
		for _, p := range r.ports {
			if !r.recorded && domainOf(snap.domains, p.SwIfIndex) == nil {
				unrecorded[uint32(p.SwIfIndex)] = r
			}
			if r.recorded {
				for _, route := range r.state.Routes {
					s.deleteRoute(r, route.Dst.String(), changeRoute(r.state.VRF, route, p.SwIfIndex, false))
				}
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
// interfaces.
func (s *session) deleteUnrecordedRoutes(ctx context.Context, interfaces map[uint32]*removal) error {
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
			s.deleteRoute(r, d.Route.Prefix.String(), &ip.IPRouteAddDel{IsMultipath: true, Route: route})
		}
	}
	return nil
}
