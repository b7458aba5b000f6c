package sriov

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// tuning is what a pod can change of an interface and what the interface takes along when it
// leaves the pod, besides the rest of linkSnapshot.
type tuning struct {
	Flags   uint32            `json:"flags"` // of tunedFlags
	Promisc int               `json:"promiscuity,omitempty"`
	Alias   string            `json:"alias,omitempty"`
	Numbers map[string]uint32 `json:"numbers"`          // by their names in ip-link(8)
	Driver  map[string][]byte `json:"driver,omitempty"` // structures of ethtoolSettings, by name; programs
}

// tunedFlags are the flags of an interface that can be set (netdevice(7)), but for being up.
const tunedFlags = unix.IFF_DEBUG | unix.IFF_NOTRAILERS | unix.IFF_NOARP | unix.IFF_PROMISC | unix.IFF_ALLMULTI |
	unix.IFF_MULTICAST | unix.IFF_PORTSEL | unix.IFF_AUTOMEDIA | unix.IFF_DYNAMIC

var tunedNumbers = []struct {
	name string
	attr int // IFLA_*
	of   func(*netlink.LinkAttrs) uint32
}{
	{"txqueuelen", unix.IFLA_TXQLEN, func(l *netlink.LinkAttrs) uint32 { return uint32(l.TxQLen) }},
	{"group", unix.IFLA_GROUP, func(l *netlink.LinkAttrs) uint32 { return l.Group }},
	{"gso_max_size", unix.IFLA_GSO_MAX_SIZE, func(l *netlink.LinkAttrs) uint32 { return l.GSOMaxSize }},
	{"gso_max_segs", unix.IFLA_GSO_MAX_SEGS, func(l *netlink.LinkAttrs) uint32 { return l.GSOMaxSegs }},
	{"gro_max_size", unix.IFLA_GRO_MAX_SIZE, func(l *netlink.LinkAttrs) uint32 { return l.GROMaxSize }},
	{"gso_ipv4_max_size", unix.IFLA_GSO_IPV4_MAX_SIZE, func(l *netlink.LinkAttrs) uint32 { return l.GSOIPv4MaxSize }},
	{"gro_ipv4_max_size", unix.IFLA_GRO_IPV4_MAX_SIZE, func(l *netlink.LinkAttrs) uint32 { return l.GROIPv4MaxSize }},
}

// ethtoolSetting is a request to a driver (linux/ethtool.h). Its structure begins with the
// command and args; the one that is read can be written.
type ethtoolSetting struct {
	name     string
	get, set uint32 // ETHTOOL_*; set 0: the setting can only be read
	size     int    // of the structure, in bytes
	args     []uint32
}

const (
	ethtoolFeatures = "features"
	ethtoolRSS      = "rss"
	xdpProgram      = "XDP program"
)

var ethtoolSettings = []ethtoolSetting{
	{ethtoolFeatures, unix.ETHTOOL_GFEATURES, unix.ETHTOOL_SFEATURES, 8 + 4*16, []uint32{4}},
	{"private flags", unix.ETHTOOL_GPFLAGS, unix.ETHTOOL_SPFLAGS, 8, nil},
	{"message level", unix.ETHTOOL_GMSGLVL, unix.ETHTOOL_SMSGLVL, 8, nil},
	{"channels", unix.ETHTOOL_GCHANNELS, unix.ETHTOOL_SCHANNELS, 36, nil},
	{"rings", unix.ETHTOOL_GRINGPARAM, unix.ETHTOOL_SRINGPARAM, 36, nil},
	{"coalescing", unix.ETHTOOL_GCOALESCE, unix.ETHTOOL_SCOALESCE, 92, nil},
	{"rx-copybreak", unix.ETHTOOL_GTUNABLE, unix.ETHTOOL_STUNABLE, 20, []uint32{1, 3, 4}}, // ID, type, length
	{"tx-copybreak", unix.ETHTOOL_GTUNABLE, unix.ETHTOOL_STUNABLE, 20, []uint32{2, 3, 4}},
	{ethtoolRSS, unix.ETHTOOL_GRSSH, unix.ETHTOOL_SRSSH, 24, nil},
	{"hash of tcp4", unix.ETHTOOL_GRXFH, unix.ETHTOOL_SRXFH, 16, []uint32{1}}, // flow type
	{"hash of udp4", unix.ETHTOOL_GRXFH, unix.ETHTOOL_SRXFH, 16, []uint32{2}},
	{"hash of tcp6", unix.ETHTOOL_GRXFH, unix.ETHTOOL_SRXFH, 16, []uint32{5}},
	{"hash of udp6", unix.ETHTOOL_GRXFH, unix.ETHTOOL_SRXFH, 16, []uint32{6}},
	{"number of ntuple rules", unix.ETHTOOL_GRXCLSRLCNT, 0, 192, nil},
}

// ethtool makes a request to an interface's driver; its answer is in the structure.
func ethtool(socket int, name string, structure []byte) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	raw := struct { // struct ifreq with ifr_data
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&structure[0])}
	copy(raw.name[:], request.Name())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&raw)))
	runtime.KeepAlive(structure)
	if errno != 0 {
		return errno
	}
	return nil
}

// read is the setting of an interface, nil when its driver has none.
func (s ethtoolSetting) read(socket int, name string) []byte {
	structure := append(words(append([]uint32{s.get}, s.args...)...), make([]byte, 256)...)
	if ethtool(socket, name, structure) != nil {
		return nil
	}
	switch s.name {
	case ethtoolRSS: // the sizes are known now
		indirect, key := binary.NativeEndian.Uint32(structure[8:]), binary.NativeEndian.Uint32(structure[12:])
		s.size += int(4*indirect + key)
		structure = append(words(s.get, 0, indirect, key), make([]byte, s.size)...)
		if ethtool(socket, name, structure) != nil {
			return nil
		}
	case ethtoolFeatures: // what is active follows from what is requested, the MTU and so on
		for at := 8 + 2*4; at < s.size; at += 4 * 4 {
			clear(structure[at : at+4])
		}
	}
	return structure[:s.size]
}

// write makes an interface's driver have a setting that was read.
func (s ethtoolSetting) write(socket int, name string, was []byte) error {
	structure := append(words(s.set), was[4:]...)
	if s.name == ethtoolFeatures { // those that are available, as they were requested
		structure = structure[:8]
		for at := 8; at+16 <= len(was); at += 16 {
			structure = append(structure, was[at:at+8]...)
		}
	}
	return ethtool(socket, name, structure)
}

func ethtoolSocket() (int, error) {
	return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
}

// tuningOf reads an interface of the node.
func tuningOf(l *netlink.LinkAttrs) (*tuning, error) {
	socket, err := ethtoolSocket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(socket)
	t := &tuning{Flags: l.RawFlags & tunedFlags, Promisc: l.Promisc, Alias: l.Alias, Numbers: map[string]uint32{}, Driver: map[string][]byte{}}
	for _, n := range tunedNumbers {
		t.Numbers[n.name] = n.of(l)
	}
	for _, s := range ethtoolSettings {
		if structure := s.read(socket, l.Name); structure != nil {
			t.Driver[s.name] = structure
		}
	}
	if l.Xdp != nil && l.Xdp.Attached {
		t.Driver[xdpProgram] = words(l.Xdp.ProgId)
	}
	if n := programsOf(l.Index); n > 0 {
		t.Driver["programs of tcx"] = words(n)
	}
	return t, nil
}

// programsOf counts the programs of tcx at an interface (bpf(2), BPF_PROG_QUERY; Linux 6.6).
func programsOf(index int) (n uint32) {
	const ingress, egress = 46, 47 // BPF_TCX_*
	for _, at := range []uint32{ingress, egress} {
		query := make([]uint32, 16) // union bpf_attr; the seventh is the number of programs
		query[0], query[1] = uint32(index), at
		if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&query[0])), uintptr(4*len(query))); errno == 0 {
			n += query[6]
		}
	}
	return n
}

// retune sets back what differs from was. left names what it could not set back: it goes with a
// start of the driver.
func (h *host) retune(ctx context.Context, l *netlink.LinkAttrs, was *tuning) (left []string, err error) {
	if was == nil { // a reservation of a former version
		return nil, nil
	}
	now, err := tuningOf(l)
	if err != nil {
		return nil, err
	}
	changed, err := h.retuneLink(ctx, l, now, was)
	if err != nil {
		return nil, err
	}
	if changed {
		if now, err = h.tuningNow(l); err != nil {
			return nil, err
		}
	}
	if left = now.differences(was); len(left) == 0 {
		return nil, nil
	}
	socket, err := ethtoolSocket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(socket)
	for _, s := range ethtoolSettings {
		if s.set == 0 || len(was.Driver[s.name]) < 8 || !slices.Contains(left, s.name) { // command and args
			continue
		}
		write := func() error {
			_ = s.write(socket, l.Name, was.Driver[s.name]) // what has not changed is left
			return nil
		}
		if err := do(ctx, write, "set %s of %s", s.name, l.Name); err != nil {
			return nil, err
		}
	}
	if now, err = h.tuningNow(l); err != nil {
		return nil, err
	}
	return now.differences(was), nil
}

// tuningNow is tuningOf an interface that has changed.
func (h *host) tuningNow(l *netlink.LinkAttrs) (*tuning, error) {
	now, err := h.links.byIndex(l.Index)
	if err == nil && now == nil {
		err = errors.New("it is gone")
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.Name, err)
	}
	return tuningOf(now)
}

// retuneLink sets back what rtnetlink(7) can set.
func (h *host) retuneLink(ctx context.Context, l *netlink.LinkAttrs, now, was *tuning) (changed bool, err error) {
	var attrs []nl.NetlinkRequestData
	if now.Alias != was.Alias {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(was.Alias)))
	}
	for _, n := range tunedNumbers {
		if value, known := was.Numbers[n.name]; known && value != now.Numbers[n.name] {
			attrs = append(attrs, nl.NewRtAttr(n.attr, nl.Uint32Attr(value)))
		}
	}
	if len(attrs) == 0 && now.Flags == was.Flags {
		return false, nil
	}
	return true, do(ctx, func() error { return h.links.set(l.Index, was.Flags, tunedFlags, attrs...) }, "set flags and lengths of %s", l.Name)
}

// differences names the settings of the driver, and programs, that are not as in was. A setting
// that was not read once is not compared.
func (t *tuning) differences(was *tuning) (names []string) {
	both := maps.Clone(t.Driver)
	maps.Copy(both, was.Driver)
	for _, s := range ethtoolSettings {
		if t.Driver[s.name] == nil || was.Driver[s.name] == nil {
			delete(both, s.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(both)) {
		if !bytes.Equal(t.Driver[name], was.Driver[name]) {
			names = append(names, name)
		}
	}
	if t.Promisc > was.Promisc { // for addresses of bridge fdb, without a flag, until the interface is up again
		names = append(names, "promiscuity")
	}
	return names
}
