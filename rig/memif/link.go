package memif

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// fullWait is how long a sender waits for room in the ring of its peer.
const fullWait = 2 * time.Second

// link is one connection of an interface with its peer, from the first control
// message to the last.
type link struct {
	channel
	receive func([]byte)

	regions []*region
	rx, tx  []*ring
	ended   atomic.Bool // it goes down: nothing waits any more
	stalled atomic.Bool // the peer has not taken frames for fullWait

	mu      sync.RWMutex // held for reading while shared memory is in use
	open    bool         // shared memory may be used
	readers sync.WaitGroup
	end     sync.Once
}

func newLink(c channel, receive func([]byte)) *link {
	return &link{channel: c, receive: receive}
}

// addRing adds a ring whose interrupts come or go by event, which it takes over.
func (l *link) addRing(server bool, m ringMessage, event *os.File) (*ring, error) {
	to := &l.tx
	if m.s2m == server {
		to = &l.rx
	}
	r, err := newRing(server, l.regions, m, event)
	if err == nil {
		switch {
		case int(m.index) != len(*to) || m.index > maxRingIndex:
			err = fmt.Errorf("ring %d: its index is not the next one, %d", m.index, len(*to))
		case m.headerSize != 0:
			err = fmt.Errorf("ring %d: private headers are not supported", m.index)
		}
	}
	if err != nil {
		return nil, errors.Join(err, event.Close())
	}
	*to = append(*to, r)
	return r, nil
}

// start lets frames through.
func (l *link) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended.Load() {
		return errors.New("the interface is closed")
	}
	if len(l.rx) == 0 || len(l.tx) == 0 {
		return fmt.Errorf("the peer has %d rings to send and %d to receive", len(l.rx), len(l.tx))
	}
	l.open = true
	for _, r := range l.rx {
		r.wantInterrupts()
		l.readers.Add(1)
		go l.read(r)
	}
	return nil
}

// read delivers the frames of a ring until the link ends.
func (l *link) read(r *ring) {
	defer l.readers.Done()
	buf := make([]byte, 0, MaxFrame)
	var count [8]byte
	for !l.ended.Load() {
		frame, err := r.receive(buf)
		if err != nil {
			l.close(err.Error())
			return
		}
		if frame != nil {
			l.receive(frame)
			r.release()
			continue
		}
		if _, err := r.event.Read(count[:]); err != nil {
			return
		}
	}
}

// send sends a frame on the first ring and tells whether the peer has taken it.
func (l *link) send(frame []byte) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.open || len(frame) > MaxFrame {
		return false
	}
	deadline := time.Time{}
	for !l.ended.Load() {
		ok, err := l.tx[0].send(frame)
		if err != nil {
			l.close(err.Error())
			return false
		}
		if ok {
			l.stalled.Store(false)
			return true
		}
		now := time.Now()
		if deadline.IsZero() {
			deadline = now.Add(fullWait)
		}
		if l.stalled.Load() || now.After(deadline) {
			l.stalled.Store(true)
			return false
		}
		time.Sleep(20 * time.Microsecond)
	}
	return false
}

// drained tells whether the peer is done with all that was sent.
func (l *link) drained() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.open && l.tx[0].drained()
}

// close makes the link end, telling the peer the reason unless it is empty. It
// returns at once: whoever takes part in the dialogue sees it end and releases
// the link.
func (l *link) close(reason string) {
	l.end.Do(func() {
		l.ended.Store(true)
		if reason != "" {
			l.disconnect(reason)
		}
		_ = l.conn.Close()
	})
}

// shut closes the link and returns when nothing of it is left. It is for the
// goroutine that has the dialogue.
func (l *link) shut(reason string) {
	l.close(reason)
	l.mu.Lock() // senders have left
	l.open = false
	l.mu.Unlock()
	for _, r := range append(l.rx, l.tx...) {
		_ = r.event.Close()
	}
	l.readers.Wait()
	for _, r := range l.regions {
		r.close()
	}
}

// isOpen tells whether frames are let through.
func (l *link) isOpen() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.open
}
