package memif

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// EtherTypes of test frames.
const (
	typeIPv4  = 0x0800
	typeARP   = 0x0806
	typeIPv6  = 0x86dd
	typeVLAN  = 0x8100
	typeVLANs = 0x88a8
)

// Lengths in bytes.
const (
	ethernetHeader = 14
	tagSize        = 4
	ipv4Header     = 20
	udpHeader      = 8
	testHeader     = 20 // magic, sender, padding, sequence number
)

// MinSize is the length of the shortest test frame without tags, in bytes.
const MinSize = ethernetHeader + ipv4Header + udpHeader + testHeader

const testMagic = "plxs"

// testPort is the UDP port of test frames: what others send by default goes to
// another, so that a buffer they use again is not taken for a test frame.
const testPort = 7707

// Traffic says what test frames look like.
type Traffic struct {
	// To is the destination; an address nobody has, which a learning switch
	// floods, if nil.
	To net.HardwareAddr
	// Tags are the VLAN IDs of the frames, the outer one first.
	Tags []uint16
	// Size is the length of a frame in bytes, tags included, without checksum.
	// It is 64, or what tags need, if zero.
	Size int
}

// nobody is a locally administered address no peer gets.
var nobody = [6]byte{0x02, 0, 0, 0, 0, 0}

// testFrame is the frame number seq of a sender: UDP over IPv4 with the sender
// and the number in the payload, filled up with bytes that depend on the number.
func (t Traffic) testFrame(mode Mode, from net.HardwareAddr, seq uint64) ([]byte, error) {
	least := MinSize + tagSize*len(t.Tags)
	size := t.Size
	if size == 0 {
		size = max(64, least)
	}
	if size < least || size > MaxFrame {
		return nil, fmt.Errorf("make test frame: %d bytes are not between %d and %d", size, least, MaxFrame)
	}
	if mode == IP && len(t.Tags) > 0 {
		return nil, fmt.Errorf("make test frame: a memif in mode IP has no tags %v", t.Tags)
	}
	to := t.To
	if to == nil {
		to = nobody[:]
	}
	f := make([]byte, 0, size)
	f = append(append(f, to...), from...)
	for _, tag := range t.Tags {
		f = binary.BigEndian.AppendUint16(f, typeVLAN)
		f = binary.BigEndian.AppendUint16(f, tag&0xfff)
	}
	f = binary.BigEndian.AppendUint16(f, typeIPv4)
	f = append(f, ipv4(size-len(f), 17, [4]byte{198, 18, from[4], from[5]}, [4]byte{198, 19, to[4], to[5]})...)
	f = binary.BigEndian.AppendUint16(f, testPort)
	f = binary.BigEndian.AppendUint16(f, testPort)
	f = binary.BigEndian.AppendUint16(f, uint16(size-len(f)+4))
	f = append(f, 0, 0) // no checksum
	f = append(append(append(f, testMagic...), from...), 0, 0)
	f = binary.BigEndian.AppendUint64(f, seq)
	for len(f) < size {
		f = append(f, byte(seq)+byte(len(f)))
	}
	if mode == IP {
		f = f[ethernetHeader:]
	}
	return f, nil
}

// ipv4 is the header of a packet of total bytes.
func ipv4(total int, protocol byte, from, to [4]byte) []byte {
	h := make([]byte, ipv4Header)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(total))
	copy(h[12:], from[:])
	copy(h[16:], to[:])
	binary.BigEndian.PutUint16(h[10:], checksum(0, h))
	return h
}

// checksum is the internet checksum of b with a sum to start from.
func checksum(sum uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parsed is a frame taken apart.
type parsed struct {
	to, from  net.HardwareAddr
	tags      []uint16
	etherType uint16
	payload   []byte // what follows the EtherType
}

// parse takes a frame apart; a packet of mode IP has no addresses.
func parse(mode Mode, f []byte) (parsed, bool) {
	if mode == IP {
		if len(f) > 0 && f[0]>>4 == 6 {
			return parsed{etherType: typeIPv6, payload: f}, true
		}
		return parsed{etherType: typeIPv4, payload: f}, len(f) > 0
	}
	if len(f) < ethernetHeader {
		return parsed{}, false
	}
	p := parsed{to: f[:6], from: f[6:12]}
	f = f[12:]
	for len(f) >= 2 {
		p.etherType = binary.BigEndian.Uint16(f)
		if p.etherType != typeVLAN && p.etherType != typeVLANs {
			p.payload = f[2:]
			return p, true
		}
		if len(f) < tagSize {
			break
		}
		p.tags = append(p.tags, binary.BigEndian.Uint16(f[2:])&0xfff)
		f = f[tagSize:]
	}
	return parsed{}, false
}

// tagsText names the tags of a frame: "", "100", "100.200".
func tagsText(tags []uint16) string {
	text := make([]string, len(tags))
	for i, t := range tags {
		text[i] = strconv.Itoa(int(t))
	}
	return strings.Join(text, ".")
}

// test returns the sender and the number of a test frame, and whether it has
// come through whole.
func (p parsed) test() (sender string, seq uint64, whole, ok bool) {
	const start = ipv4Header + udpHeader
	if p.etherType != typeIPv4 || len(p.payload) < start+testHeader ||
		binary.BigEndian.Uint16(p.payload[ipv4Header+2:]) != testPort ||
		!bytes.HasPrefix(p.payload[start:], []byte(testMagic)) {
		return "", 0, false, false
	}
	body := p.payload[start:]
	seq = binary.BigEndian.Uint64(body[12:])
	sender = net.HardwareAddr(body[4:10]).String()
	whole = checksum(0, p.payload[:ipv4Header]) == 0 && int(binary.BigEndian.Uint16(p.payload[2:])) == len(p.payload) &&
		(p.from == nil || p.from.String() == sender)
	for i := testHeader + 1; i < len(body); i++ {
		whole = whole && body[i]-body[i-1] == 1
	}
	return sender, seq, whole, true
}
