package process

import (
	"context"
	"fmt"
	"time"
)

// waitLimit ends the waiting of a caller whose context has no deadline.
const waitLimit = 60 * time.Second

// Limited gives ctx a deadline of 60 s if it has none.
func Limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, waitLimit)
}

// Poll asks until the condition holds, fails, or ctx is done, for 60 s if it has no deadline.
// What says what is waited for.
func Poll(ctx context.Context, what string, condition func() (bool, error)) error {
	ctx, cancel := Limited(ctx)
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
