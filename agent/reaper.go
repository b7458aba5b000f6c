package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// reaper undoes sandboxes that no runtime will DEL.
type reaper struct {
	sandboxes *sandboxes
	cluster   cluster
	publisher *publisher
	reporter  *reporter
	grace     time.Duration // before a sandbox is undone whose network namespace is gone
}

// reapOrphans undoes sandboxes whose namespace has been gone for the grace time, and
// which no running pod needs.
func (r *reaper) reapOrphans(ctx context.Context) {
	r.sandboxes.each(ctx, func(ctx context.Context, rec *journal.Record, e *engine.Engine) {
		if !r.isOrphan(rec) {
			return
		}
		if _, err := r.reclaim(ctx, rec, e, "its network namespace is gone"); err != nil {
			r.sandboxes.logOnce(rec, fmt.Errorf("reclaim sandbox %s: %w", rec.Sandbox, err))
		}
	}, r.sandboxes.logOnce)
}

// isOrphan reports whether a sandbox' grace time is over. It begins with the first call
// that misses the namespace.
func (r *reaper) isOrphan(rec *journal.Record) bool {
	needed, since := engine.Alive(rec) || r.isNeeded(rec), time.Time{}
	r.sandboxes.store.update(rec.Sandbox, func(k *knownSandbox) {
		switch {
		case needed:
			k.gone = time.Time{}
		case k.gone.IsZero():
			k.gone = time.Now()
		}
		since = k.gone
	})
	return !needed && time.Since(since) >= r.grace
}

// isNeeded reports whether a sandbox' pod is on this node, has not ended, and has no newer
// sandbox. Its runtime will DEL; a namespace that only cannot be seen costs no pod its
// networks.
func (r *reaper) isNeeded(rec *journal.Record) bool {
	for _, tx := range rec.Transactions {
		if tx.Pod == nil {
			continue
		}
		pod, known := r.cluster.CachedPod(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
		if !known {
			return true // the node's pods are not listed yet
		}
		if pod != nil && !pod.Ended && !r.sandboxes.store.hasNewer(rec.Sandbox, tx) {
			return true
		}
	}
	return false
}

// reclaim undoes a sandbox that no runtime will DEL, and reports what an operator gives up.
func (r *reaper) reclaim(ctx context.Context, rec *journal.Record, e *engine.Engine, why string, abandon ...string) (given []engine.Finding, err error) {
	_, err = r.reporter.telemetry.observe(ctx, "RECLAIM", rec.Sandbox, podOf(rec), func(ctx context.Context) (err error) {
		given, err = e.Reclaim(ctx, rec.Sandbox, abandon...)
		return err
	})
	for _, f := range given {
		r.reporter.telemetry.metrics.abandoned.Inc()
		r.reporter.announce(&f)
	}
	if left, errRead := r.sandboxes.store.journal.Read(rec.Sandbox); err != nil || errRead != nil || left != nil { // a pod that runs has its other networks
		return given, err
	}
	r.forget(rec.Sandbox)
	r.reporter.telemetry.log.Warn("reclaimed", "sandbox", rec.Sandbox, "pod", podOf(rec), "why", why)
	for _, tx := range rec.Transactions {
		if tx.Pod != nil {
			r.cluster.Event(tx.Pod, false, reasonReclaimed, "sandbox "+rec.Sandbox+": "+why)
		}
	}
	return given, nil
}

// forgetDeleted drops what the agent knows of sandboxes that have no record any more:
// DEL, GC and plexusd cni delete records too.
func (r *reaper) forgetDeleted() {
	// Before the journal is read: records that come meanwhile stay.
	known := r.sandboxes.store.selected(func(*knownSandbox) bool { return true })
	recorded, err := r.sandboxes.store.journal.Sandboxes()
	if err != nil {
		return // the reconciliation logs it
	}
	for _, sandbox := range known {
		if !slices.Contains(recorded, sandbox) {
			r.forget(sandbox)
		}
	}
}

// forget drops what the agent knows of a sandbox.
func (r *reaper) forget(sandbox string) {
	r.sandboxes.store.remove(sandbox)
	r.publisher.drop(sandbox, "")
}
