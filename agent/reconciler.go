package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// reconciler compares the recorded sandboxes with the world: it undoes requests that were
// cut short, restores what a vswitch has lost, and reports other differences.
type reconciler struct {
	sandboxes   *sandboxes
	endpoints   *watcher
	republisher *republisher
	reporter    *reporter
	reaper      *reaper
	every       time.Duration // between two reconciliations

	requests chan chan []engine.Finding // of people, for a reconciliation now
	pauses   map[endpoint]time.Duration // before the next comparison of those where one has failed
}

// reapEvery is the time between two looks for network namespaces that are gone.
const reapEvery = 10 * time.Second

// Run indexes the journal, then reconciles until ctx is done.
func (r *reconciler) Run(ctx context.Context) error {
	if err := r.sandboxes.store.each(r.sandboxes.store.add); err != nil {
		r.sandboxes.logOnce(nil, err)
	}
	arrived := make(chan struct{}) // closed when the node's pods are listed
	go func() {
		if r.republisher.cluster.AwaitPods(ctx) {
			close(arrived)
		}
	}()
	r.reconcile(ctx, nil)
	every, reap := time.NewTicker(r.every), time.NewTicker(reapEvery)
	defer every.Stop()
	defer reap.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			r.reconcile(ctx, nil)
		case <-arrived:
			arrived = nil
			r.republish(ctx)
		case <-reap.C:
			r.reaper.reapOrphans(ctx)
		case e := <-r.endpoints.changed:
			r.follow(ctx, e)
		case answer := <-r.requests:
			answer <- r.reconcile(ctx, nil)
		}
	}
}

// follow acts on the report of an endpoint: it compares the sandboxes there when it works, and
// reports on their pods that it does not.
func (r *reconciler) follow(ctx context.Context, e endpoint) {
	why := r.endpoints.down(e)
	if why == "" {
		r.reporter.telemetry.log.Info("a vswitch works again", "delegate", e.delegate, "address", e.address)
		r.retry(e, r.reconcile(ctx, &e))
		return
	}
	r.reporter.telemetry.log.Warn("a vswitch does not work", "delegate", e.delegate, "address", e.address, "why", why)
	_ = r.sandboxes.store.each(func(rec *journal.Record) { // reconciliations report what cannot be read
		if !r.at(rec, e) {
			return
		}
		for _, tx := range rec.Transactions {
			if tx.Pod != nil {
				r.reporter.cluster.Event(tx.Pod, true, reasonDown, why)
			}
		}
	})
}

// Bounds of the time after which the sandboxes at an endpoint are compared again when that has
// failed.
const (
	retryFirst = time.Second
	retryLast  = time.Minute
)

// retry has an endpoint compared again, later each time, when a comparison or a repair has
// failed or a sandbox was locked: a vswitch that has just started may still lack what its
// operator's own configuration makes.
func (r *reconciler) retry(e endpoint, findings []engine.Finding) {
	if !slices.ContainsFunc(findings, func(f engine.Finding) bool { return f.Kind == engine.KindFailed || f.Kind == engine.KindLocked }) {
		delete(r.pauses, e)
		return
	}
	pause := cmp.Or(r.pauses[e], retryFirst)
	r.pauses[e] = min(2*pause, retryLast)
	time.AfterFunc(pause, func() {
		select {
		case r.endpoints.changed <- e:
		default: // many have changed at once; the next reconciliation sees to it
		}
	})
}

// at reports whether a record has an attachment at an endpoint.
func (r *reconciler) at(rec *journal.Record, e endpoint) bool {
	return slices.Contains(engine.Endpoints(r.endpoints.delegates, rec)[e.delegate], e.address)
}

// republish compares network-status alone.
func (r *reconciler) republish(ctx context.Context) {
	r.sandboxes.each(ctx, func(ctx context.Context, rec *journal.Record, _ *engine.Engine) {
		for _, f := range r.republisher.compare(ctx, rec) {
			r.reporter.announce(&f)
		}
	}, r.sandboxes.logOnce)
}

// now reconciles at once and returns the findings.
func (r *reconciler) now(ctx context.Context) ([]engine.Finding, error) {
	answer := make(chan []engine.Finding, 1)
	select {
	case r.requests <- answer:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case findings := <-answer:
		return findings, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reconcile compares all sandboxes with the world, or those at one endpoint.
func (r *reconciler) reconcile(ctx context.Context, only *endpoint) []engine.Finding {
	all, recorded, together := []engine.Finding{}, map[endpoint]bool{}, &delegates.Comparison{}
	var mu sync.Mutex
	if only == nil {
		r.reaper.forgetDeleted()
		r.sandboxes.logged.Clear()
	}
	r.sandboxes.each(ctx, func(ctx context.Context, rec *journal.Record, e *engine.Engine) {
		if only != nil && !r.at(rec, *only) {
			return
		}
		findings := r.reporter.observe(ctx, rec, func(steps context.Context) ([]engine.Finding, error) {
			findings, err := e.Reconcile(steps, rec.Sandbox, together)
			if only == nil {
				findings = append(findings, r.republisher.compare(ctx, rec)...)
			}
			return findings, err
		})
		r.sandboxes.store.notify(rec)
		mu.Lock()
		defer mu.Unlock()
		for delegate, addresses := range engine.Endpoints(r.endpoints.delegates, rec) {
			for _, address := range addresses {
				recorded[endpoint{delegate, address}] = true
			}
		}
		all = append(all, findings...)
	}, r.sandboxes.logOnce)
	if only == nil && ctx.Err() == nil {
		r.endpoints.retain(recorded)
	}
	return all
}
