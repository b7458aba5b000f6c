package ovs

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"

	"github.com/plexus-cni/plexus/rig/process"
)

// chunk is how many frames are sent at one go: a quarter of a ring.
const chunk = RingSize / 4

// burst is the most frames handed to the device at once.
const burst = 32

// SetDestination sets the address the frames go to. Until it is called they go
// to an address nobody has, which a learning switch floods.
func (p *Peer) SetDestination(ctx context.Context, mac net.HardwareAddr) error {
	_, err := p.command(ctx, "set eth-peer 0 "+mac.String())
	return err
}

// Send sends exactly n frames and returns when the device has taken them all.
// Any number is possible, for a peer with several queues any multiple of their
// number: each queue sends its share. Frames are UDP over IPv4 from the address
// of the peer. Large numbers go in pieces; the receiver is not waited for.
func (p *Peer) Send(ctx context.Context, n int) error {
	if n%p.queues != 0 {
		return fmt.Errorf("send %d frames from %s: not a multiple of its %d queues", n, p.child.Name(), p.queues)
	}
	begin, err := p.Sent(ctx)
	if err != nil {
		return err
	}
	var sent int
	what := fmt.Sprintf("%s has sent %d frames", p.child.Name(), n)
	err = process.Poll(ctx, what, func() (bool, error) {
		for sent < n {
			left := (n - sent) / p.queues
			size := max(min(left, burst), 1)
			times := max(min(left, chunk)/burst, 1)
			for _, line := range []string{
				"stop", fmt.Sprintf("set burst %d", size), fmt.Sprintf("start tx_first %d", times),
			} {
				if _, err := p.command(ctx, line); err != nil {
					return false, err
				}
			}
			now, err := p.Sent(ctx)
			if err != nil {
				return false, err
			}
			// A full ring takes less than it is given: go on after a while.
			full := now-begin < sent+size*times*p.queues
			sent = now - begin
			if full {
				break
			}
		}
		return sent >= n, nil
	})
	if err == nil && sent > n {
		err = fmt.Errorf("send %d frames from %s: its rings were full and it has sent %d", n, p.child.Name(), sent)
	}
	return err
}

// Sent is the number of frames the device has taken since the peer started.
func (p *Peer) Sent(ctx context.Context) (int, error) { return p.counter(ctx, "TX") }

// Received is the number of frames that have arrived since the peer started.
func (p *Peer) Received(ctx context.Context) (int, error) { return p.counter(ctx, "RX") }

var counters = map[string]*regexp.Regexp{
	"TX": regexp.MustCompile(`TX-packets: *(\d+)`),
	"RX": regexp.MustCompile(`RX-packets: *(\d+)`),
}

func (p *Peer) counter(ctx context.Context, direction string) (int, error) {
	const command = "show port stats 0"
	out, err := p.command(ctx, command)
	if err != nil {
		return 0, err
	}
	match := counters[direction].FindStringSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("tell %s %q: no %s counter in its answer: %q", p.child.Name(), command, direction, out)
	}
	return strconv.Atoi(match[1])
}

// WaitReceived returns when total frames have arrived at the peer since it
// started. The error of a deadline says how many have.
func (p *Peer) WaitReceived(ctx context.Context, total int) error {
	ctx, cancel := process.Limited(ctx)
	defer cancel()
	got := 0
	err := process.Poll(ctx, fmt.Sprintf("%s has received %d frames", p.child.Name(), total), func() (bool, error) {
		n, err := p.Received(ctx)
		if err == nil {
			got = n
		}
		return got >= total, err
	})
	if err != nil {
		return fmt.Errorf("%w: %d have arrived", err, got)
	}
	return nil
}

// Transfer sends n frames from one peer to the other and returns how many more
// the other has received once they have all arrived. It is n unless somebody
// else sends to it too. An error tells that not all arrived before the deadline
// of ctx, or within 60 s.
func Transfer(ctx context.Context, from, to *Peer, n int) (int, error) {
	before, err := to.Received(ctx)
	if err != nil {
		return 0, err
	}
	if err := from.SetDestination(ctx, to.mac); err != nil {
		return 0, err
	}
	if err := from.Send(ctx, n); err != nil {
		return 0, err
	}
	if err := to.WaitReceived(ctx, before+n); err != nil {
		return 0, err
	}
	after, err := to.Received(ctx)
	return after - before, err
}
