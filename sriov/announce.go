package sriov

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"
)

// carrierWait bounds the wait for a carrier before the announcement.
const carrierWait = 200 * time.Millisecond

// announce tells the network who has the addresses by now: a gratuitous ARP
// request for each of IPv4 (RFC 5227, section 3), an unsolicited neighbour
// advertisement for each of IPv6 (RFC 4861, section 7.2.6). Without a carrier
// nobody hears it; that is no error.
func announce(ctx context.Context, index int, mac net.HardwareAddr, ips []*types100.IPConfig) error {
	if len(mac) != 6 || len(ips) == 0 {
		return nil
	}
	awaitCarrier(ctx, index)
	for _, ip := range ips {
		proto, frame := unix.ETH_P_ARP, gratuitousARP(mac, ip.Address.IP.To4())
		if ip.Address.IP.To4() == nil {
			proto, frame = unix.ETH_P_IPV6, advertisement(mac, ip.Address.IP.To16())
		}
		if err := send(index, proto, frame); err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("announce %s: %w", ip.Address.IP, err)
		}
	}
	return nil
}

func awaitCarrier(ctx context.Context, index int) {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	for {
		i, err := net.InterfaceByIndex(index)
		if err != nil || i.Flags&net.FlagRunning != 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func send(index, proto int, frame []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, uint16(proto))), Halen: 6})
}

// ethernet is a header with the protocol's number, room for the rest behind it.
func ethernet(to, from net.HardwareAddr, proto uint16, room int) []byte {
	b := append(make([]byte, 0, 14+room), to...)
	b = append(b, from...)
	return binary.BigEndian.AppendUint16(b, proto)
}

// gratuitousARP asks for the sender's own address (RFC 826).
func gratuitousARP(mac net.HardwareAddr, ip net.IP) []byte {
	b := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP, 28)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths, request
	b = append(b, mac...)
	b = append(b, ip...)
	b = append(b, make([]byte, 6)...)
	return append(b, ip...)
}

// advertisement is an unsolicited one to all nodes, with the flag override.
func advertisement(mac net.HardwareAddr, ip net.IP) []byte {
	all := net.ParseIP("ff02::1")
	body := []byte{136, 0, 0, 0, 0x20, 0, 0, 0} // type, code, checksum, flags
	body = append(body, ip...)
	body = append(body, 2, 1) // option: target link-layer address, 8 bytes
	body = append(body, mac...)
	pseudo := append(append([]byte{}, ip...), all...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(body[2:], checksum(append(pseudo, body...)))
	b := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6, 40+len(body))
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unix.IPPROTO_ICMPV6, 255) // hop limit (RFC 4861, section 7.1.2)
	b = append(append(b, ip...), all...)
	return append(b, body...)
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
