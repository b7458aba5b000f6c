package agent

import (
	"context"
	"errors"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// task is a part of the agent that runs until ctx is done: the Run of a type, mostly.
type task func(ctx context.Context) error

// drain is how long what is under way may take when the agent is to end.
const drain = 40 * time.Second

// abandon is how long after the agent is to end a task that hangs is left to itself. It is
// longer than drain.
const abandon = drain + time.Second

// runTasks runs tasks until ctx is done, or one of them fails. It returns when all have
// ended; the error is the first one.
func runTasks(ctx context.Context, ending func(), tasks ...task) error {
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, ending)()
	for _, t := range tasks {
		group.Go(func() error {
			ended := make(chan error, 1)
			go func() { ended <- t(ctx) }()
			late, stop := after(ctx, abandon)
			defer stop()
			select {
			case err := <-ended:
				return err
			case <-late.Done():
				return nil
			}
		})
	}
	return group.Wait()
}

// drained is a context that is done when the time to drain is over.
func drained(ctx context.Context) (context.Context, context.CancelFunc) { return after(ctx, drain) }

// after is a context that is done some time after ctx.
func after(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return late, cancel
}

// runHTTP serves until ctx is done; requests that are under way are answered.
func runHTTP(ctx context.Context, server *http.Server, serve func() error) error {
	late, stop := drained(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- serve() }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	if errDown := server.Shutdown(late); errDown != nil {
		err = errors.Join(err, errDown, server.Close())
	}
	return err
}
