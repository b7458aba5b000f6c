package memif

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"sync"
	"time"
)

// waitLimit ends the waiting of a caller whose context has no deadline.
const waitLimit = 60 * time.Second

// keptFrames is how many frames that are no test frames a peer keeps for Next;
// the oldest are dropped.
const keptFrames = 1024

// Options choose what a peer is.
type Options struct {
	// MAC is the address of the peer; if nil one is made from socket and id.
	MAC net.HardwareAddr
	// Mode and Secret have to be those of the interface at the other end.
	Mode   Mode
	Secret string
	// RingSize and BufferSize are as in Config.
	RingSize, BufferSize int
	// Server makes the peer listen at the socket, for an interface of the
	// vswitch that is a client.
	Server bool
	// Gomemif makes the peer use the library gomemif. It then is a client,
	// connects once, polls, knows no secret and must not send while it receives.
	Gomemif bool
}

// port is the end of a memif that a peer uses.
type port interface {
	// Send tells whether the other end has taken the frame.
	Send(frame []byte) bool
	Drained() bool
	Connected() bool
	Regions() int
	Close()
	Wait()
}

// Peer is what a pod with a memif is to a vswitch. It sends numbered test frames
// and tallies those it receives. Its methods may be called by any goroutine.
type Peer struct {
	name     string
	mac      net.HardwareAddr
	mode     Mode
	port     port
	listener *Listener // of a server

	sending sync.Mutex
	seq     uint64

	mu      sync.Mutex
	changed chan struct{} // closed at the next change
	senders map[string]*senderTally
	other   int
	kept    [][]byte
}

// Dial starts a peer at a socket, named as for Listen. A client connects as
// soon as there is a server and again whenever it has lost it; Dial does not
// wait for that, WaitLink does. Only with Options.Gomemif it waits until it is
// connected.
func Dial(ctx context.Context, socket string, id uint32, o Options) (*Peer, error) {
	p := &Peer{name: fmt.Sprintf("memif peer %s/%d", socket, id), mac: o.MAC, mode: o.Mode,
		changed: make(chan struct{}), senders: map[string]*senderTally{},
		// A peer that follows another at the same socket does not use its numbers.
		seq: uint64(time.Now().UnixNano())}
	if p.mac == nil {
		hash := fnv.New32a()
		fmt.Fprint(hash, socket, id)
		p.mac = hash.Sum([]byte{0x02, 0x70}) // locally administered, unicast
	}
	c := Config{ID: id, Mode: o.Mode, Secret: o.Secret, Name: "peer", RingSize: o.RingSize, BufferSize: o.BufferSize,
		Receive: p.receive, Link: func(bool) { p.notify() }}
	var err error
	switch {
	case o.Gomemif:
		p.port, err = dialGomemif(ctx, socket, c)
	case o.Server:
		if p.listener, err = Listen(socket); err == nil {
			p.port, err = p.listener.Open(c)
		}
	default:
		p.port, err = Connect(socket, c)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	return p, nil
}

// MAC is the address of the peer.
func (p *Peer) MAC() net.HardwareAddr { return p.mac }

// Connected tells whether the peer has the other end.
func (p *Peer) Connected() bool { return p.port.Connected() }

// Regions is the number of pieces of memory that the peer shares with the other end, 0 if the
// library that it uses does not tell.
func (p *Peer) Regions() int { return p.port.Regions() }

// Close ends the peer and returns when nothing of it is left. The socket file of
// a server stays.
func (p *Peer) Close() {
	p.port.Close()
	if p.listener != nil {
		p.listener.Close()
		p.listener.Wait()
	}
	p.port.Wait()
}

// WaitLink returns when the peer is connected.
func (p *Peer) WaitLink(ctx context.Context) error {
	return p.wait(ctx, "is connected", p.Connected)
}

// WaitNoLink returns when the peer is not connected.
func (p *Peer) WaitNoLink(ctx context.Context) error {
	return p.wait(ctx, "is not connected", func() bool { return !p.Connected() })
}

// WaitDrained returns when the other end is done with all frames sent to it; the
// stand-in has forwarded or dropped them then. A gomemif peer cannot tell.
func (p *Peer) WaitDrained(ctx context.Context) error {
	return p.wait(ctx, "has its frames taken", p.port.Drained)
}

// Send sends n test frames and returns when they all are in the ring to the
// other end, each once. It waits for room while the other end takes none.
func (p *Peer) Send(ctx context.Context, n int, t Traffic) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	for sent := range n {
		f, err := t.testFrame(p.mode, p.mac, p.seq)
		if err != nil {
			return err
		}
		if err := p.push(ctx, f); err != nil {
			return fmt.Errorf("%s: send %d test frames: after %d: %w", p.name, n, sent, err)
		}
		p.seq++
	}
	return nil
}

// SendFrame sends a frame, or a packet in mode IP, as it is.
func (p *Peer) SendFrame(ctx context.Context, f []byte) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	if err := p.push(ctx, f); err != nil {
		return fmt.Errorf("%s: send a frame of %d bytes: %w", p.name, len(f), err)
	}
	return nil
}

func (p *Peer) push(ctx context.Context, f []byte) error {
	if p.port.Send(f) {
		return nil
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !p.port.Send(f) {
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("the other end does not take it"), ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// receive takes a frame from the port.
func (p *Peer) receive(f []byte) {
	at, ok := parse(p.mode, f)
	sender, seq, whole, isTest := at.test()
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok && isTest {
		s := p.senders[sender]
		if s == nil {
			s = &senderTally{seen: map[uint64]bool{}, tags: map[string]int{}}
			p.senders[sender] = s
		}
		s.add(seq, tagsText(at.tags), whole)
	} else {
		p.other++
		if len(p.kept) == keptFrames {
			p.kept = p.kept[1:]
		}
		p.kept = append(p.kept, append([]byte(nil), f...))
	}
	p.wake()
}

// notify wakes those who wait for a change.
func (p *Peer) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake()
}

func (p *Peer) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// wait returns when a condition holds, which is asked for whenever something
// changes and from time to time.
func (p *Peer) wait(ctx context.Context, what string, condition func() bool) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	begin := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s %s: not within %s: %w",
				p.name, what, time.Since(begin).Round(time.Millisecond), ctx.Err())
		}
	}
}

// limited gives ctx a deadline if it has none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, waitLimit)
}
