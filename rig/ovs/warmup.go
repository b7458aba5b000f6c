package ovs

import (
	"context"
	"fmt"
	"time"

	"github.com/plexus-cni/plexus/rig/process"
)

// patience is how long a frame may take before it is held to be lost.
const patience = 100 * time.Millisecond

// WarmUp waits for the links of two peers and sends frames between them until
// each has heard the other, so that the switch polls all their queues and has
// learned both addresses, and until none of these frames is under way. From
// then on no frame between them is flooded, or lost for being the first.
func WarmUp(ctx context.Context, a, b *Peer) error {
	ctx, cancel := process.Limited(ctx)
	defer cancel()
	for _, p := range []*Peer{a, b} {
		if err := p.WaitLink(ctx); err != nil {
			return err
		}
	}
	forth, back := path{from: a, to: b}, path{from: b, to: a}
	for _, p := range []*path{&forth, &back} {
		if err := p.open(ctx); err != nil {
			return err
		}
	}
	for _, p := range []*path{&forth, &back, &forth} {
		if err := p.probe(ctx); err != nil {
			return err
		}
	}
	for _, p := range []*path{&forth, &back} {
		if err := p.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// path is the way from one peer to another, with the counters when the warm-up
// began.
type path struct {
	from, to       *Peer
	sent, received int
}

func (p *path) open(ctx context.Context) (err error) {
	if p.sent, err = p.from.Sent(ctx); err != nil {
		return err
	}
	if p.received, err = p.to.Received(ctx); err != nil {
		return err
	}
	return p.from.SetDestination(ctx, p.to.mac)
}

// probe sends a frame from each queue, again and again until as many arrive. A
// queue the switch does not poll yet keeps what is sent to it, so that this
// shows of all queues that they are polled.
func (p *path) probe(ctx context.Context) error {
	what := fmt.Sprintf("%s hears %s", p.to.child.Name(), p.from.child.Name())
	return process.Poll(ctx, what, func() (bool, error) {
		before, err := p.to.Received(ctx)
		if err != nil {
			return false, err
		}
		if err := p.from.Send(ctx, p.from.queues); err != nil {
			return false, err
		}
		short, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err = p.to.WaitReceived(short, before+p.from.queues)
		if err != nil && short.Err() != nil && ctx.Err() == nil {
			return false, nil // lost: try again
		}
		return err == nil, err
	})
}

// settle waits until all frames of the warm-up have arrived, or no more come.
func (p *path) settle(ctx context.Context) error {
	sent, err := p.from.Sent(ctx)
	if err != nil {
		return err
	}
	last, since := 0, time.Now()
	what := fmt.Sprintf("no frame is under way from %s to %s", p.from.child.Name(), p.to.child.Name())
	return process.Poll(ctx, what, func() (bool, error) {
		now, err := p.to.Received(ctx)
		if err != nil {
			return false, err
		}
		if now != last {
			last, since = now, time.Now()
		}
		return now-p.received >= sent-p.sent || time.Since(since) > patience, nil
	})
}
