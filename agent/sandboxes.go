package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// sandboxes goes through the recorded sandboxes, each with its engine.
type sandboxes struct {
	store   *store
	engines *recordedEngines
	log     *slog.Logger
	logged  sync.Map // errors, since the last reconciliation
}

// Bounds of work on sandboxes.
const (
	workers        = 4                // sandboxes that are worked on together
	sandboxTimeout = 60 * time.Second // for one sandbox
	lockedWait     = 2 * time.Second  // for all sandboxes together that other requests work on
)

// each calls do for each record, for some together. A sandbox that another request works
// on is waited for only shortly (journal.Skipping). broken is called with each error that
// leaves out a record, which is nil when it cannot be read.
func (s *sandboxes) each(
	ctx context.Context, do func(context.Context, *journal.Record, *engine.Engine), broken func(*journal.Record, error),
) {
	ctx = s.store.journal.Skipping(ctx, lockedWait)
	var group errgroup.Group
	group.SetLimit(workers)
	err := s.store.each(func(rec *journal.Record) {
		if ctx.Err() != nil {
			return
		}
		group.Go(func() error {
			e, err := s.engines.of(rec)
			if err != nil {
				broken(rec, err)
				return nil
			}
			bounded, cancel := context.WithTimeout(ctx, sandboxTimeout)
			defer cancel()
			do(bounded, rec, e)
			return nil
		})
	})
	_ = group.Wait() // broken gets the errors
	for _, one := range unjoin(err) {
		broken(nil, one)
	}
}

// logOnce logs what is wrong with the journal, each error once for a reconciliation.
func (s *sandboxes) logOnce(_ *journal.Record, err error) {
	if _, before := s.logged.LoadOrStore(err.Error(), true); !before {
		s.log.Error("journal", "why", err.Error())
	}
}
