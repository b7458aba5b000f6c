package journal

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/plexus-cni/plexus/lock"
)

// lockWait is how long a verb waits for a sandbox that is locked, so that it ends with
// code 11 within ten seconds; the runtime repeats it.
const lockWait = 8 * time.Second

// errLockWait is the cause of a lock.HeldError.
var errLockWait = errors.New("waited for " + lockWait.String())

// Lock locks a sandbox for this process, until Release. It waits for lockWait at most, or for
// the budget of the context (Skipping), and then fails with a lock.HeldError. Plugins executed
// under the returned context inherit the lock (lock.Of): when plexus is killed, the sandbox
// stays locked until its plugins and their children have ended. So no plugin can repeat a
// change after it was undone.
func (j *Journal) Lock(ctx context.Context, sandbox string) (context.Context, *lock.Lock, error) {
	take := j.Locks.Take
	waiting, cancel := context.WithTimeoutCause(ctx, lockWait, errLockWait)
	defer cancel()
	if budget, ok := ctx.Value(budgetKey{}).(*lock.Budget); ok {
		take, waiting = budget.Take, ctx
	}
	l, err := take(waiting, "sandbox "+filepath.Clean(j.dir)+"\x00"+sandbox, "sandbox "+sandbox)
	if err != nil {
		return ctx, nil, err
	}
	return lock.With(ctx, l), l, nil
}

// Skipping returns a context for work on one sandbox after the other: Lock waits for all
// locked sandboxes together no longer than wait, and fails with a lock.HeldError (IsLocked).
func (j *Journal) Skipping(ctx context.Context, wait time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, lock.NewBudget(j.Locks, wait))
}

// IsLocked reports whether an error says that another request has the sandbox locked.
func IsLocked(err error) bool {
	var held *lock.HeldError
	return errors.As(err, &held)
}

type budgetKey struct{}
