package memif

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Mode is what frames of a memif are.
type Mode uint8

// Modes of an interface, with the values of the protocol.
const (
	Ethernet Mode = 0 // frames with an Ethernet header, without checksum
	IP       Mode = 1 // bare IP packets
)

// Config says what an interface is and who gets its frames.
type Config struct {
	// ID tells the interfaces of a socket apart.
	ID uint32
	// Mode has to be the same at both ends.
	Mode Mode
	// Secret, of up to 23 bytes, is what a client has to know; none if empty.
	Secret string
	// Name is how this end calls itself, up to 31 bytes.
	Name string
	// Queues is the number of queue pairs of a client, 1 if zero.
	Queues int
	// RingSize is the number of descriptors of the rings of a client, a power
	// of two up to 16384, 1024 if zero.
	RingSize int
	// BufferSize is the length of the buffers of a client, in bytes, 2048 if
	// zero.
	BufferSize int
	// ZeroCopy makes a client share its packet buffers with the server, as VPP
	// does: those of all interfaces. Here they are memory that is of no use.
	ZeroCopy bool
	// Receive gets every frame, which is valid until it returns. Frames of one
	// queue come one after another.
	Receive func(frame []byte)
	// Link is told when the interface gets and when it loses its peer, unless
	// it loses it by Close; may be nil. It is called by one goroutine at a time.
	Link func(up bool)
}

// Interface is one end of a memif. Its methods may be called by any goroutine.
type Interface struct {
	config  Config
	release func() // takes it from its listener; nil for clients

	mu     sync.Mutex
	link   *link
	up     bool
	closed bool

	done chan struct{} // closed by Close
	work sync.WaitGroup

	sent, dropped, received atomic.Uint64
}

func newInterface(c Config) (*Interface, error) {
	if len(c.Secret) >= secretSize {
		return nil, fmt.Errorf("memif %d: the secret has %d bytes, more than %d", c.ID, len(c.Secret), secretSize-1)
	}
	if c.Receive == nil {
		c.Receive = func([]byte) {}
	}
	if c.Link == nil {
		c.Link = func(bool) {}
	}
	return &Interface{config: c, done: make(chan struct{})}, nil
}

// Connected tells whether the interface has its peer.
func (i *Interface) Connected() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.up
}

// Shape is the ring size, in descriptors, and the buffer size, in bytes, of the
// connection as this end knows them. A server that is not connected and any
// server's buffer size are 0: the client decides.
func (i *Interface) Shape() (ring, buffer int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.up {
		return 0, 0
	}
	r := i.link.rx[0]
	return int(r.size), r.buffer
}

// Regions is the number of pieces of memory that the ends share.
func (i *Interface) Regions() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.link == nil {
		return 0
	}
	return len(i.link.regions)
}

// Send sends a frame and tells whether the peer has taken it. If the ring of
// the peer is full it waits up to 2 s for room, but only once until the peer
// takes frames again.
func (i *Interface) Send(frame []byte) bool {
	i.mu.Lock()
	l := i.link
	up := i.up
	i.mu.Unlock()
	if !up || !l.send(frame) {
		i.dropped.Add(1)
		return false
	}
	i.sent.Add(1)
	return true
}

// Drained tells whether the peer is done with every frame that was sent to it.
func (i *Interface) Drained() bool {
	i.mu.Lock()
	l := i.link
	up := i.up
	i.mu.Unlock()
	return up && l.drained()
}

// Counters are the numbers of frames the peer has taken, has not taken, and has
// sent.
func (i *Interface) Counters() (sent, dropped, received uint64) {
	return i.sent.Load(), i.dropped.Load(), i.received.Load()
}

// Close ends the interface and tells its peer. It returns at once, so that it
// can be called from Receive and Link; Wait waits for the rest.
func (i *Interface) Close() {
	i.mu.Lock()
	l, was := i.link, i.closed
	i.closed, i.up = true, false
	i.mu.Unlock()
	if was {
		return
	}
	close(i.done)
	if i.release != nil {
		i.release()
	}
	if l != nil {
		l.close("interface deleted")
	}
}

// Wait returns when a closed interface delivers and uses nothing any more. It
// must not be called from Receive or Link.
func (i *Interface) Wait() { i.work.Wait() }

var errConnected = errors.New("already connected")

// attach makes l the link of the interface.
func (i *Interface) attach(l *link) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.closed:
		return errors.New("the interface is deleted")
	case i.link != nil:
		return errConnected
	}
	i.link = l
	return nil
}

// raise lets frames through a link that is ready.
func (i *Interface) raise(l *link) error {
	if err := l.start(); err != nil {
		return err
	}
	i.mu.Lock()
	if i.closed {
		i.mu.Unlock()
		return errors.New("the interface is deleted")
	}
	i.up = true
	i.mu.Unlock()
	i.config.Link(true)
	return nil
}

// drop ends a link for a reason, none if the peer has ended it, and returns when
// it is gone.
func (i *Interface) drop(l *link, reason string) {
	i.mu.Lock()
	up := i.up && i.link == l
	i.up = i.up && !up
	i.mu.Unlock()
	l.shut(reason)
	i.mu.Lock()
	if i.link == l {
		i.link = nil
	}
	i.mu.Unlock()
	if up {
		i.config.Link(false)
	}
}

// receive counts and delivers a frame.
func (i *Interface) receive(frame []byte) {
	i.received.Add(1)
	i.config.Receive(frame)
}

// reason is what to tell the peer when a link ends by err.
func reason(err error) string {
	if errors.Is(err, errDisconnect) {
		return ""
	}
	return err.Error()
}
