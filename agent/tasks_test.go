package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Memory is given back when the last of the requests under way has ended, not while
// another runs.
func TestMemoryIsGivenBackAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		freed := 0
		m := newMemoryOf(func() { freed++ })
		time.Sleep(2 * restAfter)
		if freed != 1 {
			t.Errorf("after the start: %d times, want once", freed)
		}
		long := m.use()
		m.use()()
		time.Sleep(2 * restAfter)
		if freed != 1 {
			t.Error("memory is given back while a request runs")
		}
		long()
		time.Sleep(2 * restAfter)
		if freed != 2 {
			t.Errorf("after the last request: %d times, want twice", freed)
		}
	})
}

type taskFunc func(context.Context) error

func (f taskFunc) Run(ctx context.Context) error { return f(ctx) }

// A task that fails ends the others, and its error is the agent's; one that hangs is
// abandoned.
func TestTasksEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure, ended, ending, release := errors.New("the port is taken"), false, 0, make(chan struct{})
		defer close(release)
		began := time.Now()
		err := runTasks(t.Context(), func() { ending++ },
			taskFunc(func(ctx context.Context) error { <-ctx.Done(); ended = true; return nil }),
			taskFunc(func(context.Context) error { return failure }),
			taskFunc(func(context.Context) error { <-release; return nil }))
		if !errors.Is(err, failure) || !ended || ending != 1 {
			t.Errorf("%v, the other has ended: %v, %d notices", err, ended, ending)
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
			ended <- runTasks(ctx, func() {}, taskFunc(func(context.Context) error { return nil }),
				taskFunc(func(ctx context.Context) error { <-ctx.Done(); return nil }))
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
