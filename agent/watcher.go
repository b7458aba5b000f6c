package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
)

// endpoint is a vswitch that pods are attached to, by delegate and address.
type endpoint struct{ delegate, address string }

// watcher watches the endpoints of the recorded attachments.
type watcher struct {
	delegates plugin.Table
	log       *slog.Logger
	returned  chan endpoint // endpoints that answer again
	added     chan endpoint // to be watched
	watched   sync.Map      // by endpoint
}

// watchRetry is the time before an endpoint is watched again after an error.
const watchRetry = time.Second

func newWatcher(d plugin.Table, log *slog.Logger) *watcher {
	return &watcher{delegates: d, log: log, returned: make(chan endpoint, 64), added: make(chan endpoint, 64)}
}

// add has the endpoints of a record watched.
func (w *watcher) add(rec *journal.Record) {
	for delegate, addresses := range engine.Endpoints(w.delegates, rec) {
		for _, address := range addresses {
			one := endpoint{delegate, address}
			if _, before := w.watched.LoadOrStore(one, true); before {
				continue
			}
			select {
			case w.added <- one:
			default:
				w.watched.Delete(one) // the next reconciliation adds it
			}
		}
	}
}

// Run watches until ctx is done.
func (w *watcher) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case one := <-w.added:
			group.Go(func() { w.watch(ctx, one) })
		}
	}
}

// watch notifies each time that an endpoint answers again.
func (w *watcher) watch(ctx context.Context, one endpoint) {
	for ctx.Err() == nil {
		if err := w.delegates[one.delegate].Watch(ctx, one.address); err != nil {
			if ctx.Err() == nil {
				w.log.Warn("watch", "delegate", one.delegate, "address", one.address, "why", err.Error())
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchRetry):
			}
			continue
		}
		select {
		case w.returned <- one:
		case <-ctx.Done():
		}
	}
}
