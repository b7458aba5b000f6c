// Package endpoint shares one connection to each vswitch among all requests of a
// process. All requests together wait only once for a vswitch that does not answer. Then a
// connection is tried in the background, and requests fail at once until it is made.
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
	Wait      = 3 * time.Second // of requests, for an endpoint without a recent failure
	ShortWait = time.Second     // of requests, for one that did not answer the last time
	patience  = 5 * time.Second // until an attempt is given up
)

// Conn is a connection to an endpoint.
type Conn interface {
	comparable
	// Ended reports whether the connection is closed or broken.
	Ended() bool
	// Close closes the connection. Requests that wait for an answer over it fail with the
	// cause.
	Close(cause error)
}

// ErrClosed is the cause of a connection that this process has closed.
var ErrClosed = errors.New("the connection was closed")

// SilentError is the cause of a failure: there was no answer in time.
type SilentError struct{ Limit time.Duration }

func (e SilentError) Error() string { return fmt.Sprintf("no answer within %s", e.Limit) }

// Late calls do. It calls tell with a SilentError when do takes longer than limit, and waits for
// do all the same.
func Late(limit time.Duration, tell func(error), do func() error) (late bool, err error) {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err = <-done:
		return false, err
	case <-time.After(limit):
		tell(SilentError{limit})
		return true, <-done
	}
}

// Times of those who follow an endpoint all the time.
const (
	Pulse      = time.Second     // between two questions to an endpoint that answers
	PulseLimit = 3 * time.Second // for its answer
)

// Pool has one connection to each endpoint of a kind.
type Pool[C Conn] struct {
	// Dial connects to an address. suspect: the endpoint did not answer the last
	// time, so Dial has to test the connection with a request. It fails with a SilentError
	// when there is no answer.
	Dial func(ctx context.Context, address string, suspect bool) (C, error)
	// Unavailable is the error of an endpoint that cannot be asked.
	Unavailable func(address string, cause error) error

	mu      sync.Mutex
	known   map[string]*slot[C]
	retired map[C]*time.Timer // that closes it
}

// slot is the state of one endpoint, shared by all requests to it.
type slot[C Conn] struct {
	attempt *attempt[C]
	silent  bool      // the last connection, or the last attempt, ended without an answer
	refuse  time.Time // no attempt is made before this time
}

// attempt is one attempt to connect, with its outcome. Requests wait for it together: it goes
// on when one of them gives up.
type attempt[C Conn] struct {
	cancel  context.CancelFunc
	suspect bool
	wait    time.Duration // of requests, from the beginning of the attempt
	until   time.Time     // the end of this wait
	done    chan struct{} // closed when conn or err is set
	conn    C
	err     error
}

func (a *attempt[C]) isDone() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// Get returns the connection to an endpoint, a new one if the last has ended. The error of an
// endpoint that does not answer in time is that of Unavailable, with a SilentError.
func (p *Pool[C]) Get(ctx context.Context, address string) (C, error) {
	var none C
	a := p.attemptAt(address)
	if a == nil {
		return none, p.Unavailable(address, SilentError{ShortWait})
	}
	if a.isDone() { // even if ctx is done
		return a.conn, a.err
	}
	bounded, cancel := context.WithDeadline(ctx, a.until)
	defer cancel()
	select {
	case <-a.done:
		return a.conn, a.err
	case <-bounded.Done():
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	return none, p.Unavailable(address, SilentError{a.wait})
}

// attemptAt is the attempt that a request waits for, nil while requests are refused.
func (p *Pool[C]) attemptAt(address string) *attempt[C] {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]*slot[C]{}
	}
	s := p.known[address]
	if s == nil {
		s = &slot[C]{}
		p.known[address] = s
	}
	if a := s.attempt; a != nil && !(a.isDone() && (a.err != nil || a.conn.Ended())) {
		return a
	}
	if time.Now().Before(s.refuse) {
		return nil
	}
	s.attempt = p.begin(address, s)
	return s.attempt
}

func (p *Pool[C]) begin(address string, s *slot[C]) *attempt[C] {
	a := &attempt[C]{suspect: s.silent, wait: Wait, done: make(chan struct{})}
	if a.suspect {
		a.wait = ShortWait
	}
	a.until = time.Now().Add(a.wait)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.cancel = cancel
	go func() {
		defer cancel()
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

// Silent closes a connection over which a request was not answered within limit: a
// late answer would be taken for that of another request. All requests that wait over the
// connection fail. The next request tests whether the endpoint answers again.
func (p *Pool[C]) Silent(address string, c C, limit time.Duration) {
	p.mu.Lock()
	if s, a := p.forget(address, c); a != nil {
		s.silent = true
		if a.suspect { // the endpoint accepts connections, but does not answer requests
			s.refuse = time.Now().Add(ShortWait)
		}
	}
	p.mu.Unlock()
	c.Close(SilentError{limit})
}

// Drop closes a broken connection.
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
	if _, a := p.forget(address, c); a == nil {
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

// forget stops handing out the connection c. It returns the slot and the attempt of which c is
// the current connection, nil for none.
func (p *Pool[C]) forget(address string, c C) (s *slot[C], a *attempt[C]) {
	if s = p.known[address]; s == nil {
		return nil, nil
	}
	if a = s.attempt; a == nil || !a.isDone() || a.err != nil || a.conn != c {
		return nil, nil
	}
	s.attempt = nil
	return s, a
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
