package agent

import (
	"context"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// follower changes the networks of running pods when their annotations change.
type follower struct {
	store     *store
	engines   *recordedEngines
	cluster   cluster
	publisher *publisher
	telemetry *telemetry

	queue chan change
}

// change is a pod whose networks may differ from its annotation.
type change struct {
	pod *conf.Pod
	try int // from 1
}

// Retries of a change.
const (
	changeTries = 5
	changeRetry = 2 * time.Second // the first time, then twice as long each time
)

// podChanged is called with each state of this node's pods. A change that failed is tried
// again by its retries and by reconciliations, not with each state of the pod.
func (f *follower) podChanged(pod *conf.Pod) { f.enqueue(pod, false) }

// recorded is called with each record that is added or compared: the annotation may have
// changed since ADD.
func (f *follower) recorded(rec *journal.Record) {
	for _, tx := range rec.Transactions {
		if tx.Pod == nil {
			continue
		}
		if pod, _ := f.cluster.CachedPod(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID); pod != nil {
			f.enqueue(pod, true)
		}
	}
}

// enqueue has the networks of a pod changed if they differ from its annotation. again: even
// if that failed before.
func (f *follower) enqueue(pod *conf.Pod, again bool) {
	if pod.Ended || len(f.store.outdated(pod.UID, pod.Annotations[conf.NetworksAnnotation], again)) == 0 {
		return
	}
	select {
	case f.queue <- change{pod, 1}:
	default:
		f.telemetry.log.Warn("too many changes at once; the next reconciliation sees to it", "pod", pod.String())
	}
}

// Run changes networks, those of one pod after the other, until ctx is done.
func (f *follower) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-f.queue:
			f.follow(ctx, c)
		}
	}
}

// follow gives a pod the networks that its annotation names by now.
func (f *follower) follow(ctx context.Context, c change) {
	if pod, known := f.cluster.CachedPod(c.pod.Namespace, c.pod.Name, c.pod.UID); known {
		if pod == nil || pod.Ended {
			return
		}
		c.pod = pod
	}
	annotation := c.pod.Annotations[conf.NetworksAnnotation]
	for _, sandbox := range f.store.outdated(c.pod.UID, annotation, true) {
		err := f.update(ctx, sandbox, c.pod)
		if err == nil || ctx.Err() != nil {
			continue
		}
		f.store.update(sandbox, func(k *knownSandbox) { k.failed = &annotation })
		f.telemetry.log.Warn("change of networks", "pod", c.pod.String(), "sandbox", sandbox, "try", c.try, "why", err.Error())
		f.cluster.Event(c.pod, true, reasonFailed, "change of networks: "+err.Error())
		f.retry(ctx, c)
	}
}

// retry enqueues a change that failed, but for the last try.
func (f *follower) retry(ctx context.Context, c change) {
	if c.try == changeTries {
		return
	}
	wait := changeRetry << (c.try - 1)
	c.try++
	time.AfterFunc(wait, func() {
		select {
		case f.queue <- c:
		case <-ctx.Done():
		}
	})
}

// update changes the networks of one sandbox.
func (f *follower) update(ctx context.Context, sandbox string, pod *conf.Pod) error {
	rec, err := f.store.journal.Read(sandbox)
	if err != nil || rec == nil {
		return err
	}
	e, err := f.engines.of(rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.store.journal.Skipping(ctx, lockedWait), sandboxTimeout)
	defer cancel()
	if err := f.publisher.await(ctx, sandbox); err != nil {
		return err
	}
	var changed *engine.Change
	_, err = f.telemetry.observe(ctx, "UPDATE", sandbox, pod.String(), func(ctx context.Context) (err error) {
		changed, err = e.Update(ctx, sandbox, pod)
		return err
	})
	before := rec
	if rec, errRead := f.store.journal.Read(sandbox); errRead == nil && rec != nil {
		if err == nil {
			f.store.add(rec)
			for _, text := range interfaces(rec, before) {
				f.cluster.Event(pod, false, reasonAdded, text)
			}
		} else {
			f.store.index(rec) // it may have less than before
		}
	}
	if err == nil && changed != nil {
		f.cluster.Event(pod, false, reasonChanged, changed.String())
	}
	return err
}
