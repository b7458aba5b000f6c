package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

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
	changed   chan endpoint // endpoints with a report
	added     chan endpoint // to be watched

	mu      sync.Mutex
	watched map[endpoint]*condition
}

// condition is that of an endpoint.
type condition struct {
	ctx   context.Context // of its watch
	stop  context.CancelFunc
	why   string // it does not work, "" when it does
	fresh bool   // added since the last retain
}

func newWatcher(d plugin.Table, log *slog.Logger) *watcher {
	return &watcher{delegates: d, log: log, changed: make(chan endpoint, 64), added: make(chan endpoint, 64), watched: map[endpoint]*condition{}}
}

// add has the endpoints of a record watched.
func (w *watcher) add(rec *journal.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for delegate, addresses := range engine.Endpoints(w.delegates, rec) {
		for _, address := range addresses {
			one := endpoint{delegate, address}
			if w.watched[one] != nil {
				continue
			}
			select {
			case w.added <- one:
				c := &condition{fresh: true}
				c.ctx, c.stop = context.WithCancel(context.Background())
				w.watched[one] = c
			default: // the next reconciliation adds it
			}
		}
	}
}

// retain ends the watches of endpoints that no record has any more.
func (w *watcher) retain(recorded map[endpoint]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one, c := range w.watched {
		if !recorded[one] && !c.fresh {
			c.stop()
			delete(w.watched, one)
		}
		c.fresh = false
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
			w.mu.Lock()
			c := w.watched[one]
			w.mu.Unlock()
			if c == nil {
				continue
			}
			group.Go(func() {
				defer context.AfterFunc(ctx, c.stop)()
				err := w.delegates[one.delegate].Watch(c.ctx, one.address, func(why error) { w.report(one, why) })
				if c.ctx.Err() == nil {
					w.report(one, err)
				}
			})
		}
	}
}

// report notes the state of an endpoint. It has the reconciler act on it, but for a reason that
// is known.
func (w *watcher) report(one endpoint, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.watched[one]
	if c == nil {
		return
	}
	before := c.why
	if c.why = ""; why != nil {
		c.why = why.Error()
	}
	if c.why != "" && c.why == before {
		return
	}
	select {
	case w.changed <- one:
	default: // many have changed at once; the next reconciliation sees to it
	}
}

// down is why an endpoint does not work, "" when it does.
func (w *watcher) down(one endpoint) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.watched[one]; c != nil {
		return c.why
	}
	return ""
}

// states are the endpoints that are watched.
func (w *watcher) states() (all []VswitchInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one, c := range w.watched {
		all = append(all, VswitchInfo{Delegate: one.delegate, Address: one.address, Why: c.why})
	}
	slices.SortFunc(all, func(a, b VswitchInfo) int {
		return cmp.Or(strings.Compare(a.Delegate, b.Delegate), strings.Compare(a.Address, b.Address))
	})
	return all
}

// why names the endpoints that do not work, nil for none.
func (w *watcher) why() error {
	var errs []error
	for _, one := range w.states() {
		if one.Why != "" {
			errs = append(errs, errors.New(one.Why))
		}
	}
	return errors.Join(errs...)
}
