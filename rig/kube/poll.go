package kube

import (
	"context"
	"fmt"
	"time"
)

// waitLimit ends the waiting of a caller whose context has no deadline.
const waitLimit = 90 * time.Second

// poll asks until the condition holds, fails, or ctx is done. What says what is
// waited for. A condition that does not hold may say why not, by why.
func poll(ctx context.Context, what string, condition func(ctx context.Context) (ok bool, why, err error)) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, waitLimit)
		defer cancel()
	}
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, why, err := condition(ctx)
		if err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if why != nil && ctx.Err() == nil {
			last = why
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("wait until %s: not within %s: %w", what, time.Since(begin).Round(time.Millisecond), ctx.Err())
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return err
		case <-tick.C:
		}
	}
}
