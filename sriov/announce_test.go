package sriov

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// listen hears every frame that comes to an interface of a pod from now on.
func listen(t testing.TB, p *pair) func(count int) [][]byte {
	t.Helper()
	fd := -1
	err := p.pod.Do(func() (err error) {
		i, err := net.InterfaceByName(p.peer)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	return func(count int) (frames [][]byte) {
		t.Helper()
		for len(frames) < count {
			b := make([]byte, 2048)
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				t.Fatalf("%d frames of %d: %v", len(frames), count, err)
			}
			if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING || foreign(b[:n]) {
				continue
			}
			frames = append(frames, b[:n])
		}
		return frames
	}
}

// foreign is what the kernel itself sends: IPv6 of other kinds, and an
// advertisement of its link-local address.
func foreign(b []byte) bool {
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		return false
	case unix.ETH_P_IPV6:
		return len(b) < 62 || b[20] != unix.IPPROTO_ICMPV6 || b[54] != 136 || net.IP(b[62:78]).IsLinkLocalUnicast()
	}
	return true
}

// folded is the sum of RFC 1071, written as that says; 0xffff for what carries a
// right checksum.
func folded(b []byte) uint32 {
	sum := uint32(0)
	for len(b) > 0 {
		word := uint32(b[0]) << 8
		if len(b) > 1 {
			word |= uint32(b[1])
		}
		if sum += word; sum > 0xffff {
			sum -= 0xffff
		}
		b = b[min(2, len(b)):]
	}
	return sum
}

func checkARP(t testing.TB, b []byte, mac net.HardwareAddr, ip net.IP) {
	t.Helper()
	expected := slices.Concat[[]byte](
		[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0x08, 0x06}, // everybody
		[]byte{0, 1, 0x08, 0x00, 6, 4, 0, 1}, mac, ip.To4(), make([]byte, 6), ip.To4())
	if !slices.Equal(b[:min(42, len(b))], expected) {
		t.Errorf("ARP\n% x, want\n% x", b, expected)
	}
}

func checkNA(t testing.TB, b []byte, mac net.HardwareAddr, ip net.IP) {
	t.Helper()
	all := net.ParseIP("ff02::1")
	if len(b) != 14+40+32 {
		t.Fatalf("%d bytes", len(b))
	}
	head, body := b[14:54], b[54:]
	for what, same := range map[string]bool{
		"to":          slices.Equal(b[:6], []byte{0x33, 0x33, 0, 0, 0, 1}),
		"from":        slices.Equal(b[6:12], mac),
		"ethertype":   b[12] == 0x86 && b[13] == 0xdd,
		"version":     head[0] == 0x60 && head[1]|head[2]|head[3] == 0,
		"length":      binary.BigEndian.Uint16(head[4:]) == 32,
		"next header": head[6] == 58,
		"hop limit":   head[7] == 255,
		"source":      ip.Equal(net.IP(head[8:24])),
		"destination": all.Equal(net.IP(head[24:40])),
		"type":        body[0] == 136 && body[1] == 0,
		"flags":       binary.BigEndian.Uint32(body[4:]) == 0x20000000,
		"target":      ip.Equal(net.IP(body[8:24])),
		"option":      body[24] == 2 && body[25] == 1 && slices.Equal(body[26:32], mac),
		"checksum":    folded(slices.Concat[[]byte](head[8:40], []byte{0, 0, 0, 32, 0, 0, 0, 58}, body)) == 0xffff,
	} {
		if !same {
			t.Errorf("%s is wrong in\n% x", what, b)
		}
	}
}

func addressesOf(texts ...string) []*types100.IPConfig {
	var all []*types100.IPConfig
	for _, text := range texts {
		all = append(all, &types100.IPConfig{Address: net.IPNet{IP: net.ParseIP(text), Mask: net.CIDRMask(24, 32)}})
	}
	return all
}

// What the network hears on the other side of the wire.
func TestAnnounce(t *testing.T) {
	p := newPair(t)
	hear := listen(t, p)
	if !awaitCarrier(t.Context(), p.index) {
		t.Error("it has no carrier")
	}
	if err := announce(p.index, p.mac, addressesOf("10.1.2.3", "fd00:1::ff", "192.0.2.255", "2001:db8::ffff:ffff")); err != nil {
		t.Fatal(err)
	}
	frames := hear(4)
	checkARP(t, frames[0], p.mac, net.ParseIP("10.1.2.3"))
	checkNA(t, frames[1], p.mac, net.ParseIP("fd00:1::ff"))
	checkARP(t, frames[2], p.mac, net.ParseIP("192.0.2.255"))
	checkNA(t, frames[3], p.mac, net.ParseIP("2001:db8::ffff:ffff"))
}

// The checksum of every address, whatever it carries over.
func TestAdvertisementChecksum(t *testing.T) {
	for _, mac := range []net.HardwareAddr{{0, 0, 0, 0, 0, 0}, {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}, {2, 0, 0, 0, 0, 1}} {
		for i := range 1 << 12 {
			ip := net.ParseIP("fd00::")
			binary.BigEndian.PutUint32(ip[4:], uint32(i)*0x9e3779b9)
			binary.BigEndian.PutUint32(ip[12:], uint32(i)*0x85ebca6b)
			checkNA(t, advertisement(mac, ip), mac, ip)
		}
	}
	checkNA(t, advertisement(zeroMAC, net.IPv6zero), zeroMAC, net.IPv6zero)
	checkARP(t, gratuitousARP(zeroMAC, net.IPv4bcast.To4()), zeroMAC, net.IPv4bcast)
}

// Nothing is sent, and nothing is wrong, where nobody could hear it.
func TestAnnounceNothing(t *testing.T) {
	p := newPair(t)
	for name, err := range map[string]error{
		"no addresses":          announce(p.index, p.mac, nil),
		"an InfiniBand address": announce(p.index, make(net.HardwareAddr, 20), addressesOf("10.1.2.3")),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.home.set(p.index, 0, unix.IFF_UP); err != nil {
		t.Fatal(err)
	}
	if err := announce(p.index, p.mac, addressesOf("10.1.2.3")); err != nil {
		t.Errorf("while it is down: %v", err)
	}
	wantError(t, announce(1<<30, p.mac, addressesOf("10.1.2.3")), "announce 10.1.2.3")
}

// Without a carrier the wait is short.
func TestAwaitCarrier(t *testing.T) {
	p := newPair(t)
	if err := p.inPod.set(byName(t, p.inPod, p.peer).Index, 0, unix.IFF_UP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // the kernel tells it later
		i, err := net.InterfaceByIndex(p.index)
		if err != nil || time.Now().After(end) {
			t.Fatalf("waited in vain: %v", err)
		}
		if i.Flags&net.FlagRunning == 0 {
			break
		}
	}
	began := time.Now()
	if awaitCarrier(t.Context(), p.index) {
		t.Error("it has a carrier")
	}
	if took := time.Since(began); took < carrierWait/2 || took > 10*carrierWait {
		t.Errorf("it took %s", took)
	}
	if err := p.inPod.set(byName(t, p.inPod, p.peer).Index, unix.IFF_UP, unix.IFF_UP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	awaitCarrier(ctx, p.index) // does not hang
}
