package standin

import (
	"encoding/binary"

	"github.com/plexus-cni/plexus/rig/memif"
)

// Lengths in bytes, and EtherTypes.
const (
	addressSize    = 6
	ethernetHeader = 14
	vlanTag        = 4

	typeIPv4   = 0x0800
	typeARP    = 0x0806
	typeIPv6   = 0x86dd
	typeDot1q  = 0x8100
	typeDot1ad = 0x88a8
)

// output is a frame on its way out.
type output struct {
	port  *memif.Interface
	frame []byte
}

// receive handles a frame that comes in at a memif. It is valid until receive
// returns.
func (v *vswitch) receive(port *iface, frame []byte) {
	v.mu.Lock()
	var out []output
	if v.interfaces[port.index] == port && port.up {
		if port.isIP() {
			out = v.answerIP(port, frame)
		} else {
			out = v.ethernetInput(port, frame)
		}
	}
	v.mu.Unlock()
	for _, o := range out {
		o.port.Send(o.frame)
	}
}

// ethernetInput finds the interface a frame belongs to: the VLAN of its outer
// tag, or the port.
func (v *vswitch) ethernetInput(port *iface, frame []byte) []output {
	if len(frame) < ethernetHeader {
		return nil
	}
	i := port
	if tags := tagCount(frame); tags > 0 {
		if sub := port.subs[binary.BigEndian.Uint16(frame[ethernetHeader:])&0xfff]; sub != nil {
			i = sub
		}
	}
	switch {
	case !i.running():
		return nil
	case i.bridge != nil:
		return i.bridge.forward(i, frame)
	case tagCount(frame) > i.ownTags():
		return nil // no such VLAN
	}
	return v.answerEthernet(i, frame)
}

// forward is what a bridge domain does with a frame of a member.
func (b *bridge) forward(from *iface, frame []byte) []output {
	frame = from.rewrite.ingress(frame)
	if frame == nil {
		return nil
	}
	to, source := [addressSize]byte(frame), [addressSize]byte(frame[addressSize:])
	if b.learn && source[0]&1 == 0 {
		b.learned[source] = from
	}
	if to[0]&1 != 0 {
		if !b.flood {
			return nil
		}
		return b.toAll(from, frame)
	}
	if known := b.learned[to]; known != nil && b.unicast {
		if known == from || (from.shg != 0 && from.shg == known.shg) {
			return nil
		}
		return known.transmit(nil, frame)
	}
	if !b.uuFlood {
		return nil
	}
	return b.toAll(from, frame)
}

// toAll is a frame for every member but the one it comes from and those of its
// split horizon group.
func (b *bridge) toAll(from *iface, frame []byte) (out []output) {
	for _, m := range b.members {
		if m != from && (from.shg == 0 || from.shg != m.shg) {
			out = m.transmit(out, frame)
		}
	}
	return out
}

// transmit adds a frame for a member of a bridge domain.
func (i *iface) transmit(out []output, frame []byte) []output {
	port := i.hardware()
	if !i.running() || port.memif == nil || port.memif.port == nil || port.isIP() {
		return out
	}
	if frame = i.rewrite.egress(frame, i.vlan); frame == nil {
		return out
	}
	return append(out, output{port.memif.port, frame})
}
