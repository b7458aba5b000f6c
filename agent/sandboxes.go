package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// sandboxes goes through the recorded sandboxes, each with its engine.
type sandboxes struct {
	store   *store
	engines *recordedEngines
	errors  *errorLog
}

// Bounds of work on sandboxes.
const (
	workers        = 4                // sandboxes that are worked on together
	sandboxTimeout = 60 * time.Second // for one sandbox
	lockedWait     = 2 * time.Second  // for all sandboxes together that other requests work on
)

// each calls do for each record, for some together. A sandbox that another request works
// on is waited for only shortly (journal.Skipping).
func (s *sandboxes) each(ctx context.Context, do func(context.Context, *journal.Record, *engine.Engine)) {
	ctx = s.store.journal.Skipping(ctx, lockedWait)
	records := make(chan *journal.Record)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for rec := range records {
				e, err := s.engines.of(rec)
				if err != nil {
					s.errors.logOnce(err)
					continue
				}
				bounded, cancel := context.WithTimeout(ctx, sandboxTimeout)
				do(bounded, rec, e)
				cancel()
			}
		})
	}
	if err := s.store.each(func(rec *journal.Record) {
		if ctx.Err() == nil {
			records <- rec
		}
	}); err != nil {
		s.errors.logOnce(err)
	}
	close(records)
	group.Wait()
}

// errorLog logs what is wrong with the journal, each error once for a reconciliation.
type errorLog struct {
	log    *slog.Logger
	logged sync.Map
}

func (l *errorLog) logOnce(err error) {
	if _, before := l.logged.LoadOrStore(err.Error(), true); !before {
		l.log.Error("journal", "why", err.Error())
	}
}

// reset lets errors be logged again.
func (l *errorLog) reset() { l.logged.Clear() }
