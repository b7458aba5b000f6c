package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Memory is given back when the last of the requests under way has ended, not while
// another runs.
func TestMemoryIsGivenBackAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var freed atomic.Int32
		m := newMemoryOf(func() { freed.Add(1) })
		time.Sleep(2 * restAfter)
		if freed.Load() != 1 {
			t.Errorf("after the start: %d times, want once", freed.Load())
		}
		long := m.use()
		m.use()()
		time.Sleep(2 * restAfter)
		if freed.Load() != 1 {
			t.Error("memory is given back while a request runs")
		}
		long()
		time.Sleep(2 * restAfter)
		if freed.Load() != 2 {
			t.Errorf("after the last request: %d times, want twice", freed.Load())
		}
	})
}

// A task that fails ends the others, and its error is the agent's; one that hangs is
// abandoned.
func TestTasksEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure, release := errors.New("the port is taken"), make(chan struct{})
		var ended atomic.Bool
		var ending atomic.Int32
		defer close(release)
		began := time.Now()
		err := runTasks(t.Context(), func() { ending.Add(1) },
			func(ctx context.Context) error { <-ctx.Done(); ended.Store(true); return nil },
			func(context.Context) error { return failure },
			func(context.Context) error { <-release; return nil })
		if !errors.Is(err, failure) || !ended.Load() || ending.Load() != 1 {
			t.Errorf("%v, the other has ended: %v, %d notices", err, ended.Load(), ending.Load())
		}
		if took := time.Since(began); took != abandon { // of the bubble's clock
			t.Errorf("the task that hangs is abandoned after %v", took)
		}
	})
}

// A task that ends without an error ends no other.
func TestTaskThatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- runTasks(ctx, func() {}, func(context.Context) error { return nil },
				func(ctx context.Context) error { <-ctx.Done(); return nil })
		}()
		synctest.Wait()
		if len(ended) != 0 {
			t.Error("the agent has ended with its first task")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
