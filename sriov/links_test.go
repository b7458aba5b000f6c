package sriov

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

// The numbers and layouts below are those of linux/if_link.h and
// linux/rtnetlink.h, on purpose not taken from the library that is used.

// attr is a netlink attribute, padded.
func attr(typ uint16, parts ...[]byte) []byte {
	value := bytes.Join(parts, nil)
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func u32s(all ...uint32) []byte {
	var b []byte
	for _, w := range all {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

const unknown = ^uint32(0)

// goldenVF is one VF as rtnl_fill_vfinfo (net/core/rtnetlink.c) tells of it.
type goldenVF struct {
	name                             string
	vf                               uint32
	mac                              []byte
	vlan, qos                        uint32
	proto                            []byte // big endian; nil: a kernel without IFLA_VF_VLAN_LIST
	low, high, spoof, state, trusted uint32
	ib                               bool
	want                             vfInfo
}

func (g goldenVF) data() []byte {
	mac := make([]byte, 32)
	copy(mac, g.mac)
	all := [][]byte{
		attr(1, u32s(g.vf), mac), attr(13, bytes.Repeat([]byte{0xff}, 6), make([]byte, 26)), attr(2, u32s(g.vf, g.vlan, g.qos)),
		attr(6, u32s(g.vf, g.low, g.high)), attr(3, u32s(g.vf, g.high)), attr(4, u32s(g.vf, g.spoof)), attr(5, u32s(g.vf, g.state)),
		attr(7, u32s(g.vf, unknown)), attr(9, u32s(g.vf, g.trusted)),
	}
	if g.ib {
		all = append(all, attr(10, u32s(g.vf, 0, 1, 2)), attr(11, u32s(g.vf, 0, 3, 4)))
	}
	if g.proto != nil {
		all = append(all, attr(12, attr(1, u32s(g.vf, g.vlan, g.qos), g.proto, []byte{0, 0})))
	}
	return bytes.Join(append(all, attr(8, attr(0, make([]byte, 8)), attr(1, make([]byte, 8)))), nil)
}

var tag8021q, tag8021ad = []byte{0x81, 0x00}, []byte{0x88, 0xa8}

var goldenVFs = []goldenVF{
	{
		name: "untouched, of a driver that knows neither trust nor spoof checking", vf: 3, mac: make([]byte, 6), proto: tag8021q, spoof: unknown, trusted: unknown,
		want: vfInfo{settings{VLAN: &vlanTag{0, 0, proto8021q}, LinkState: new(uint32(0)), MinRate: new(uint32(0)), MaxRate: new(uint32(0))}, make(net.HardwareAddr, 6)},
	},
	{
		name: "everything set", vf: 255, mac: []byte{2, 0, 0, 0, 0, 7}, vlan: 4094, qos: 7, proto: tag8021ad, low: 10, high: 100, spoof: 1, state: 2, trusted: 1,
		want: vfInfo{settings{&vlanTag{4094, 7, proto8021ad}, new(true), new(true), new(uint32(2)), new(uint32(10)), new(uint32(100))}, net.HardwareAddr{2, 0, 0, 0, 0, 7}},
	},
	{
		name: "an old kernel", vf: 0, mac: []byte{2, 0, 0, 0, 0, 1}, vlan: 7, qos: 3, spoof: 0, state: 1, trusted: 0, high: 1000,
		want: vfInfo{settings{&vlanTag{7, 3, proto8021q}, new(false), new(false), new(uint32(1)), new(uint32(0)), new(uint32(1000))}, net.HardwareAddr{2, 0, 0, 0, 0, 1}},
	},
	{
		name: "InfiniBand", vf: 1, mac: bytes.Repeat([]byte{0xab}, 20), proto: tag8021q, spoof: unknown, trusted: unknown, state: 1, ib: true,
		want: vfInfo{settings{VLAN: &vlanTag{0, 0, proto8021q}, LinkState: new(uint32(1)), MinRate: new(uint32(0)), MaxRate: new(uint32(0))}, bytes.Repeat([]byte{0xab}, 6)},
	},
}

func TestParseVF(t *testing.T) {
	for _, g := range goldenVFs {
		t.Run(g.name, func(t *testing.T) {
			v, n, err := parseVF(g.data())
			if err != nil || n != int(g.vf) {
				t.Fatalf("VF %d, %v", n, err)
			}
			if d := cmp.Diff(&g.want, v, cmp.AllowUnexported(vfInfo{})); d != "" {
				t.Error(d)
			}
		})
	}
}

// Attributes that are unknown, short, or flagged as nested do no harm; one that
// is cut off is an error.
func TestParseVFOdd(t *testing.T) {
	mac := attr(1, u32s(5), make([]byte, 32))
	for _, c := range []struct {
		name string
		data []byte
		want vfInfo
		says string
	}{
		{"the MAC alone", mac, vfInfo{MAC: zeroMAC}, ""},
		{"nothing", nil, vfInfo{}, "without a number"},
		{"no MAC", attr(2, u32s(5, 7, 0)), vfInfo{}, "without a number"},
		{"a MAC that is short", attr(1, u32s(5), make([]byte, 5)), vfInfo{}, "without a number"},
		{"attributes of another kernel", bytes.Join([][]byte{mac, attr(14, u32s(5, 1)), attr(200)}, nil), vfInfo{MAC: zeroMAC}, ""},
		{"short ones", bytes.Join([][]byte{mac, attr(2, u32s(5, 7)), attr(4, u32s(5)), attr(5), attr(6, u32s(5)), attr(9, []byte{1})}, nil), vfInfo{MAC: zeroMAC}, ""},
		{"a short rate", append(bytes.Clone(mac), attr(6, u32s(5, 9))...), vfInfo{settings{MinRate: new(uint32(9))}, zeroMAC}, ""},
		{"the flag of nested ones", bytes.Join([][]byte{mac, attr(12|0x8000, attr(1, u32s(5, 7, 1), tag8021ad, []byte{0, 0}))}, nil), vfInfo{settings{VLAN: &vlanTag{7, 1, proto8021ad}}, zeroMAC}, ""},
		{"the list before the VLAN", bytes.Join([][]byte{mac, attr(12, attr(1, u32s(5, 7, 1), tag8021ad, []byte{0, 0})), attr(2, u32s(5, 7, 1))}, nil), vfInfo{settings{VLAN: &vlanTag{7, 1, proto8021ad}}, zeroMAC}, ""},
		{"an empty list", bytes.Join([][]byte{mac, attr(2, u32s(5, 7, 1)), attr(12)}, nil), vfInfo{settings{VLAN: &vlanTag{7, 1, proto8021q}}, zeroMAC}, ""},
		{"a list without a protocol", bytes.Join([][]byte{mac, attr(12, attr(1, u32s(5, 7, 1)))}, nil), vfInfo{MAC: zeroMAC}, ""},
		{"a list that is cut off", bytes.Join([][]byte{mac, attr(12, []byte{20, 0, 1, 0})}, nil), vfInfo{}, "invalid argument"},
		{"an attribute that is cut off", mac[:20], vfInfo{}, "invalid argument"},
		{"an attribute shorter than its head", []byte{3, 0, 1, 0}, vfInfo{}, "invalid argument"},
	} {
		v, n, err := parseVF(c.data)
		if c.says != "" {
			wantError(t, err, c.says)
			continue
		}
		if err != nil || n != 5 {
			t.Errorf("%s: VF %d, %v", c.name, n, err)
			continue
		}
		if d := cmp.Diff(&c.want, v, cmp.AllowUnexported(vfInfo{})); d != "" {
			t.Errorf("%s\n%s", c.name, d)
		}
	}
}

// captured are links whose socket leads to this test instead of the kernel: what
// is asked of them fails, and the request can be read.
func captured(t testing.TB) (*links, func() []byte) {
	t.Helper()
	l, err := openLinks("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1]) })
	if err := unix.Dup3(pair[0], l.handle.Socket.GetFd(), unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(pair[0]); err != nil {
		t.Fatal(err)
	}
	return l, func() []byte {
		t.Helper()
		b := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(pair[1], b, unix.MSG_DONTWAIT)
		if err != nil {
			t.Fatalf("no request: %v", err)
		}
		return b[:n]
	}
}

// message is a request with its sequence number and port left out.
func message(typ, flags uint16, body ...[]byte) []byte {
	data := bytes.Join(body, nil)
	b := u32s(uint32(16 + len(data)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), data...)
}

// head is a struct ifinfomsg.
func head(index, flags, change uint32) []byte {
	return append(make([]byte, 4), u32s(index, flags, change)...)
}

// Every request, byte by byte.
func TestRequests(t *testing.T) {
	const (
		getLink, setLink, newProp, delProp = 18, 19, 108, 109
		request, ack, dump                 = 1, 4, 0x300
		create, appendTo, excl             = 0x400, 0x800, 0x200
	)
	self, err := ns.GetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	vf := func(one []byte) []byte { return message(setLink, request|ack, head(5, 0, 0), attr(22, attr(1, one))) }
	set := func(all ...[]byte) []byte {
		return message(setLink, request|ack, append([][]byte{head(5, 0, 0)}, all...)...)
	}
	names := func(typ, flags uint16, all ...[]byte) []byte {
		return message(typ, request|ack|flags, head(5, 0, 0), attr(52|0x8000, all...))
	}
	guid := net.HardwareAddr{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77}
	for _, c := range []struct {
		name string
		do   func(l *links) error
		want []byte
	}{
		{"VLAN, 802.1q", func(l *links) error { return l.setVF(5, 3, vlanTag{4094, 7, proto8021q}.change()) }, vf(attr(2, u32s(3, 4094, 7)))},
		{"VLAN, none", func(l *links) error { return l.setVF(5, 3, vlanTag{0, 0, proto8021q}.change()) }, vf(attr(2, u32s(3, 0, 0)))},
		{"VLAN, 802.1ad", func(l *links) error { return l.setVF(5, 3, vlanTag{100, 2, proto8021ad}.change()) }, vf(attr(12, attr(1, u32s(3, 100, 2), tag8021ad, []byte{0, 0})))},
		{"MAC of a VF", func(l *links) error { return l.setVF(5, 3, macChange(net.HardwareAddr{2, 0, 0, 0, 0, 9})) }, vf(attr(1, u32s(3), []byte{2, 0, 0, 0, 0, 9}, make([]byte, 26)))},
		{"no MAC of a VF", func(l *links) error { return l.setVF(5, 3, macChange(zeroMAC)) }, vf(attr(1, u32s(3), make([]byte, 32)))},
		{"node GUID", func(l *links) error { return l.setVF(5, 3, guidChanges(guid)[0]) }, vf(attr(10, u32s(3, 0), binary.NativeEndian.AppendUint64(nil, 0x0011223344556677)))},
		{"port GUID", func(l *links) error { return l.setVF(5, 3, guidChanges(guid)[1]) }, vf(attr(11, u32s(3, 0), binary.NativeEndian.AppendUint64(nil, 0x0011223344556677)))},
		{"rates", func(l *links) error {
			return l.setVF(5, 3, changes(settings{}, settings{MinRate: new(uint32(10)), MaxRate: new(uint32(100))})[0])
		}, vf(attr(6, u32s(3, 10, 100)))},
		{"one rate, the other kept", func(l *links) error {
			return l.setVF(5, 3, changes(settings{MinRate: new(uint32(7)), MaxRate: new(uint32(0))}, settings{MaxRate: new(uint32(100))})[0])
		}, vf(attr(6, u32s(3, 7, 100)))},
		{"spoof checking on", func(l *links) error { return l.setVF(5, 3, changes(settings{}, settings{SpoofChk: new(true)})[0]) }, vf(attr(4, u32s(3, 1)))},
		{"spoof checking off", func(l *links) error { return l.setVF(5, 3, changes(settings{}, settings{SpoofChk: new(false)})[0]) }, vf(attr(4, u32s(3, 0)))},
		{"trust on", func(l *links) error { return l.setVF(5, 3, changes(settings{}, settings{Trust: new(true)})[0]) }, vf(attr(9, u32s(3, 1)))},
		{"trust off", func(l *links) error { return l.setVF(5, 3, changes(settings{}, settings{Trust: new(false)})[0]) }, vf(attr(9, u32s(3, 0)))},
		{"link state disable", func(l *links) error {
			return l.setVF(5, 3, changes(settings{}, settings{LinkState: new(uint32(2))})[0])
		}, vf(attr(5, u32s(3, 2)))},
		{"up", func(l *links) error { return l.set(5, unix.IFF_UP, unix.IFF_UP) }, message(setLink, request|ack, head(5, 1, 1))},
		{"mtu", func(l *links) error { return l.setMTU(5, 9000) }, set(attr(4, u32s(9000)))},
		{"address", func(l *links) error { return l.setMAC(5, net.HardwareAddr{2, 0, 0, 0, 0, 9}) }, set(attr(1, []byte{2, 0, 0, 0, 0, 9}))},
		{"name", func(l *links) error { return l.rename(5, "eth1") }, set(attr(3, []byte("eth1\x00")))},
		{"move", func(l *links) error { return l.move(5, self, "net1") }, set(attr(28, u32s(uint32(self.Fd()))), attr(3, []byte("net1\x00")))},
		{"more names", func(l *links) error { return l.altNames(newProp, 5, []string{"a", "enp3s2f0"}) }, names(newProp, create|appendTo|excl, attr(53, []byte("a\x00")), attr(53, []byte("enp3s2f0\x00")))},
		{"fewer names", func(l *links) error { return l.altNames(delProp, 5, []string{"a"}) }, names(delProp, 0, attr(53, []byte("a\x00")))},
		{"look by index", func(l *links) error { _, err := l.byIndex(5); return err }, message(getLink, request, head(5, 0, 0), attr(29, u32s(8)))},
		{"look by name", func(l *links) error { _, err := l.byName("eth1"); return err }, message(getLink, request, head(0, 0, 0), attr(29, u32s(8)), attr(3, []byte("eth1\x00")))},
		{"look by PCI address", func(l *links) error { _, err := l.byParent(vfPCI); return err }, message(getLink, request|dump, head(0, 0, 0), attr(29, u32s(8)))},
		{"look at VFs", func(l *links) error { _, err := l.vf(5, 3); return err }, message(getLink, request, head(5, 0, 0), attr(29, u32s(9)))},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, sent := captured(t)
			if err := c.do(l); err == nil {
				t.Error("nobody has answered, and there is no error")
			}
			got := sent()
			clear(got[8:16])
			if !bytes.Equal(got, c.want) {
				t.Errorf("sent\n%s\nwant\n%s", hex.Dump(got), hex.Dump(c.want))
			}
		})
	}
	l, _ := captured(t)
	if err := l.altNames(delProp, 5, nil); err != nil { // a request would fail
		t.Errorf("no names: %v", err)
	}
}

// What is right already is not sent; the order is the one that drivers take.
func TestChanges(t *testing.T) {
	all := settings{&vlanTag{7, 3, proto8021ad}, new(false), new(true), new(uint32(1)), new(uint32(10)), new(uint32(100))}
	for _, c := range []struct {
		name        string
		now, wanted settings
		says        []string
	}{
		{"nothing asked for", all, settings{}, nil},
		{"all as it is", all, all, nil},
		{"all", settings{}, all, []string{"set vlan 7 vlanQoS 3 vlanProto 802.1ad", "set trust on", "set min_tx_rate (min_tx_rate 10, max_tx_rate 100)", "set spoofchk off", "set link_state enable"}},
		{"no VLAN is no VLAN", settings{VLAN: &vlanTag{0, 0, proto8021ad}}, settings{VLAN: &vlanTag{0, 0, proto8021q}}, nil},
		{"another protocol", settings{VLAN: &vlanTag{7, 0, proto8021ad}}, settings{VLAN: &vlanTag{7, 0, proto8021q}}, []string{"set vlan 7"}},
		{"another priority", settings{VLAN: &vlanTag{7, 0, proto8021q}}, settings{VLAN: &vlanTag{7, 1, proto8021q}}, []string{"set vlan 7 vlanQoS 1"}},
		{"one rate", all, settings{MaxRate: new(uint32(50))}, []string{"set max_tx_rate (min_tx_rate 10, max_tx_rate 50)"}},
		{"a trust that is not known", settings{}, settings{Trust: new(false)}, []string{"set trust off"}},
	} {
		var says []string
		for _, change := range changes(c.now, c.wanted) {
			says = append(says, change.says)
		}
		if d := cmp.Diff(c.says, says); d != "" {
			t.Errorf("%s\n%s", c.name, d)
		}
	}
	baseline := settings{VLAN: &vlanTag{1, 0, proto8021q}, Trust: new(false), MinRate: new(uint32(0))}
	mixed := all.with(baseline)
	if d := cmp.Diff(settings{baseline.VLAN, all.SpoofChk, baseline.Trust, all.LinkState, baseline.MinRate, all.MaxRate}, mixed); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(all, settings{}.with(all)); d != "" {
		t.Error(d)
	}
}

func TestExplain(t *testing.T) {
	for errno, refused := range map[unix.Errno]bool{unix.EOPNOTSUPP: true, unix.EPROTONOSUPPORT: true, unix.EINVAL: true, unix.ERANGE: true, unix.EPERM: false, unix.EBUSY: false, unix.ENODEV: false} {
		err := explain(fmt.Errorf("x: %w", errno))
		if strings.Contains(err.Error(), "driver refuses") != refused || !errors.Is(err, errno) {
			t.Errorf("%d: %v", errno, err)
		}
	}
}

func TestGUIDOf(t *testing.T) {
	address := make(net.HardwareAddr, 20)
	for i := range address {
		address[i] = byte(i)
	}
	if got := guidOf(address).String(); got != "0c:0d:0e:0f:10:11:12:13" {
		t.Error(got)
	}
	if guidOf(address[:6]) != nil || guidOf(nil) != nil {
		t.Error("an Ethernet address has no GUID")
	}
}

// pair is a veth pair, one end here and the other in a pod, both up. They are
// called by the test's process and a number.
type pair struct {
	pod         *node.Pod
	home, inPod *links
	name, peer  string
	index       int
	mac         net.HardwareAddr
}

var pairs int

func newPair(t testing.TB) *pair {
	t.Helper()
	pairs++
	p := &pair{name: fmt.Sprintf("v%d-%d", os.Getpid(), pairs), peer: "peer0"}
	var err error
	if p.pod, err = node.NewPod(p.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.pod.Close(); err != nil {
			t.Error(err)
		}
	})
	fd, err := os.Open(p.pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = p.name, net.HardwareAddr{2, 0, 0, 0, 0, byte(pairs)}, 1400
	p.mac = attrs.HardwareAddr
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: p.peer, PeerNamespace: netlink.NsFd(fd.Fd())}); err != nil {
		t.Fatal(err)
	}
	p.home, p.inPod = open(t, ""), open(t, p.pod.Path())
	l := byName(t, p.home, p.name)
	p.index = l.Index
	t.Cleanup(func() { // it may be anywhere
		for _, at := range []*links{p.home, p.inPod} {
			_, _ = at.request(unix.RTM_DELLINK, unix.NLM_F_ACK, ifinfo(p.index))
		}
	})
	for at, index := range map[*links]int{p.home: p.index, p.inPod: byName(t, p.inPod, p.peer).Index} {
		if err := at.set(index, unix.IFF_UP, unix.IFF_UP); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func open(t testing.TB, path string) *links {
	t.Helper()
	l, err := openLinks(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func byName(t testing.TB, l *links, name string) *netlink.LinkAttrs {
	t.Helper()
	a, err := l.byName(name)
	if err != nil || a == nil {
		t.Fatalf("%s: %v, %v", name, a, err)
	}
	return a
}

func gone(t testing.TB, l *links, index int) {
	t.Helper()
	if a, err := l.byIndex(index); a != nil || err != nil {
		t.Errorf("interface %d: %+v, %v, want none", index, a, err)
	}
}

func (p *pair) ns(t testing.TB) ns.NetNS {
	t.Helper()
	n, err := ns.GetNS(p.pod.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func TestLook(t *testing.T) {
	p := newPair(t)
	a, err := p.home.byIndex(p.index)
	if err != nil || a == nil || a.Name != p.name || a.MTU != 1400 || !bytes.Equal(a.HardwareAddr, p.mac) || a.RawFlags&unix.IFF_UP == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	gone(t, p.home, 1<<30)
	for _, name := range []string{"none", "fifteen-letters"} {
		if a, err := p.home.byName(name); a != nil || err != nil {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	if a, err := p.inPod.byName(p.name); a != nil || err != nil {
		t.Errorf("%s in the pod: %+v, %v", p.name, a, err)
	}
	for _, l := range []*links{p.home, p.inPod} { // a veth belongs to no PCI function
		if all, err := l.byParent(vfPCI); len(all) > 0 || err != nil {
			t.Errorf("%v, %v", all, err)
		}
	}
	_, err = p.home.vf(p.index, 0)
	wantError(t, err, "VF 0")
	_, err = p.home.vf(1<<30, 0)
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("%v, want %v", err, unix.ENODEV)
	}
	for _, c := range changes(settings{}, settings{VLAN: &vlanTag{7, 0, proto8021q}, Trust: new(true)}) {
		if err := p.home.setVF(p.index, 0, c); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v, want %v", c.says, err, unix.EOPNOTSUPP)
		}
	}
	_, err = openLinks("/run/netns/none")
	wantError(t, err, "/run/netns/none")
}

func TestSet(t *testing.T) {
	p := newPair(t)
	other := net.HardwareAddr{2, 0, 0, 0, 1, 1}
	for _, err := range []error{
		p.home.setMTU(p.index, 1300), p.home.setMAC(p.index, other), p.home.set(p.index, unix.IFF_PROMISC|unix.IFF_ALLMULTI, unix.IFF_PROMISC|unix.IFF_ALLMULTI), p.home.rename(p.index, p.name+"x"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	a, err := p.home.byIndex(p.index)
	const flags = unix.IFF_UP | unix.IFF_PROMISC | unix.IFF_ALLMULTI
	if err != nil || a == nil || a.MTU != 1300 || !bytes.Equal(a.HardwareAddr, other) || a.RawFlags&flags != flags || a.Name != p.name+"x" {
		t.Errorf("%+v, %v", a, err)
	}
	if err := p.home.set(p.index, 0, unix.IFF_UP|unix.IFF_PROMISC); err != nil {
		t.Error(err)
	}
	if a, err := p.home.byIndex(p.index); err != nil || a.RawFlags&flags != unix.IFF_ALLMULTI {
		t.Errorf("%+v, %v", a, err)
	}
	if err := p.home.setMTU(1<<30, 1500); !errors.Is(err, unix.ENODEV) {
		t.Errorf("%v, want %v", err, unix.ENODEV)
	}
}

func TestAltNames(t *testing.T) {
	p := newPair(t)
	long := p.name + "-" + strings.Repeat("x", 60)
	same := func(expected ...string) {
		t.Helper()
		if d := cmp.Diff(expected, byName(t, p.home, p.name).AltNames); d != "" {
			t.Error(d)
		}
	}
	same()
	if err := p.home.altNames(unix.RTM_NEWLINKPROP, p.index, []string{p.name + "a", long}); err != nil {
		t.Fatal(err)
	}
	same(p.name+"a", long)
	if a := byName(t, p.home, p.name+"a"); a.Index != p.index || a.Name != p.name {
		t.Errorf("by its other name: %+v", a)
	}
	if err := p.home.altNames(unix.RTM_NEWLINKPROP, p.index, []string{p.name + "a"}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("%v, want %v", err, unix.EEXIST)
	}
	if err := p.home.rename(p.index, p.name+"a"); !errors.Is(err, unix.EEXIST) { // which rest knows
		t.Errorf("%v, want %v", err, unix.EEXIST)
	}
	if err := p.home.altNames(unix.RTM_DELLINKPROP, p.index, []string{p.name + "a", long}); err != nil {
		t.Fatal(err)
	}
	same()
	if err := p.home.altNames(unix.RTM_NEWLINKPROP, p.index, nil); err != nil {
		t.Error(err)
	}
}

func TestMove(t *testing.T) {
	p := newPair(t)
	if err := p.home.move(p.index, p.ns(t), "net1"); err != nil {
		t.Fatal(err)
	}
	gone(t, p.home, p.index)
	a := byName(t, p.inPod, "net1")
	if a.MTU != 1400 || !bytes.Equal(a.HardwareAddr, p.mac) || a.RawFlags&unix.IFF_UP != 0 {
		t.Errorf("in the pod: %+v", a)
	}
	p.index = a.Index
	here, err := ns.GetNS("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := p.inPod.move(a.Index, here, p.name); err != nil {
		t.Fatal(err)
	}
	p.index = byName(t, p.home, p.name).Index
	gone(t, p.inPod, a.Index)
}

// A name that is taken is refused, and yet the interface may have moved: which is
// why attachKernel looks first. Nothing is lost, and the other one is untouched.
func TestMoveToATakenName(t *testing.T) {
	p := newPair(t)
	before := byName(t, p.inPod, p.peer)
	if err := p.home.move(p.index, p.ns(t), p.peer); !errors.Is(err, unix.EEXIST) {
		t.Errorf("%v, want %v", err, unix.EEXIST)
	}
	if after := byName(t, p.inPod, p.peer); after.Index != before.Index || !bytes.Equal(after.HardwareAddr, before.HardwareAddr) {
		t.Errorf("%s was %+v, is %+v", p.peer, before, after)
	}
	found := 0
	for _, at := range []*links{p.home, p.inPod} {
		if a, err := at.byName(p.name); err == nil && a != nil && bytes.Equal(a.HardwareAddr, p.mac) {
			found, p.index = found+1, a.Index
		}
	}
	if found != 1 {
		t.Errorf("%s is in %d namespaces", p.name, found)
	}
}

func TestFreeName(t *testing.T) {
	p := newPair(t)
	h := &host{sys: newTree(t).sysfs, links: p.home, log: logTo(t)}
	if err := p.home.altNames(unix.RTM_NEWLINKPROP, p.index, []string{p.name + "a"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		index int
		free  string
	}{
		{p.name + "b", 0, p.name + "b"},
		{p.name, p.index, p.name},             // its own
		{p.name + "a", p.index, p.name + "a"}, // its own other name
		{p.name, 0, p.name[:min(11, len(p.name))] + "_1"},
		{p.name + "a", 0, (p.name + "a")[:min(11, len(p.name)+1)] + "_1"}, // of another interface
		{"lo", 0, "lo_1"},
	} {
		if free, err := h.freeName(c.name, c.index); err != nil || free != c.free || len(free) > 15 {
			t.Errorf("%s for %d: %s, %v, want %s", c.name, c.index, free, err, c.free)
		}
	}
	if free, err := h.freeName("fifteen-letters", 0); err != nil || free != "fifteen-letters" {
		t.Errorf("%s, %v", free, err)
	}
	if err := p.home.rename(p.index, "fifteen-letters"); err != nil {
		t.Fatal(err)
	}
	if free, err := h.freeName("fifteen-letters", 0); err != nil || free != "fifteen-let_1" {
		t.Errorf("%s, %v", free, err)
	}
}

func TestPodName(t *testing.T) {
	for _, c := range []struct {
		name string
		i    int
		want string
	}{{"net1", 0, "net1"}, {"net1", 1, "net1d1"}, {"fifteen-letters", 0, "fifteen-letters"}, {"fifteen-letters", 1, "fifteen-letted1"}} {
		if got := podName(c.name, c.i); got != c.want || len(got) > 15 {
			t.Errorf("%s %d: %s, want %s", c.name, c.i, got, c.want)
		}
	}
}
