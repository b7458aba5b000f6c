package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
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

	mu   sync.Mutex
	gone map[string]time.Time // by sandbox: since when its namespace is gone
}

// reapOrphans undoes sandboxes whose namespace has been gone for the grace time, and
// which no running pod needs.
func (r *reaper) reapOrphans(ctx context.Context) {
	ctx = r.sandboxes.store.journal.Skipping(ctx, lockedWait)
	err := r.sandboxes.store.each(func(rec *journal.Record) {
		if ctx.Err() != nil || !r.isOrphan(rec) {
			return
		}
		e, err := r.sandboxes.engines.of(rec)
		if err == nil {
			bounded, cancel := context.WithTimeout(ctx, sandboxTimeout)
			defer cancel()
			err = r.reclaim(bounded, rec, e, "its network namespace is gone")
		}
		if err != nil {
			r.sandboxes.errors.logOnce(fmt.Errorf("reclaim sandbox %s: %w", rec.Sandbox, err))
		}
	})
	if err != nil {
		r.sandboxes.errors.logOnce(err)
	}
}

// isOrphan reports whether a sandbox' grace time is over. It begins with the first call
// that misses the namespace.
func (r *reaper) isOrphan(rec *journal.Record) bool {
	needed := engine.Alive(rec) || r.isNeeded(rec)
	r.mu.Lock()
	defer r.mu.Unlock()
	if needed {
		delete(r.gone, rec.Sandbox)
		return false
	}
	if _, ok := r.gone[rec.Sandbox]; !ok {
		r.gone[rec.Sandbox] = time.Now()
	}
	return time.Since(r.gone[rec.Sandbox]) >= r.grace
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

// reclaim undoes a sandbox that no runtime will DEL.
func (r *reaper) reclaim(ctx context.Context, rec *journal.Record, e *engine.Engine, why string) error {
	err := r.reporter.telemetry.observe(ctx, "RECLAIM", rec.Sandbox, podOf(rec), func(ctx context.Context) error {
		return e.Reclaim(ctx, rec.Sandbox)
	})
	if err != nil {
		return err
	}
	r.forget(rec.Sandbox)
	r.reporter.telemetry.log.Warn("reclaimed", "sandbox", rec.Sandbox, "pod", podOf(rec), "why", why)
	for _, tx := range rec.Transactions {
		if tx.Pod != nil {
			r.cluster.Event(tx.Pod, false, reasonReclaimed, "sandbox "+rec.Sandbox+": "+why)
		}
	}
	return nil
}

// forgetDeleted drops what the agent remembers of sandboxes that have no record any more:
// DEL, GC and plexusd cni delete records too.
func (r *reaper) forgetDeleted() {
	remembered := r.sandboxes.store.indexed() // before the journal is read: records that come meanwhile stay
	remembered = append(remembered, r.reporter.sandboxes()...)
	r.mu.Lock()
	remembered = slices.AppendSeq(remembered, maps.Keys(r.gone))
	r.mu.Unlock()
	recorded, err := r.sandboxes.store.journal.Sandboxes()
	if err != nil {
		return // the reconciliation logs it
	}
	for _, sandbox := range remembered {
		if !slices.Contains(recorded, sandbox) {
			r.forget(sandbox)
		}
	}
}

// forget drops what the agent remembers of a sandbox.
func (r *reaper) forget(sandbox string) {
	r.sandboxes.store.remove(sandbox)
	r.publisher.drop(sandbox, "")
	r.reporter.forget(sandbox)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gone, sandbox)
}
