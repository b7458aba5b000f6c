package ovs

import (
	"context"
	"fmt"
	"time"
)

// waitLimit ends the waiting of a caller whose context has no deadline.
const waitLimit = 60 * time.Second

// limited gives ctx a deadline if it has none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, waitLimit)
}

// poll asks until the condition holds, fails, or ctx is done. What says what is
// waited for.
func poll(ctx context.Context, what string, condition func() (bool, error)) error {
	ctx, cancel := limited(ctx)
	defer cancel()
	begin := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition()
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: not within %s: %w",
				what, time.Since(begin).Round(time.Millisecond), ctx.Err())
		case <-tick.C:
		}
	}
}
