package standin

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	"go.fd.io/govpp/binapi/ip"
)

// noPaths is the return code for a route without paths; govpp names it after
// another error.
const noPaths = int32(-52)

// tableKey names a routing table.
type tableKey struct {
	id   uint32
	ipv6 bool
}

// table4or6 is a routing table.
type table4or6 struct {
	name   string
	owned  bool // made by the API and not deleted by it
	routes map[netip.Prefix][]fib_types.FibPath
}

func (v *vswitch) registerTables(t *table) {
	one(t, func(m *ip.IPTableAddDel) *ip.IPTableAddDelReply {
		v.tableAddDel(m.IsAdd, m.Table)
		return &ip.IPTableAddDelReply{}
	})
	one(t, func(m *ip.IPTableAddDelV2) *ip.IPTableAddDelV2Reply {
		v.tableAddDel(m.IsAdd, m.Table)
		return &ip.IPTableAddDelV2Reply{}
	})
	dump(t, func(*ip.IPTableDump) (all []*ip.IPTableDetails) {
		for _, key := range v.tableKeys() {
			all = append(all, &ip.IPTableDetails{Table: ip.IPTable{TableID: key.id, IsIP6: key.ipv6, Name: v.tables[key].name}})
		}
		return all
	})
	one(t, func(m *ip.IPRouteAddDel) *ip.IPRouteAddDelReply {
		return &ip.IPRouteAddDelReply{Retval: v.routeAddDel(m)}
	})
	dump(t, v.routeDump)
	one(t, v.routeLookup)
}

// routeLookup is the route of a prefix, which has to be the same with Exact; plexus does not
// look up another way.
func (v *vswitch) routeLookup(m *ip.IPRouteLookupV2) *ip.IPRouteLookupV2Reply {
	p := fromPrefix(m.Prefix)
	if v.tables[tableKey{m.TableID, p.Addr().Is6()}] == nil {
		return &ip.IPRouteLookupV2Reply{Retval: int32(api.NO_SUCH_FIB)}
	}
	for _, d := range v.routeDump(&ip.IPRouteDump{Table: ip.IPTable{TableID: m.TableID, IsIP6: p.Addr().Is6()}}) {
		if fromPrefix(d.Route.Prefix) == p.Masked() {
			return &ip.IPRouteLookupV2Reply{Route: ip.IPRouteV2{TableID: m.TableID, Prefix: d.Route.Prefix, NPaths: d.Route.NPaths, Paths: d.Route.Paths}}
		}
	}
	return &ip.IPRouteLookupV2Reply{Retval: int32(api.NO_SUCH_ENTRY)}
}

// tableAddDel adds a table, or gives up the one the API has added. A table that
// interfaces or routes use stays until they do not any more; table 0 stays.
func (v *vswitch) tableAddDel(add bool, m ip.IPTable) {
	key := tableKey{m.TableID, m.IsIP6}
	if key.id == 0 {
		return
	}
	t := v.tables[key]
	switch {
	case add && t == nil:
		v.tables[key] = &table4or6{name: cut(cString(m.Name)), owned: true}
	case add:
		t.owned = true
	case t != nil:
		t.owned = false
		v.collect()
	}
}

// collect deletes tables nobody holds.
func (v *vswitch) collect() {
	maps.DeleteFunc(v.tables, func(key tableKey, t *table4or6) bool {
		if key.id == 0 || t.owned || len(t.routes) > 0 {
			return false
		}
		for _, i := range v.interfaces {
			if i.tables[family(key.ipv6)] == key.id {
				return false
			}
		}
		return true
	})
}

// tableKeys are the tables, those of IPv4 first.
func (v *vswitch) tableKeys() []tableKey {
	return slices.SortedFunc(maps.Keys(v.tables), func(a, b tableKey) int {
		return cmp.Or(cmp.Compare(family(a.ipv6), family(b.ipv6)), cmp.Compare(a.id, b.id))
	})
}

func (v *vswitch) routeAddDel(m *ip.IPRouteAddDel) int32 {
	p := fromPrefix(m.Route.Prefix)
	key := tableKey{m.Route.TableID, p.Addr().Is6()}
	t := v.tables[key]
	if t == nil {
		return int32(api.NO_SUCH_FIB)
	}
	for i := range m.Route.Paths {
		path := &m.Route.Paths[i]
		if path.Weight == 0 {
			path.Weight = 1
		}
		if path.Type != fib_types.FIB_API_PATH_TYPE_NORMAL {
			continue
		}
		if path.SwIfIndex != unset && v.interfaces[path.SwIfIndex] == nil {
			return int32(api.NO_MATCHING_INTERFACE)
		}
		if path.SwIfIndex == unset && v.tables[tableKey{path.TableID, path.Proto == fib_types.FIB_API_PATH_NH_PROTO_IP6}] == nil {
			return int32(api.NO_SUCH_FIB)
		}
	}
	if len(m.Route.Paths) == 0 && (m.IsAdd || m.IsMultipath) {
		return noPaths
	}
	if !p.IsValid() {
		return int32(api.INVALID_PREFIX_LENGTH)
	}
	p = p.Masked()
	var paths []fib_types.FibPath
	switch {
	case m.IsAdd && m.IsMultipath:
		paths = append(without(t.routes[p], m.Route.Paths), m.Route.Paths...)
	case m.IsAdd:
		paths = m.Route.Paths
	case m.IsMultipath:
		paths = without(t.routes[p], m.Route.Paths)
	}
	if len(paths) == 0 {
		delete(t.routes, p)
		v.collect()
		return success
	}
	if t.routes == nil {
		t.routes = map[netip.Prefix][]fib_types.FibPath{}
	}
	t.routes[p] = paths
	return success
}

// without are the paths that lead elsewhere than the others.
func without(paths, others []fib_types.FibPath) []fib_types.FibPath {
	return slices.DeleteFunc(slices.Clone(paths), func(p fib_types.FibPath) bool {
		return slices.ContainsFunc(others, func(q fib_types.FibPath) bool {
			return p.SwIfIndex == q.SwIfIndex && p.TableID == q.TableID && p.Type == q.Type && p.Proto == q.Proto && p.Nh == q.Nh
		})
	})
}

// dropAddresses removes the addresses and tables of an interface that is
// deleted. Its routes stay, as in VPP, where they lead to whatever gets its number
// next: who made them has to remove them.
func (v *vswitch) dropAddresses(i *iface) {
	i.addresses, i.tables = nil, [2]uint32{}
	v.collect()
}

// routeDump lists the routes of the API, those of the addresses of interfaces
// that are up, and those every table has.
func (v *vswitch) routeDump(m *ip.IPRouteDump) (all []*ip.IPRouteDetails) {
	key := tableKey{m.Table.TableID, m.Table.IsIP6}
	t := v.tables[key]
	if t == nil {
		return nil
	}
	routes := map[netip.Prefix][]fib_types.FibPath{}
	builtIn := []string{"0.0.0.0/0", "0.0.0.0/32", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"}
	proto := fib_types.FIB_API_PATH_NH_PROTO_IP4
	if key.ipv6 {
		builtIn, proto = []string{"::/0", "fe80::/10"}, fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	path := func(kind fib_types.FibPathType, index uint32) []fib_types.FibPath {
		return []fib_types.FibPath{{SwIfIndex: index, Weight: 1, Type: kind, Proto: proto}}
	}
	for _, p := range builtIn {
		routes[netip.MustParsePrefix(p)] = path(fib_types.FIB_API_PATH_TYPE_DROP, unset)
	}
	for _, i := range v.interfaces {
		for _, p := range i.addresses {
			if i.up && p.Addr().Is6() == key.ipv6 && i.tables[family(key.ipv6)] == key.id {
				routes[p.Masked()] = path(fib_types.FIB_API_PATH_TYPE_NORMAL, i.index)
				routes[netip.PrefixFrom(p.Addr(), p.Addr().BitLen())] = path(fib_types.FIB_API_PATH_TYPE_LOCAL, i.index)
			}
		}
	}
	maps.Copy(routes, t.routes)
	for _, p := range sortedPrefixes(routes) {
		all = append(all, &ip.IPRouteDetails{Route: ip.IPRoute{TableID: key.id, Prefix: toPrefix(p),
			NPaths: uint8(len(routes[p])), Paths: routes[p]}})
	}
	return all
}

func sortedPrefixes[T any](m map[netip.Prefix]T) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}
