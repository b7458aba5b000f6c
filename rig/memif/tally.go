package memif

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/rig/process"
)

// Tally is what a peer has received since it started.
type Tally struct {
	// Frames is the number of different test frames.
	Frames int
	// Duplicates, OutOfOrder and Corrupt count test frames that came again,
	// after one with a higher number, or changed on the way.
	Duplicates, OutOfOrder, Corrupt int
	// Tags counts test frames by their VLAN IDs, the outer one first: "" for
	// untagged ones, "100", "100.200".
	Tags map[string]int
	// Other is the number of frames that are no test frames.
	Other int
}

// String is the tally in one line, for comparing: "1000 frames", followed by
// what is not as it should be, and by the tags if there are any.
func (t Tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d frames", t.Frames)
	for _, n := range []struct {
		what string
		n    int
	}{{"duplicates", t.Duplicates}, {"out of order", t.OutOfOrder}, {"corrupt", t.Corrupt}} {
		if n.n != 0 {
			fmt.Fprintf(&b, ", %d %s", n.n, n.what)
		}
	}
	for _, tags := range slices.Sorted(maps.Keys(t.Tags)) {
		if tags != "" {
			fmt.Fprintf(&b, ", %d tagged %s", t.Tags[tags], tags)
		}
	}
	return b.String()
}

// senderTally is what has come from one sender.
type senderTally struct {
	seen                    map[uint64]bool
	next                    uint64 // one more than the highest number seen
	duplicates, late, wrong int
	tags                    map[string]int
}

func (s *senderTally) add(seq uint64, tags string, whole bool) {
	if !whole {
		s.wrong++
	}
	s.tags[tags]++
	switch {
	case s.seen[seq]:
		s.duplicates++
	case seq < s.next:
		s.late++
	default:
		s.next = seq + 1
	}
	s.seen[seq] = true
}

// Tally is what the peer has received from all senders.
func (p *Peer) Tally() Tally { return p.tally("") }

// TallyFrom is what the peer has received from one sender. Other is of all.
func (p *Peer) TallyFrom(mac net.HardwareAddr) Tally { return p.tally(mac.String()) }

func (p *Peer) tally(sender string) Tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := Tally{Tags: map[string]int{}, Other: p.other}
	for name, s := range p.senders {
		if sender != "" && name != sender {
			continue
		}
		t.Frames += len(s.seen)
		t.Duplicates += s.duplicates
		t.OutOfOrder += s.late
		t.Corrupt += s.wrong
		for tags, n := range s.tags {
			t.Tags[tags] += n
		}
	}
	return t
}

// Received is the number of different test frames received since the peer
// started.
func (p *Peer) Received() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, s := range p.senders {
		n += len(s.seen)
	}
	return n
}

// WaitReceived returns when the peer has received total different test frames
// since it started. The error of a deadline says how many it has.
func (p *Peer) WaitReceived(ctx context.Context, total int) error {
	err := p.wait(ctx, fmt.Sprintf("has received %d frames", total), func() bool { return p.Received() >= total })
	if err != nil {
		return fmt.Errorf("%w: it has %s", err, p.Tally())
	}
	return nil
}

// WaitOther returns when the peer has received total frames that are no test
// frames since it started.
func (p *Peer) WaitOther(ctx context.Context, total int) error {
	return p.wait(ctx, fmt.Sprintf("has received %d other frames", total), func() bool { return p.Tally().Other >= total })
}

// Next returns the next frame that is no test frame and matches, and forgets
// those before it.
func (p *Peer) Next(ctx context.Context, what string, match func(frame []byte) bool) ([]byte, error) {
	var found []byte
	err := p.wait(ctx, "has received "+what, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, f := range p.kept {
			if match(f) {
				found, p.kept = f, p.kept[i+1:]
				return true
			}
		}
		p.kept = nil
		return false
	})
	return found, err
}

// WarmUp sends frames between two peers until each has heard the other: the end of a vswitch that
// connects to a peer is up a moment later than the peer. They are no test frames.
func WarmUp(ctx context.Context, a, b *Peer) error {
	for _, way := range [][2]*Peer{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		frame := slices.Concat(to.MAC(), from.MAC(), []byte{0x88, 0xb5}, make([]byte, 46)) // of a local experiment (IEEE 802)
		before := to.Tally().Other
		err := process.Poll(ctx, fmt.Sprintf("%s has heard %s", to.name, from.name), func() (bool, error) {
			return to.Tally().Other > before, from.SendFrame(ctx, frame)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Transfer sends n test frames from one peer to the other and returns what the
// other has received more of that sender once they have all arrived: what a
// bridge has flooded before may still be on its way. An error tells that not all
// have before the deadline of ctx, or within 60 s.
func Transfer(ctx context.Context, from, to *Peer, n int, t Traffic) (int, error) {
	received := func() int { return to.TallyFrom(from.MAC()).Frames }
	before := received()
	if t.To == nil {
		t.To = to.MAC()
	}
	if err := from.Send(ctx, n, t); err != nil {
		return 0, err
	}
	err := to.wait(ctx, fmt.Sprintf("has received %d frames of %s", before+n, from.MAC()), func() bool { return received() >= before+n })
	if err != nil {
		err = fmt.Errorf("%w: it has %s", err, to.Tally())
	}
	return received() - before, err
}
