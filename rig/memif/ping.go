package memif

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Ping asks for an address as a pod would: who has it, unless the memif is of
// mode IP, and then an ICMP echo. From is the address of the peer, which it has
// for that long. Tags are those of the frames it sends and expects. It returns
// the hardware address of who answered, nil in mode IP. It sends once: a frame
// that is lost makes it wait until ctx is done, or 60 s.
func (p *Peer) Ping(ctx context.Context, from, to netip.Addr, tags ...uint16) (net.HardwareAddr, error) {
	if from.Is4() != to.Is4() {
		return nil, fmt.Errorf("ping %s from %s: they are of two families", to, from)
	}
	var mac net.HardwareAddr
	if p.mode == Ethernet {
		frame, err := p.exchange(ctx, p.question(from, to, tags), "an answer who has "+to.String(), func(a parsed) bool {
			return isAnswer(a, to) && tagsText(a.tags) == tagsText(tags)
		})
		if err != nil {
			return nil, fmt.Errorf("ping %s from %s: %w", to, from, err)
		}
		mac = net.HardwareAddr(frame.from)
	}
	echo := p.frame(mac, tags, echoPacket(from, to))
	_, err := p.exchange(ctx, echo, "an echo of "+to.String(), func(a parsed) bool {
		return isEcho(a, from, to) && tagsText(a.tags) == tagsText(tags)
	})
	if err != nil {
		return nil, fmt.Errorf("ping %s from %s: %w", to, from, err)
	}
	return mac, nil
}

// exchange sends a frame and returns the first that matches and comes after it.
func (p *Peer) exchange(ctx context.Context, frame []byte, what string, match func(parsed) bool) (parsed, error) {
	p.mu.Lock()
	p.kept = nil
	p.mu.Unlock()
	if err := p.SendFrame(ctx, frame); err != nil {
		return parsed{}, err
	}
	found, err := p.Next(ctx, what, func(f []byte) bool {
		a, ok := parse(p.mode, f)
		return ok && match(a)
	})
	answer, _ := parse(p.mode, found)
	return answer, err
}

// frame puts a header before a packet, or an ARP message.
func (p *Peer) frame(to net.HardwareAddr, tags []uint16, packet []byte) []byte {
	if p.mode == IP {
		return packet
	}
	f := slices.Concat(to, p.mac)
	for _, tag := range tags {
		f = binary.BigEndian.AppendUint16(f, typeVLAN)
		f = binary.BigEndian.AppendUint16(f, tag)
	}
	kind := uint16(typeIPv4)
	switch packet[0] >> 4 {
	case 6:
		kind = typeIPv6
	case 0:
		kind = typeARP
	}
	f = append(binary.BigEndian.AppendUint16(f, kind), packet...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

// question is the broadcast that asks who has an address.
func (p *Peer) question(from, to netip.Addr, tags []uint16) []byte {
	if to.Is4() {
		arp := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 1}, p.mac, from.AsSlice(), make([]byte, 6), to.AsSlice())
		return p.frame(bytes.Repeat([]byte{0xff}, 6), tags, arp)
	}
	target := to.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]})
	body := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:], []byte{1, 1}, p.mac)
	return p.frame(append([]byte{0x33, 0x33, 0xff}, target[13:]...), tags, icmp6(from, group, body))
}

// isAnswer tells whether a frame tells who has an address.
func isAnswer(a parsed, who netip.Addr) bool {
	b := a.payload
	if who.Is4() {
		return a.etherType == typeARP && len(b) >= 28 && b[7] == 2 && bytes.Equal(b[14:18], who.AsSlice()) && bytes.Equal(b[8:14], a.from)
	}
	return a.etherType == typeIPv6 && len(b) >= 64 && b[6] == 58 && b[40] == 136 && bytes.Equal(b[48:64], who.AsSlice()) && sum6(b) == 0
}

const echoText = "plexus ping"

// echoPacket is an echo request.
func echoPacket(from, to netip.Addr) []byte {
	body := slices.Concat([]byte{8, 0, 0, 0, 0x70, 0x6c, 0, 1}, []byte(echoText))
	if to.Is6() {
		body[0] = 128
		return icmp6(from, to, body)
	}
	binary.BigEndian.PutUint16(body[2:], checksum(0, body))
	return append(ipv4(ipv4Header+len(body), 1, from.As4(), to.As4()), body...)
}

// isEcho tells whether a frame is the echo of the request from one to the other.
func isEcho(a parsed, from, to netip.Addr) bool {
	b, header := a.payload, ipv4Header
	addresses, reply := slices.Concat(to.AsSlice(), from.AsSlice()), byte(0)
	at := 12
	if to.Is6() {
		header, at, reply = 40, 8, 129
	}
	if len(b) < header+8+len(echoText) || !bytes.Equal(b[at:header], addresses) || b[header] != reply {
		return false
	}
	if to.Is6() {
		return sum6(b) == 0 && bytes.HasPrefix(b[48:], []byte(echoText))
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	return b[9] == 1 && total <= len(b) && checksum(0, b[:header]) == 0 && checksum(0, b[header:total]) == 0 &&
		bytes.HasPrefix(b[28:], []byte(echoText))
}

// icmp6 is a packet of ICMPv6.
func icmp6(from, to netip.Addr, body []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, byte(len(body)), 58, 255}
	p := slices.Concat(h, from.AsSlice(), to.AsSlice(), body)
	binary.BigEndian.PutUint16(p[42:], sum6(p))
	return p
}

// sum6 is the checksum of the ICMPv6 message of a packet.
func sum6(p []byte) uint16 {
	total := 40 + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) {
		return 1
	}
	return checksum(58+uint32(total-40), p[8:total])
}
