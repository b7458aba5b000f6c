package delegates

import (
	"context"
	"errors"
	"time"

	"github.com/plexus-cni/plexus/lock"
)

// lockWait is how long a verb waits for a sandbox that is locked, so that it ends with
// code 11 within ten seconds; the runtime repeats it.
const lockWait = 8 * time.Second

// collectWait is how long GC waits for all sandboxes that are locked, together.
const collectWait = 2 * time.Second

// errLockWait is the cause of a lock.HeldError.
var errLockWait = errors.New("waited for " + lockWait.String())

// lock makes this request the only one that works on a sandbox. Plugins that are
// executed under the context that it returns hold the lock too: when plexus is killed,
// the sandbox stays locked until their children have ended, and nothing that is undone
// then comes back.
func (e *Engine) lock(ctx context.Context, sandbox string) (_ context.Context, unlock func(), err error) {
	l, err := e.Journal.Lock(ctx, sandbox)
	if err != nil {
		return ctx, nil, coded(codeTryAgain, err)
	}
	return context.WithValue(ctx, lockKey{}, l), l.Release, nil
}

// Skipping returns a context for work on one sandbox after the other: those that are
// locked are waited for no longer than wait, all together, and fail with a
// lock.HeldError (IsLocked).
func Skipping(ctx context.Context, wait time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, lock.NewBudget(lock.Node, wait))
}

// IsLocked reports whether an error is that of a sandbox which another request works on.
func IsLocked(err error) bool {
	var held *lock.HeldError
	return errors.As(err, &held)
}

// holds is the lock of the sandbox that the context's work is for, nil for none.
func holds(ctx context.Context) *lock.Lock {
	l, _ := ctx.Value(lockKey{}).(*lock.Lock)
	return l
}

type (
	lockKey   struct{}
	budgetKey struct{}
)
