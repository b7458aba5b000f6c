package vpp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.fd.io/govpp/adapter/socketclient"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/core"
)

const unset = ^uint32(0)

// reader reads a VPP into lines.
type reader struct {
	ctx   context.Context
	conn  *core.Connection
	lines []string
	label map[interface_types.InterfaceIndex]string
}

// State is what a VPP has: sockets, interfaces, bridge domains, tables and
// routes, one a line, in an order and with names that do not depend on its
// numbers.
func State(socket string) (string, error) {
	conn, err := core.Connect(socketclient.NewVppClient(socket))
	if err != nil {
		return "", err
	}
	defer conn.Disconnect()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r := &reader{ctx: ctx, conn: conn, label: map[interface_types.InterfaceIndex]string{}}
	for _, read := range []func() error{r.interfaces, r.domains, r.tables} {
		if err := read(); err != nil {
			return "", err
		}
	}
	slices.Sort(r.lines)
	return strings.Join(r.lines, "\n") + "\n", nil
}

func (r *reader) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func all[D any, C interface{ Recv() (D, error) }](c C, err error) (list []D, _ error) {
	if err != nil {
		return nil, err
	}
	for {
		d, err := c.Recv()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
}

func (r *reader) interfaces() error {
	m := memif.NewServiceClient(r.conn)
	sockets, err := all(m.MemifSocketFilenameDump(r.ctx, &memif.MemifSocketFilenameDump{}))
	if err != nil {
		return err
	}
	memifs, err := all(m.MemifDump(r.ctx, &memif.MemifDump{}))
	if err != nil {
		return err
	}
	vhosts, err := all(vhost_user.NewServiceClient(r.conn).SwInterfaceVhostUserDump(r.ctx, &vhost_user.SwInterfaceVhostUserDump{SwIfIndex: interface_types.InterfaceIndex(unset)}))
	if err != nil {
		return err
	}
	links, err := all(interfaces.NewServiceClient(r.conn).SwInterfaceDump(r.ctx, &interfaces.SwInterfaceDump{SwIfIndex: interface_types.InterfaceIndex(unset)}))
	if err != nil {
		return err
	}
	files := map[uint32]string{}
	for _, s := range sockets {
		files[s.SocketID] = s.SocketFilename
		r.add("socket %s", s.SocketFilename)
	}
	about := map[interface_types.InterfaceIndex]string{}
	for _, i := range memifs {
		about[i.SwIfIndex] = fmt.Sprintf("memif %s id=%d role=%s mode=%s", files[i.SocketID], i.ID, i.Role, i.Mode)
	}
	for _, i := range vhosts {
		about[i.SwIfIndex] = fmt.Sprintf("vhost-user %s server=%t", i.SockFilename, i.IsServer)
	}
	for _, l := range links {
		what, ok := about[l.SwIfIndex]
		if !ok {
			what = strings.TrimRight(l.InterfaceName, "\x00")
		}
		r.label[l.SwIfIndex] = "(" + what + ")"
		addresses, err := r.addresses(l.SwIfIndex)
		if err != nil {
			return err
		}
		r.add("interface %s tag=%s up=%t mtu=%v vlan-rewrite=%d/%d addresses=%v", what, l.Tag, l.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0, l.Mtu, l.VtrOp, l.VtrTag1, addresses)
	}
	return nil
}

// addresses are an interface's, with the table that it is in.
func (r *reader) addresses(index interface_types.InterfaceIndex) (found []string, err error) {
	for _, six := range []bool{false, true} {
		list, err := all(ip.NewServiceClient(r.conn).IPAddressDump(r.ctx, &ip.IPAddressDump{SwIfIndex: index, IsIPv6: six}))
		if err != nil {
			return nil, err
		}
		table, err := interfaces.NewServiceClient(r.conn).SwInterfaceGetTable(r.ctx, &interfaces.SwInterfaceGetTable{SwIfIndex: index, IsIPv6: six})
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			found = append(found, fmt.Sprintf("%s table %d", a.Prefix, table.VrfID))
		}
	}
	slices.Sort(found)
	return found, nil
}

func (r *reader) domains() error {
	domains, err := all(l2.NewServiceClient(r.conn).BridgeDomainDump(r.ctx, &l2.BridgeDomainDump{BdID: unset, SwIfIndex: interface_types.InterfaceIndex(unset)}))
	if err != nil {
		return err
	}
	for _, b := range domains {
		var members []string
		for _, m := range b.SwIfDetails {
			members = append(members, r.label[m.SwIfIndex])
		}
		slices.Sort(members)
		r.add("bridge-domain %d tag=%q flood=%t learn=%t arp-term=%t members=%v", b.BdID, b.BdTag, b.Flood, b.Learn, b.ArpTerm, members)
	}
	return nil
}

func (r *reader) tables() error {
	s := ip.NewServiceClient(r.conn)
	tables, err := all(s.IPTableDump(r.ctx, &ip.IPTableDump{}))
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Table.TableID != 0 {
			r.add("table %d ip6=%t", t.Table.TableID, t.Table.IsIP6)
		}
		routes, err := all(s.IPRouteDump(r.ctx, &ip.IPRouteDump{Table: ip.IPTable{TableID: t.Table.TableID, IsIP6: t.Table.IsIP6}}))
		if err != nil {
			return err
		}
		for _, route := range routes {
			var via []string
			for _, p := range route.Route.Paths {
				hop := netip.AddrFrom4(p.Nh.Address.GetIP4())
				if route.Route.Prefix.Address.Af == ip_types.ADDRESS_IP6 {
					hop = netip.AddrFrom16(p.Nh.Address.GetIP6())
				}
				to := fmt.Sprint("table ", p.TableID)
				if p.SwIfIndex != unset {
					to = "dev " + r.label[interface_types.InterfaceIndex(p.SwIfIndex)]
				}
				via = append(via, fmt.Sprintf("%s %s %s", p.Type, hop, to))
			}
			slices.Sort(via)
			r.add("route %d %s via %v", t.Table.TableID, route.Route.Prefix, via)
		}
	}
	return nil
}
