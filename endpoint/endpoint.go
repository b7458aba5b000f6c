// Package endpoint shares one connection to each vswitch among all requests of a
// process. A vswitch that does not answer costs all of them together one wait: until a
// connection is there, which is made in the background, every request fails at once.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// How long requests wait for a connection, and how long it may take.
const (
	Wait      = 3 * time.Second // of requests, for an endpoint of which nothing bad is known
	ShortWait = time.Second     // of requests, for one that did not answer the last time
	patience  = 5 * time.Second // until an attempt is given up
)

// Conn is a connection to an endpoint.
type Conn interface {
	comparable
	// Ended reports whether it is of no use any more.
	Ended() bool
	// Close ends it. Requests that wait for an answer over it fail with the cause.
	Close(cause error)
}

// ErrClosed is why a connection has ended that this process closed.
var ErrClosed = errors.New("the connection was closed")

// SilentError is the cause of a failure: no answer has come in time.
type SilentError struct{ Limit time.Duration }

func (e SilentError) Error() string { return fmt.Sprintf("no answer within %s", e.Limit) }

// Pool has one connection to each endpoint of a kind.
type Pool[C Conn] struct {
	// Dial connects to an address. suspect says that the endpoint did not answer the
	// last time: the connection is of use then only if a request is answered over it.
	// An error with a SilentError in it says that no answer came.
	Dial func(ctx context.Context, address string, suspect bool) (C, error)
	// Unavailable is the error of an endpoint that cannot be asked.
	Unavailable func(address string, cause error) error

	mu      sync.Mutex
	known   map[string]*shared[C]
	retired map[C]*time.Timer // that closes it
}

// shared is what all requests to one endpoint share.
type shared[C Conn] struct {
	attempt *attempt[C]
	silent  bool      // the last connection, or the last attempt, ended without an answer
	refuse  time.Time // until when no other attempt is made
}

// attempt is a connection that is being made, was made, or could not be. It belongs to
// no request: one that gives up leaves it to the others.
type attempt[C Conn] struct {
	cancel  context.CancelFunc
	suspect bool
	wait    time.Duration
	late    chan struct{} // closed after wait, if the attempt is not done before
	done    chan struct{} // closed when conn or err is there
	conn    C
	err     error
}

func (a *attempt[C]) over() bool {
	select {
	case <-a.done:
		return a.err != nil || a.conn.Ended()
	default:
		return false
	}
}

// Get returns the connection to an endpoint, made anew if it is gone. The error of an
// endpoint that does not answer in time is that of Unavailable, with a SilentError.
func (p *Pool[C]) Get(ctx context.Context, address string) (C, error) {
	var none C
	a := p.attemptAt(address)
	if a == nil {
		return none, p.Unavailable(address, SilentError{ShortWait})
	}
	select { // what is there is taken, whatever the time
	case <-a.done:
		return a.conn, a.err
	default:
	}
	select {
	case <-a.done:
		return a.conn, a.err
	case <-a.late:
		return none, p.Unavailable(address, SilentError{a.wait})
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// attemptAt is the attempt to wait for, nil while requests are refused.
func (p *Pool[C]) attemptAt(address string) *attempt[C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]*shared[C]{}
	}
	s := p.known[address]
	if s == nil {
		s = &shared[C]{}
		p.known[address] = s
	}
	if s.attempt != nil && !s.attempt.over() {
		return s.attempt
	}
	if time.Now().Before(s.refuse) {
		return nil
	}
	s.attempt = p.begin(address, s)
	return s.attempt
}

func (p *Pool[C]) begin(address string, s *shared[C]) *attempt[C] {
	a := &attempt[C]{suspect: s.silent, wait: Wait, late: make(chan struct{}), done: make(chan struct{})}
	if a.suspect {
		a.wait = ShortWait
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.cancel = cancel
	timer := time.AfterFunc(a.wait, func() { close(a.late) })
	go func() {
		defer cancel()
		defer timer.Stop()
		conn, err := p.Dial(ctx, address, a.suspect)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = p.Unavailable(address, SilentError{patience})
		}
		p.mu.Lock()
		if s.silent = errors.As(err, &SilentError{}); s.silent {
			s.refuse = time.Now().Add(ShortWait)
		}
		p.mu.Unlock()
		a.conn, a.err = conn, err
		close(a.done)
	}()
	return a
}

// Silent closes a connection over which a request was not answered within limit: an
// answer that comes late would be taken for that of another request. All requests that
// wait over it fail now. The next one finds out whether the endpoint answers again.
func (p *Pool[C]) Silent(address string, c C, limit time.Duration) {
	p.mu.Lock()
	if s := p.known[address]; s != nil && s.has(c) {
		s.silent = true
		if s.attempt.suspect { // it answers to be connected to, and nothing else
			s.refuse = time.Now().Add(ShortWait)
		}
		s.attempt = nil
	}
	p.mu.Unlock()
	c.Close(SilentError{limit})
}

// Drop closes a connection that is of no use any more.
func (p *Pool[C]) Drop(address string, c C, cause error) {
	p.mu.Lock()
	p.forget(address, c)
	p.mu.Unlock()
	c.Close(cause)
}

// Retire makes the next request connect anew. Requests under way over the connection
// have some time to end.
func (p *Pool[C]) Retire(address string, c C) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.forget(address, c) {
		return
	}
	if p.retired == nil {
		p.retired = map[C]*time.Timer{}
	}
	p.retired[c] = time.AfterFunc(Wait, func() {
		p.mu.Lock()
		delete(p.retired, c)
		p.mu.Unlock()
		c.Close(ErrClosed)
	})
}

// forget reports whether c was the connection that requests get. It is not from now on.
func (p *Pool[C]) forget(address string, c C) bool {
	s := p.known[address]
	if s == nil || !s.has(c) {
		return false
	}
	s.attempt = nil
	return true
}

// has reports whether c is the connection that requests get.
func (s *shared[C]) has(c C) bool {
	if s.attempt == nil {
		return false
	}
	select {
	case <-s.attempt.done:
		return s.attempt.err == nil && s.attempt.conn == c
	default:
		return false
	}
}

// Close closes all connections and ends the attempts. Later requests connect anew.
func (p *Pool[C]) Close() {
	p.mu.Lock()
	all, retired := p.known, p.retired
	p.known, p.retired = nil, nil
	p.mu.Unlock()
	for c, timer := range retired {
		timer.Stop()
		c.Close(ErrClosed)
	}
	for _, s := range all {
		if s.attempt == nil {
			continue
		}
		s.attempt.cancel()
		if <-s.attempt.done; s.attempt.err == nil {
			s.attempt.conn.Close(ErrClosed)
		}
	}
}
