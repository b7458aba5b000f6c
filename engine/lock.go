package engine

import (
	"context"
	"time"

	"github.com/plexus-cni/plexus/delegates"
)

// collectWait is how long GC waits for all sandboxes that are locked, together.
const collectWait = 2 * time.Second

// lock locks a sandbox for this request. Plugins that it executes inherit the lock
// (journal.Lock).
func (e *Engine) lock(ctx context.Context, sandbox string) (_ context.Context, unlock func(), err error) {
	ctx, l, err := e.Journal.Lock(ctx, sandbox)
	if err != nil {
		return ctx, nil, delegates.Coded(delegates.CodeTryAgain, err)
	}
	return ctx, l.Release, nil
}
