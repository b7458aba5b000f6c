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

// Lock makes this process the only one that works on a sandbox, until Release. It waits
// no longer than lockWait, or than the context lets it (Skipping); the error is a
// lock.HeldError then. What is executed under the context that it returns inherits the
// lock (lock.Of): when plexus is killed, the sandbox stays locked until its plugins and
// their children have ended, and nothing that is undone then comes back.
func (j *Journal) Lock(ctx context.Context, sandbox string) (context.Context, *lock.Lock, error) {
	l, err := j.lock(ctx, sandbox)
	if err != nil {
		return ctx, nil, err
	}
	return lock.With(ctx, l), l, nil
}

func (j *Journal) lock(ctx context.Context, sandbox string) (*lock.Lock, error) {
	object, what := "sandbox "+filepath.Clean(j.dir)+"\x00"+sandbox, "sandbox "+sandbox
	if budget, ok := ctx.Value(budgetKey{}).(*lock.Budget); ok {
		return budget.Take(ctx, object, what)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, errLockWait)
	defer cancel()
	return j.Locks.Take(ctx, object, what)
}

// Skipping returns a context for work on one sandbox after the other: those that are
// locked are waited for no longer than wait, all together, and fail with a
// lock.HeldError (IsLocked).
func (j *Journal) Skipping(ctx context.Context, wait time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, lock.NewBudget(j.Locks, wait))
}

// IsLocked reports whether an error is that of a sandbox which another request works on.
func IsLocked(err error) bool {
	var held *lock.HeldError
	return errors.As(err, &held)
}

type budgetKey struct{}
