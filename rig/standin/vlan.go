package standin

import (
	"encoding/binary"
	"fmt"
)

// Tag rewrites, with the values of the API.
const (
	rewriteNone = iota
	push1
	push2
	pop1
	pop2
	translate11
	translate12
	translate21
	translate22

	maxRewrite = translate22
)

// rewrite is what happens to the tags of frames that come in at an interface.
// The reverse happens to those that go out.
type rewrite struct {
	op    uint32
	dot1q bool // the first tag pushed is 802.1Q, else 802.1ad
	tags  [2]uint32
}

// shape is how many tags a rewrite takes from an incoming frame and gives it.
func (r rewrite) shape() (pop, push int) {
	switch r.op {
	case push1:
		return 0, 1
	case push2:
		return 0, 2
	case pop1:
		return 1, 0
	case pop2:
		return 2, 0
	case translate11:
		return 1, 1
	case translate12:
		return 1, 2
	case translate21:
		return 2, 1
	case translate22:
		return 2, 2
	}
	return 0, 0
}

// ownTags is how many tags tell the frames of an interface.
func (i *iface) ownTags() int {
	if i.kind == kindVLAN {
		return 1
	}
	return 0
}

// ingress rewrites an incoming frame; nil if it lacks the tags to take.
func (r rewrite) ingress(frame []byte) []byte {
	pop, push := r.shape()
	outer := uint16(typeDot1ad)
	if r.dot1q {
		outer = typeDot1q
	}
	return retag(frame, pop, outer, r.tags[:push])
}

// egress rewrites an outgoing frame: it takes what ingress gives and gives back
// what ingress takes, the tag of the VLAN; nil if it lacks the tags to take.
func (r rewrite) egress(frame []byte, vlan uint16) []byte {
	give, take := r.shape()
	return retag(frame, take, typeDot1q, []uint32{uint32(vlan), 0}[:give])
}

// retag takes tags from a frame and gives it others, the first of which has the
// EtherType outer. It returns the frame itself if there is nothing to do, else a
// copy, and nil if there are not enough tags to take.
func retag(frame []byte, take int, outer uint16, give []uint32) []byte {
	if take == 0 && len(give) == 0 {
		return frame
	}
	if tagCount(frame) < take {
		return nil
	}
	const at = 2 * addressSize
	out := append(make([]byte, 0, len(frame)+vlanTag*len(give)), frame[:at]...)
	for n, tag := range give {
		kind := uint16(typeDot1q)
		if n == 0 {
			kind = outer
		}
		out = binary.BigEndian.AppendUint16(out, kind)
		out = binary.BigEndian.AppendUint16(out, uint16(tag))
	}
	return append(out, frame[at+take*vlanTag:]...)
}

// tagCount is the number of VLAN tags of a frame.
func tagCount(frame []byte) int {
	n := 0
	for at := 2 * addressSize; len(frame) >= at+vlanTag+2; at += vlanTag {
		if kind := binary.BigEndian.Uint16(frame[at:]); kind != typeDot1q && kind != typeDot1ad {
			break
		}
		n++
	}
	return n
}

func (r rewrite) String() string {
	name := [...]string{"none", "push-1", "push-2", "pop-1", "pop-2",
		"translate-1-1", "translate-1-2", "translate-2-1", "translate-2-2"}[r.op]
	_, push := r.shape()
	if push == 0 {
		return name
	}
	kind := "dot1ad"
	if r.dot1q {
		kind = "dot1q"
	}
	return fmt.Sprintf("%s(%s %v)", name, kind, r.tags[:push])
}
