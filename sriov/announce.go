package sriov

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/lock"
)

// carrierWait bounds the wait for a carrier before the first frames.
const carrierWait = 200 * time.Millisecond

// announce tells the network who has the addresses by now: a gratuitous ARP
// request for each of IPv4 (RFC 5227, section 3), an unsolicited neighbour
// advertisement for each of IPv6 (RFC 4861, section 7.2.6). Without a carrier
// nobody hears it; that is no error.
func announce(index int, mac net.HardwareAddr, ips []*types100.IPConfig) error {
	if len(mac) != 6 {
		return nil
	}
	for _, ip := range ips {
		frame := advertisement(mac, ip.Address.IP.To16())
		if ip4 := ip.Address.IP.To4(); ip4 != nil {
			frame = gratuitousARP(mac, ip4)
		}
		if err := send(index, frame); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("announce %s: %w", ip.Address.IP, err)
		}
	}
	return nil
}

func awaitCarrier(ctx context.Context, index int) (has bool) {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	has, _ = lock.Poll(ctx, func() (bool, error) {
		i, err := net.InterfaceByIndex(index)
		return err == nil && i.Flags&net.FlagRunning != 0, err
	})
	return has
}

func send(index int, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	proto := binary.NativeEndian.Uint16(frame[12:]) // in the order of the network, as in the frame
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: proto, Halen: 6})
}

// gratuitousARP asks for the sender's own address (RFC 826).
func gratuitousARP(mac net.HardwareAddr, ip net.IP) []byte {
	everybody := bytes.Repeat([]byte{0xff}, 6)
	request := []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1} // ARP, of Ethernet and IPv4, their lengths, request
	return slices.Concat[[]byte](everybody, mac, request, mac, ip, make([]byte, 6), ip)
}

// advertisement is an unsolicited one to all nodes, with the flag override.
func advertisement(mac net.HardwareAddr, ip net.IP) []byte {
	all := net.ParseIP("ff02::1")
	head := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}                // type, code, checksum, flags
	body := slices.Concat[[]byte](head, ip, []byte{2, 1}, mac) // with the option target link-layer address, 8 bytes
	length := binary.BigEndian.AppendUint16(nil, uint16(len(body)))
	pseudo := slices.Concat[[]byte](ip, all, []byte{0, 0}, length, []byte{0, 0, 0, unix.IPPROTO_ICMPV6}, body)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo))
	ipv6 := []byte{0x86, 0xdd, 0x60, 0, 0, 0}
	next := []byte{unix.IPPROTO_ICMPV6, 255} // hop limit (RFC 4861, section 7.1.2)
	return slices.Concat[[]byte]([]byte{0x33, 0x33, 0, 0, 0, 1}, mac, ipv6, length, next, ip, all, body)
}

// checksum is the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
