package standin

import (
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/interface_types"
	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/memif"
)

// socket is a memif socket.
type socket struct {
	file string
	// refs counts the interfaces, less one for each that failed to listen: VPP
	// takes back a reference it has not taken. While it is not 0 no listener is
	// opened and while it is not positive the id can be deleted.
	refs     int
	listens  bool // its interfaces are servers
	ids      map[uint32]*iface
	listener *memif.Listener // nil if it does not listen
}

// memifIface is what a memif has and other interfaces have not.
type memifIface struct {
	id        uint32
	socketID  uint32
	socket    *socket
	server    bool
	mode      binmemif.MemifMode
	secret    string
	noZero    bool
	ring      uint32 // what was asked for, in descriptors
	buffer    uint16 // what was asked for, in bytes
	queues    int
	connected bool
	port      *memif.Interface // nil without a listener, and for a client that never was up
}

// maxServerPath is the longest path that VPP listens at, in bytes
// (vppinfra/socket.c counts the terminating zero).
const maxServerPath = 106

// resolve is the file of a socket: relative names are below the runtime folder.
func (v *vswitch) resolve(name string) string {
	if filepath.IsAbs(name) || strings.HasPrefix(name, "abstract:") {
		return name
	}
	return filepath.Join(v.runtimeDir, name)
}

func (v *vswitch) registerMemif(t *table) {
	one(t, v.socketAddDel)
	dump(t, v.socketDump)
	one(t, func(m *binmemif.MemifCreateV2) *binmemif.MemifCreateV2Reply {
		index, code := v.memifCreate(m)
		return &binmemif.MemifCreateV2Reply{Retval: code, SwIfIndex: interface_types.InterfaceIndex(index)}
	})
	one(t, func(m *binmemif.MemifDelete) *binmemif.MemifDeleteReply {
		i := v.of(m.SwIfIndex, kindMemif)
		if i == nil {
			return &binmemif.MemifDeleteReply{Retval: int32(api.INVALID_SW_IF_INDEX)}
		}
		v.memifDelete(i)
		return &binmemif.MemifDeleteReply{}
	})
	dump(t, v.memifDump)
}

func (v *vswitch) socketAddDel(m *binmemif.MemifSocketFilenameAddDelV2) *binmemif.MemifSocketFilenameAddDelV2Reply {
	id, name := m.SocketID, m.SocketFilename
	answer := func(code api.VPPApiError) *binmemif.MemifSocketFilenameAddDelV2Reply {
		return &binmemif.MemifSocketFilenameAddDelV2Reply{Retval: int32(code), SocketID: id}
	}
	if id == unset && m.IsAdd {
		for id = 1; v.sockets[id] != nil; id++ {
		}
	}
	s := v.sockets[id]
	switch {
	case id == 0 || id == unset:
		return answer(api.INVALID_ARGUMENT)
	case !m.IsAdd && s == nil:
		return answer(api.INVALID_ARGUMENT)
	case !m.IsAdd && s.refs > 0:
		return answer(api.UNEXPECTED_INTF_STATE)
	case !m.IsAdd:
		delete(v.sockets, id)
		return answer(0)
	case name == "":
		return answer(api.INVALID_ARGUMENT)
	case s != nil && s.file != v.resolve(name):
		return answer(api.ENTRY_ALREADY_EXISTS)
	case s == nil:
		file := v.resolve(name)
		if file != name && os.MkdirAll(filepath.Dir(file), 0o755) != nil {
			return answer(api.SYSCALL_ERROR_1)
		}
		v.sockets[id] = &socket{file: file}
	}
	return answer(0)
}

func (v *vswitch) socketDump(*binmemif.MemifSocketFilenameDump) (all []*binmemif.MemifSocketFilenameDetails) {
	for _, id := range slices.Sorted(maps.Keys(v.sockets)) {
		file := v.sockets[id].file
		all = append(all, &binmemif.MemifSocketFilenameDetails{SocketID: id, SocketFilename: file[:min(len(file), memif.MaxPath)]})
	}
	return all
}

// memifCreate returns the index and the return code. A failure to listen has an
// index too: that of the interface VPP has deleted again.
func (v *vswitch) memifCreate(m *binmemif.MemifCreateV2) (uint32, int32) {
	s, ring := v.sockets[m.SocketID], m.RingSize
	server := m.Role == binmemif.MEMIF_ROLE_API_MASTER
	if ring == 0 {
		ring = 1024
	}
	switch {
	case bits.OnesCount32(ring) != 1 || s == nil:
		return 0, int32(api.INVALID_ARGUMENT)
	case s.refs > 0 && (s.listens != server || s.ids[m.ID] != nil):
		return 0, int32(api.SUBIF_ALREADY_EXISTS)
	case m.Mode > binmemif.MEMIF_MODE_API_IP:
		return 0, int32(api.SYSCALL_ERROR_2)
	}
	if s.refs == 0 {
		s.ids, s.listens = map[uint32]*iface{}, server
	}
	i := v.add(&iface{
		kind: kindMemif, name: fmt.Sprintf("memif%d/%d", m.SocketID, m.ID), mac: macOf(m.HwAddr),
		memif: &memifIface{id: m.ID, socketID: m.SocketID, socket: s, server: server, mode: m.Mode,
			secret: cString(m.Secret), noZero: m.NoZeroCopy, ring: ring, buffer: m.BufferSize, queues: int(m.RxQueues)},
	})
	if m.HwAddr == (ethernet_types.MacAddress{}) {
		i.mac = madeMAC(fmt.Sprint(s.file, m.ID))
	}
	if server && s.refs == 0 {
		if err := v.listen(s); err != nil {
			s.refs--
			v.remove(i)
			return i.index, int32(api.SYSCALL_ERROR_4)
		}
	}
	s.refs++
	s.ids[m.ID] = i
	if server {
		v.openServer(i)
	}
	return i.index, success
}

// listen opens the listener of a socket.
func (v *vswitch) listen(s *socket) error {
	if len(s.file) > maxServerPath && filepath.IsAbs(s.file) {
		return fmt.Errorf("%s has more than %d bytes", s.file, maxServerPath)
	}
	if netns := memif.Netns(s.file); netns != "" {
		if f, err := os.Open(netns); err == nil {
			v.kept = append(v.kept, f)
		}
	}
	l, err := memif.Listen(s.file)
	if err != nil {
		return err
	}
	s.listener = l
	v.listeners = append(v.listeners, l)
	return nil
}

// openServer lets clients connect to an interface, if its socket listens.
func (v *vswitch) openServer(i *iface) {
	m := i.memif
	if m.socket.listener == nil {
		return
	}
	if port, err := m.socket.listener.Open(v.memifConfig(i)); err == nil {
		m.port = port
		v.ports = append(v.ports, port)
	}
}

// connectClient makes a client connect, which VPP does once it is up.
func (v *vswitch) connectClient(i *iface) {
	m := i.memif
	if m.server || m.port != nil {
		return
	}
	if port, err := memif.Connect(m.socket.file, v.memifConfig(i)); err == nil {
		m.port = port
		v.ports = append(v.ports, port)
	}
}

func (v *vswitch) memifConfig(i *iface) memif.Config {
	m := i.memif
	return memif.Config{
		ID: m.id, Mode: memif.Mode(m.mode), Secret: m.secret, Name: i.name,
		ZeroCopy: !m.noZero, Queues: m.queues, RingSize: int(m.ring), BufferSize: int(m.buffer),
		Receive: func(frame []byte) { v.receive(i, frame) },
		Link:    func(up bool) { v.setLink(i, up) },
	}
}

// setLink notes that a memif has got or lost its peer.
func (v *vswitch) setLink(i *iface, up bool) {
	v.mu.Lock()
	var news api.Message
	if v.interfaces[i.index] == i {
		i.memif.connected = up
		news = event(i, false)
	}
	v.mu.Unlock()
	if news != nil {
		v.publish(news)
	}
}

func (v *vswitch) memifDelete(i *iface) {
	m := i.memif
	v.remove(i)
	if m.port != nil {
		m.port.Close()
	}
	s := m.socket
	delete(s.ids, m.id)
	if s.refs--; s.refs == 0 && s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
}

func (v *vswitch) memifDump(*binmemif.MemifDump) (all []*binmemif.MemifDetails) {
	for _, i := range v.sorted(kindMemif) {
		m := i.memif
		d := &binmemif.MemifDetails{
			SwIfIndex: interface_types.InterfaceIndex(i.index), ID: m.id, SocketID: m.socketID,
			Role: binmemif.MEMIF_ROLE_API_SLAVE, Mode: m.mode, Flags: i.flags(), IfName: i.name,
			ZeroCopy: !m.server && !m.noZero, RingSize: 1,
		}
		copy(d.HwAddr[:], i.mac)
		if m.server {
			d.Role = binmemif.MEMIF_ROLE_API_MASTER
		} else if m.port != nil {
			if ring, buffer := m.port.Shape(); ring > 0 {
				d.RingSize, d.BufferSize = uint32(ring), uint16(buffer)
			}
		}
		all = append(all, d)
	}
	return all
}

// sorted are the interfaces of a kind, or all, by their indices.
func (v *vswitch) sorted(k kind) (all []*iface) {
	for _, index := range slices.Sorted(maps.Keys(v.interfaces)) {
		if i := v.interfaces[index]; k == "" || i.kind == k {
			all = append(all, i)
		}
	}
	return all
}

// macOf is an address of the API, nil for zero.
func macOf(a ethernet_types.MacAddress) []byte {
	if a == (ethernet_types.MacAddress{}) {
		return nil
	}
	return a[:]
}

// cString is a text up to its first NUL.
func cString(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}
