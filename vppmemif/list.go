package vppmemif

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"

	"github.com/plexus-cni/plexus/shareddir"
)

// sockets are the names of all memif sockets by their numbers. Two may have one
// name.
func (s *session) sockets(ctx context.Context) (map[uint32]string, error) {
	all, err := list(ctx, s, func(ctx context.Context) (memif.RPCService_MemifSocketFilenameDumpClient, error) {
		return memif.NewServiceClient(s.conn).MemifSocketFilenameDump(ctx, &memif.MemifSocketFilenameDump{})
	})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	names := map[uint32]string{}
	for _, d := range all {
		names[d.SocketID] = d.SocketFilename
	}
	return names, nil
}

func (s *session) memifs(ctx context.Context) ([]*memif.MemifDetails, error) {
	all, err := list(ctx, s, func(ctx context.Context) (memif.RPCService_MemifDumpClient, error) {
		return memif.NewServiceClient(s.conn).MemifDump(ctx, &memif.MemifDump{})
	})
	if err != nil {
		return nil, fmt.Errorf("list memifs: %w", err)
	}
	return all, nil
}

func (s *session) interfaces(ctx context.Context) (map[interface_types.InterfaceIndex]*interfaces.SwInterfaceDetails, error) {
	all, err := list(ctx, s, func(ctx context.Context) (interfaces.RPCService_SwInterfaceDumpClient, error) {
		return interfaces.NewServiceClient(s.conn).SwInterfaceDump(ctx, &interfaces.SwInterfaceDump{SwIfIndex: ^interface_types.InterfaceIndex(0)})
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	found := map[interface_types.InterfaceIndex]*interfaces.SwInterfaceDetails{}
	for _, d := range all {
		found[d.SwIfIndex] = d
	}
	return found, nil
}

func (s *session) domains(ctx context.Context) ([]*l2.BridgeDomainDetails, error) {
	b, err := s.askDomains(ctx)
	if err != nil {
		return nil, err
	}
	defer b.end()
	return s.readDomains(ctx, b)
}

// askDomains asks for the bridge domains, which readDomains reads.
func (s *session) askDomains(ctx context.Context) (*begun, error) {
	b, err := s.begin(ctx, &l2.BridgeDomainDump{BdID: ^uint32(0), SwIfIndex: ^interface_types.InterfaceIndex(0)}, &memclnt.ControlPing{})
	if err != nil {
		return nil, fmt.Errorf("list bridge domains: %w", err)
	}
	return b, nil
}

func (s *session) readDomains(ctx context.Context, b *begun) (all []*l2.BridgeDomainDetails, err error) {
	err = s.finish(ctx, b, func(reply api.Message) (bool, error) {
		d, more := reply.(*l2.BridgeDomainDetails)
		if more {
			all = append(all, d)
			return false, nil
		}
		return true, refusal(reply) // the ping's, behind them
	})
	if err != nil {
		return nil, fmt.Errorf("list bridge domains: %w", err)
	}
	return all, nil
}

func (s *session) tables(ctx context.Context) ([]*ip.IPTableDetails, error) {
	all, err := list(ctx, s, func(ctx context.Context) (ip.RPCService_IPTableDumpClient, error) {
		return ip.NewServiceClient(s.conn).IPTableDump(ctx, &ip.IPTableDump{})
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return all, nil
}

// port is an interface on a socket.
type port struct {
	index  interface_types.InterfaceIndex
	name   string // VPP's
	socket string
	link   *interfaces.SwInterfaceDetails // nil if it has gone meanwhile
	memif  *memif.MemifDetails            // nil: vhost-user
	server bool                           // VPP listens
}

func (p *port) tag() string {
	if p.link == nil {
		return ""
	}
	return p.link.Tag
}

// ports are all memifs, and all vhost-user interfaces if VPP has that plugin.
func (s *session) ports(ctx context.Context, sockets map[uint32]string) ([]port, error) {
	memifs, err := s.memifs(ctx)
	if err != nil {
		return nil, err
	}
	vhosts, err := s.vhosts(ctx)
	if err != nil {
		return nil, err
	}
	links, err := s.interfaces(ctx)
	if err != nil {
		return nil, err
	}
	var all []port
	for _, m := range memifs {
		all = append(all, port{index: m.SwIfIndex, name: m.IfName, socket: sockets[m.SocketID], link: links[m.SwIfIndex], memif: m, server: m.Role == memif.MEMIF_ROLE_API_MASTER})
	}
	for _, v := range vhosts {
		all = append(all, port{index: v.SwIfIndex, name: v.InterfaceName, socket: v.SockFilename, link: links[v.SwIfIndex], server: v.IsServer})
	}
	return all, nil
}

func (s *session) vhosts(ctx context.Context) ([]*vhost_user.SwInterfaceVhostUserDetails, error) {
	if compatible(ctx, s.conn, vhostMessages()...) != nil {
		return nil, nil // without the plugin there are none, and none of ours without these messages
	}
	all, err := list(ctx, s, func(ctx context.Context) (vhost_user.RPCService_SwInterfaceVhostUserDumpClient, error) {
		return vhost_user.NewServiceClient(s.conn).SwInterfaceVhostUserDump(ctx, &vhost_user.SwInterfaceVhostUserDump{SwIfIndex: ^interface_types.InterfaceIndex(0)})
	})
	if err != nil {
		return nil, fmt.Errorf("list vhost-user interfaces: %w", err)
	}
	return all, nil
}

// forgetRoutes removes the routes through an interface that nobody has recorded.
func (s *session) forgetRoutes(ctx context.Context, p port) error {
	domains, err := s.domains(ctx)
	if err != nil {
		return err
	}
	for _, d := range domains {
		if slices.ContainsFunc(d.SwIfDetails, func(i l2.BridgeDomainSwIf) bool { return i.SwIfIndex == p.index }) {
			return nil // a member of a bridge domain has none
		}
	}
	if err := compatible(ctx, s.conn, routeMessages()...); err != nil {
		return err
	}
	tables, err := s.tables(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		routes, err := list(ctx, s, func(ctx context.Context) (ip.RPCService_IPRouteDumpClient, error) {
			return ip.NewServiceClient(s.conn).IPRouteDump(ctx, &ip.IPRouteDump{Table: t.Table})
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			for _, path := range r.Route.Paths {
				if path.SwIfIndex != uint32(p.index) || path.Type != fib_types.FIB_API_PATH_TYPE_NORMAL {
					continue
				}
				_, err := call(ctx, s, func(ctx context.Context) (*ip.IPRouteAddDelReply, error) {
					return ip.NewServiceClient(s.conn).IPRouteAddDel(ctx, &ip.IPRouteAddDel{IsMultipath: true, Route: ip.IPRoute{
						TableID: r.Route.TableID, Prefix: r.Route.Prefix, NPaths: 1, Paths: []fib_types.FibPath{path},
					}})
				})
				if err != nil && !answered(err, codeNone, codeNoFIB, codeNoPath) {
					return fmt.Errorf("delete route %s: %w", r.Route.Prefix, err)
				}
			}
		}
	}
	return nil
}

// usesOf are the uses of folders by the sockets that this VPP has.
func usesOf(sockets []string) []shareddir.Use {
	var uses []shareddir.Use
	for _, name := range sockets {
		if filepath.IsAbs(name) {
			uses = append(uses, shareddir.Use{Folder: folderOf(name), File: filepath.Base(name)})
		}
	}
	return uses
}

// folderOf is the folder that a socket is in, behind a short link perhaps. VPP may lie:
// a use of a folder only keeps what is in it.
func folderOf(socket string) shareddir.Folder {
	f := shareddir.Folder{Dir: filepath.Dir(socket), GID: -1}
	if at, err := os.Readlink(f.Dir); err == nil && filepath.Dir(f.Dir) == shareddir.ShortLinks {
		f.Dir, f.Link = at, f.Dir
	}
	return f
}
