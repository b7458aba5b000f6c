package standin

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
)

// Protocols and messages.
const (
	protoICMP       = 1
	protoICMPv6     = 58
	icmpEcho        = 8
	icmpEchoReply   = 0
	icmp6Echo       = 128
	icmp6EchoReply  = 129
	icmp6Solicit    = 135
	icmp6Advertise  = 136
	icmp6TargetLink = 2 // option
	arpSize         = 28
	ipv4Size        = 20
	ipv6Size        = 40
	icmpSize        = 8
	addressSize6    = 16
)

// answerEthernet answers a frame for an interface in layer 3.
func (v *vswitch) answerEthernet(i *iface, frame []byte) []output {
	header := ethernetHeader + vlanTag*tagCount(frame)
	to := frame[:addressSize]
	if to[0]&1 == 0 && !bytes.Equal(to, i.mac) {
		return nil
	}
	body := frame[header:]
	var answer []byte
	switch binary.BigEndian.Uint16(frame[header-2:]) {
	case typeARP:
		answer = i.answerARP(body)
	case typeIPv4, typeIPv6:
		answer = i.answerPacket(body)
	}
	if answer == nil {
		return nil
	}
	out := append(make([]byte, 0, header+len(answer)), frame[addressSize:2*addressSize]...)
	out = append(out, i.mac...)
	out = append(out, frame[2*addressSize:header]...) // tags and EtherType
	return []output{{i.hardware().memif.port, append(out, answer...)}}
}

// answerIP answers a packet at an interface of mode IP.
func (v *vswitch) answerIP(i *iface, packet []byte) []output {
	if answer := i.answerPacket(packet); answer != nil {
		return []output{{i.memif.port, answer}}
	}
	return nil
}

// has tells whether an address is one of the interface.
func (i *iface) has(a netip.Addr) bool {
	return slices.ContainsFunc(i.addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (i *iface) answerPacket(p []byte) []byte {
	if len(p) > 0 && p[0]>>4 == 6 {
		return i.answer6(p)
	}
	return i.answer4(p)
}

// answerARP is the answer to a request for an address of the interface.
func (i *iface) answerARP(p []byte) []byte {
	request := []byte{0, 1, 8, 0, 6, 4, 0, 1} // Ethernet, IPv4, request
	if len(p) < arpSize || !bytes.HasPrefix(p, request) || !i.has(netip.AddrFrom4([4]byte(p[24:]))) {
		return nil
	}
	out := append(make([]byte, 0, arpSize), request...)
	out[7] = 2
	out = append(append(out, i.mac...), p[24:28]...)
	return append(out, p[8:18]...)
}

// answer4 is the answer to an echo request for an address of the interface.
func (i *iface) answer4(p []byte) []byte {
	if len(p) < ipv4Size || p[0] != 0x45 || p[9] != protoICMP || p[6]&0x3f != 0 || p[7] != 0 ||
		checksum(0, p[:ipv4Size]) != 0 || !i.has(netip.AddrFrom4([4]byte(p[16:]))) {
		return nil
	}
	total := int(binary.BigEndian.Uint16(p[2:]))
	if total > len(p) || total < ipv4Size+icmpSize || p[ipv4Size] != icmpEcho || checksum(0, p[ipv4Size:total]) != 0 {
		return nil
	}
	out := slices.Clone(p[:total])
	copy(out[12:16], p[16:20])
	copy(out[16:20], p[12:16])
	out[8] = 64
	out[ipv4Size] = icmpEchoReply
	put(out[10:], func() uint16 { return checksum(0, out[:ipv4Size]) })
	put(out[ipv4Size+2:], func() uint16 { return checksum(0, out[ipv4Size:]) })
	return out
}

// answer6 is the answer to an echo request, or to a neighbour solicitation, for
// an address of the interface.
func (i *iface) answer6(p []byte) []byte {
	if len(p) < ipv6Size+icmpSize || p[6] != protoICMPv6 {
		return nil
	}
	total := ipv6Size + int(binary.BigEndian.Uint16(p[4:]))
	if total > len(p) || total < ipv6Size+icmpSize || checksum6(p[:total]) != 0 {
		return nil
	}
	body := p[ipv6Size:total]
	own := p[24:ipv6Size]
	var answer []byte
	switch {
	case body[0] == icmp6Echo:
		answer = slices.Clone(body)
		answer[0] = icmp6EchoReply
	case body[0] == icmp6Solicit && len(body) >= icmpSize+addressSize6 && !i.isIP():
		own = body[icmpSize : icmpSize+addressSize6]
		answer = append([]byte{icmp6Advertise, 0, 0, 0, 0x60, 0, 0, 0}, own...) // solicited, override
		answer = append(append(answer, icmp6TargetLink, 1), i.mac...)
	}
	if answer == nil || !i.has(netip.AddrFrom16([16]byte(own))) {
		return nil
	}
	out := slices.Clone(p[:ipv6Size])
	binary.BigEndian.PutUint16(out[4:], uint16(len(answer)))
	out[7] = 255
	copy(out[8:24], own)
	copy(out[24:], p[8:24])
	out = append(out, answer...)
	put(out[ipv6Size+2:], func() uint16 { return checksum6(out) })
	return out
}

// put writes a checksum that is computed with itself zero.
func put(at []byte, sum func() uint16) {
	at[0], at[1] = 0, 0
	binary.BigEndian.PutUint16(at, sum())
}

// checksum is the internet checksum of b with a sum to start from.
func checksum(sum uint32, b []byte) uint16 {
	for n, c := range b {
		if n%2 == 0 {
			sum += uint32(c) << 8
		} else {
			sum += uint32(c)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// checksum6 is the checksum of the ICMPv6 message of a packet.
func checksum6(p []byte) uint16 {
	pseudo := slices.Concat(p[8:ipv6Size], p[ipv6Size:])
	return checksum(protoICMPv6+uint32(len(p)-ipv6Size), pseudo)
}
