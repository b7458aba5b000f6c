package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fake is an endpoint that tests make silent.
type fake struct {
	mu      sync.Mutex
	answers chan struct{} // closed while it answers to a connection that is being made
	refuses error
	dials   atomic.Int32
	suspect []bool
	pool    *Pool[*fakeConn]
}

type fakeConn struct {
	once  sync.Once
	ended chan struct{}
	cause error
}

func (c *fakeConn) Ended() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *fakeConn) Close(cause error) { c.once.Do(func() { c.cause = cause; close(c.ended) }) }

var errAway = errors.New("away")

func newFake() *fake {
	f := &fake{answers: make(chan struct{})}
	f.pool = &Pool[*fakeConn]{
		Dial: func(ctx context.Context, _ string, suspect bool) (*fakeConn, error) {
			f.dials.Add(1)
			f.mu.Lock()
			answers, refuses := f.answers, f.refuses
			f.suspect = append(f.suspect, suspect)
			f.mu.Unlock()
			if refuses != nil {
				return nil, refuses
			}
			select {
			case <-answers:
				return &fakeConn{ended: make(chan struct{})}, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Unavailable: func(address string, cause error) error { return fmt.Errorf("%s %w: %w", address, errAway, cause) },
	}
	return f
}

func (f *fake) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = make(chan struct{})
}

func (f *fake) resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.answers)
}

// get wants a connection, or an error after exactly some time: time is synctest's.
func (f *fake) get(t *testing.T, after time.Duration, want error) *fakeConn {
	t.Helper()
	begun := time.Now()
	c, err := f.pool.Get(t.Context(), "there")
	if took := time.Since(begun); took != after {
		t.Errorf("it took %s, want %s", took, after)
	}
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	return c
}

// Many requests to an endpoint that is silent make one attempt and wait once, together.
// Later ones do not wait, and the first one after it answers has its connection.
func TestSilentEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() { // each comes a while after the one before
				before := time.Duration(i) * 50 * time.Millisecond
				time.Sleep(before)
				f.get(t, Wait-before, errAway)
			})
		}
		all.Wait()
		f.get(t, 0, SilentError{Wait})
		time.Sleep(patience - Wait - 1)
		f.get(t, 0, errAway)
		if n := f.dials.Load(); n != 1 {
			t.Errorf("%d attempts", n)
		}
		f.resume()
		synctest.Wait()
		c := f.get(t, 0, nil)
		if again := f.get(t, 0, nil); again != c {
			t.Error("the connection is not shared")
		}
	})
}

// An attempt that nothing comes of ends. The next one is made after a pause, and waited
// for shortly.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		f.get(t, Wait, errAway)
		time.Sleep(patience - Wait)
		f.get(t, 0, errAway)
		time.Sleep(time.Hour)
		f.get(t, ShortWait, errAway)
		f.resume()
		synctest.Wait()
		f.get(t, 0, nil)
		if !slices.Equal(f.suspect, []bool{false, true}) {
			t.Errorf("suspected: %v", f.suspect)
		}
	})
}

// A request that is not answered ends the connection for all that wait over it, and
// the next one finds out whether the endpoint answers.
func TestSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		f.resume()
		c := f.get(t, 0, nil)
		f.stop()
		f.pool.Silent("there", c, time.Second)
		f.pool.Silent("there", c, time.Second) // another one that waited
		if !c.Ended() || !errors.Is(c.cause, SilentError{time.Second}) {
			t.Errorf("ended: %v, %v", c.Ended(), c.cause)
		}
		f.get(t, ShortWait, errAway)
		f.get(t, 0, errAway)
		f.resume()
		synctest.Wait()
		f.get(t, 0, nil)
	})
}

// An endpoint that lets connect and is silent then costs one request its limit, not
// each of a pod's.
func TestConnectsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		f.resume()
		for range 2 {
			f.pool.Silent("there", f.get(t, 0, nil), time.Second)
		}
		f.get(t, 0, errAway)
		time.Sleep(ShortWait)
		f.get(t, 0, nil)
		if n := f.dials.Load(); n != 3 {
			t.Errorf("%d attempts", n)
		}
	})
}

// What refuses is asked again with each request, and is not suspect.
func TestRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		f.refuses = fs.ErrNotExist
		f.get(t, 0, fs.ErrNotExist)
		f.get(t, 0, fs.ErrNotExist)
		f.refuses = nil
		f.get(t, Wait, errAway)
		f.resume()
		synctest.Wait()
		c := f.get(t, 0, nil)
		f.pool.Retire("there", c)
		f.pool.Retire("there", c)
		if c.Ended() {
			t.Error("those that use the connection have lost it")
		}
		next := f.get(t, 0, nil)
		if next == c {
			t.Error("a connection that was retired is given")
		}
		time.Sleep(2 * Wait)
		if !c.Ended() || next.Ended() {
			t.Errorf("ended: the retired %v, the next %v", c.Ended(), next.Ended())
		}
		f.pool.Drop("there", next, errAway)
		third := f.get(t, 0, nil)
		if third == next || !errors.Is(next.cause, errAway) {
			t.Errorf("a connection that was dropped is given, or left open: %v", next.cause)
		}
		third.Close(ErrClosed)
		last := f.get(t, 0, nil)
		if last == third {
			t.Error("a connection that has ended is given")
		}
		f.pool.Retire("there", last)
		f.pool.Close()
		if !last.Ended() {
			t.Error("a retired connection is left open by Close")
		}
		if slices.Contains(f.suspect, true) {
			t.Errorf("suspected: %v", f.suspect)
		}
	})
}

// A request that is cancelled leaves the attempt to the others.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		defer f.pool.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.pool.Get(ctx, "there"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		f.resume()
		synctest.Wait()
		f.get(t, 0, nil)
		if n := f.dials.Load(); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

// Close ends what is under way.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		go f.get(t, Wait/2, context.Canceled)
		time.Sleep(Wait / 2)
		f.pool.Close()
		f.resume()
		c := f.get(t, 0, nil)
		f.pool.Close()
		f.pool.Close()
		if !c.Ended() || !errors.Is(c.cause, ErrClosed) {
			t.Errorf("ended: %v, %v", c.Ended(), c.cause)
		}
	})
}
