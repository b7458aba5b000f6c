package agent

import (
	"context"
	"errors"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/status"
)

// republisher compares network-status of pods with the journal.
type republisher struct {
	store     *store
	engines   *recordedEngines
	cluster   cluster
	publisher *publisher
}

// podTimeout is how long a comparison waits for the API server, which may be away.
const podTimeout = 2 * time.Second

// publish publishes what the journal has of a sandbox, if its pod lacks it.
func (r *republisher) publish(ctx context.Context, sandbox string) error {
	rec, err := r.store.journal.Read(sandbox)
	if err != nil {
		return err
	}
	tx := rec.Latest()
	if tx == nil {
		return nil
	}
	e, err := r.engines.of(rec)
	if err != nil {
		return err
	}
	pod, err := r.cluster.FetchPod(ctx, tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if err == nil {
		_, err = e.Republish(ctx, sandbox, pod)
	}
	return err
}

// compare has a sandbox published whose running pod lacks its network-status: an agent
// has ended before it published it, or another program has removed it.
func (r *republisher) compare(ctx context.Context, rec *journal.Record) []engine.Finding {
	tx := rec.Latest()
	if tx == nil || rec.Damage != "" || r.publisher.unpublished(rec.Sandbox) != "" {
		return nil
	}
	pod, _ := r.cluster.CachedPod(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if pod == nil || pod.Ended || !status.Unpublished(tx, pod) || r.store.hasNewer(rec.Sandbox, tx) {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	pod, err := r.cluster.FetchPod(bounded, tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if errors.Is(err, kube.ErrPodGone) || err == nil && !status.Unpublished(tx, pod) || ctx.Err() != nil {
		return nil // the watch is late
	}
	r.publisher.publish(rec.Sandbox, tx.IfName, tx.Pod, nil)
	return []engine.Finding{{Sandbox: rec.Sandbox, Pod: tx.Pod, Kind: engine.KindMissing, What: "network-status of the pod: it is published again"}}
}
