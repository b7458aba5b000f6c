package vppmemif

import (
	"context"
	"path"
	"path/filepath"
	"slices"
	"strings"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"

	"github.com/plexus-cni/plexus/shareddir"
)

// allInterfaces asks a dump for every interface; noInterface is the number of none (vnet's ~0).
const (
	allInterfaces = ^interface_types.InterfaceIndex(0)
	noInterface   = ^uint32(0)
)

// snapshot is a list of VPP's sockets, interfaces and bridge domains.
type snapshot struct {
	sockets    map[uint32]string // names of memif sockets by number; two numbers may have one name
	interfaces map[interface_types.InterfaceIndex]*interfaces.SwInterfaceDetails
	ports      []port
	domains    []*l2.BridgeDomainDetails

	numbers map[string][]uint32 // of sockets, by name
	on      map[string][]int    // places in ports, by the name of the socket
}

func (snap *snapshot) addSocket(number uint32, name string) {
	snap.sockets[number] = name
	snap.numbers[name] = append(snap.numbers[name], number)
}

func (snap *snapshot) addPort(p port) {
	snap.on[p.socket] = append(snap.on[p.socket], len(snap.ports))
	snap.ports = append(snap.ports, p)
}

// port is an interface on a socket.
type port struct {
	*interfaces.SwInterfaceDetails
	socket string
	memif  *memif.MemifDetails // nil: vhost-user
	server bool                // VPP listens
}

// vlan is the tag that the pod's frames get, 0 for none.
func (p *port) vlan() uint32 {
	if p.VtrOp != vtrPush1 {
		return 0
	}
	return p.VtrTag1
}

func isUp(i *interfaces.SwInterfaceDetails) bool {
	return i.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0
}

func (p *port) isLinkUp() bool { return p.Flags&interface_types.IF_STATUS_API_FLAG_LINK_UP != 0 }

// isOf reports whether the port is at the place of an attachment's: its socket, and the
// number on it.
func (p *port) isOf(st *state) bool {
	return p.socket == st.Socket && (p.memif == nil) == st.Vhost && (st.Vhost || p.memif.ID == st.ID)
}

// listDomains queues the dump of bridge domains.
func (s *session) listDomains(all *[]*l2.BridgeDomainDetails) {
	list(s, "bridge domains", &l2.BridgeDomainDump{BdID: ^uint32(0), SwIfIndex: allInterfaces}, all)
}

// domainOf is the bridge domain of an interface, nil for none.
func domainOf(domains []*l2.BridgeDomainDetails, index interface_types.InterfaceIndex) *l2.BridgeDomainDetails {
	for _, d := range domains {
		if slices.ContainsFunc(d.SwIfDetails, func(member l2.BridgeDomainSwIf) bool { return member.SwIfIndex == index }) {
			return d
		}
	}
	return nil
}

// ownDomains are the tags of the bridge domains that owner has made.
func (snap *snapshot) ownDomains(owner string) (tags []string) {
	for _, d := range snap.domains {
		if strings.HasPrefix(d.BdTag, ownerTag(owner)+domainMark) {
			tags = append(tags, d.BdTag)
		}
	}
	return tags
}

// tables lists tables.
func (s *session) tables(ctx context.Context) (all []*ip.IPTableDetails, err error) {
	list(s, "tables", &ip.IPTableDump{}, &all)
	err = s.flush(ctx)
	return all, err
}

// snapshot lists sockets, the interfaces of memif and vhost-user, and bridge domains. A VPP
// without the plugin vhost-user has no interfaces of that kind.
func (s *session) snapshot(ctx context.Context) (*snapshot, error) {
	snap := &snapshot{
		sockets: map[uint32]string{}, interfaces: map[interface_types.InterfaceIndex]*interfaces.SwInterfaceDetails{},
		numbers: map[string][]uint32{}, on: map[string][]int{},
	}
	var sockets []*memif.MemifSocketFilenameDetails
	var memifs []*memif.MemifDetails
	var vhosts []*vhost_user.SwInterfaceVhostUserDetails
	var all []*interfaces.SwInterfaceDetails
	list(s, "sockets", &memif.MemifSocketFilenameDump{}, &sockets)
	list(s, "memifs", &memif.MemifDump{}, &memifs)
	if s.conn.unknown(vhostMessages()...) == nil {
		list(s, "vhost-user interfaces", &vhost_user.SwInterfaceVhostUserDump{SwIfIndex: allInterfaces}, &vhosts)
	}
	s.listInterfaces(&all)
	s.listDomains(&snap.domains)
	if err := s.flush(ctx); err != nil {
		return nil, err
	}
	for _, d := range sockets {
		snap.addSocket(d.SocketID, d.SocketFilename)
	}
	for _, d := range all {
		snap.interfaces[d.SwIfIndex] = d
	}
	add := func(index interface_types.InterfaceIndex, socket string, m *memif.MemifDetails, server bool) {
		if details := snap.interfaces[index]; details != nil { // otherwise it has gone meanwhile
			snap.addPort(port{details, socket, m, server})
		}
	}
	for _, m := range memifs {
		add(m.SwIfIndex, snap.sockets[m.SocketID], m, m.Role == memif.MEMIF_ROLE_API_MASTER)
	}
	for _, v := range vhosts {
		add(v.SwIfIndex, v.SockFilename, nil, v.IsServer)
	}
	return snap, nil
}

// appendUse appends the use of a folder by a socket of VPP, which may know the folder by its
// short path, and by the file beside it if the tag of an interface says whose it is. A name that
// VPP invents does no harm: a use only keeps the names in the folder.
func appendUse(uses []shareddir.Use, socket, tag string) []shareddir.Use {
	if !filepath.IsAbs(socket) {
		return uses
	}
	u := shareddir.Use{Folder: shareddir.Folder{Dir: filepath.Dir(socket), GID: -1}, File: filepath.Base(socket)}
	if strings.HasPrefix(tag, tagPrefix) {
		u.Config = shareddir.InfoName(path.Base(tag))
	}
	return append(uses, u)
}
