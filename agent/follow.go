package agent

import (
	"context"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// podChanged is told of each state of this node's pods. What failed is tried
// again by change, and with each reconciliation, not with each word of the pod.
func (k *keeper) podChanged(pod *conf.Pod) {
	asked := pod.Annotations[conf.NetworksAnnotation]
	k.mu.Lock()
	before, failed := k.failed[pod.UID]
	if pod.Ended || failed && before != asked {
		delete(k.failed, pod.UID)
		failed = false
	}
	k.mu.Unlock()
	if !failed {
		k.queue(pod)
	}
}

// queue has the networks of a pod changed, if they are to be.
func (k *keeper) queue(pod *conf.Pod) {
	if pod.Ended || len(k.index.changed(pod.UID, pod.Annotations[conf.NetworksAnnotation])) == 0 {
		return
	}
	select {
	case k.changes <- pod:
	default:
		k.Log.Warn("too many changes at once; the next reconciliation sees to it", "pod", pod.String())
	}
}

// follow changes the networks of running pods, one after the other.
func (k *keeper) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case pod := <-k.changes:
			k.change(ctx, pod, 1)
		}
	}
}

// change gives a pod the networks that it asks for by now.
func (k *keeper) change(ctx context.Context, pod *conf.Pod, try int) {
	if now, known := k.cluster.Known(pod.Namespace, pod.Name, pod.UID); known {
		if now == nil || now.Ended {
			return
		}
		pod = now
	}
	for _, sandbox := range k.index.changed(pod.UID, pod.Annotations[conf.NetworksAnnotation]) {
		err := k.changeOne(ctx, sandbox, pod)
		k.mu.Lock()
		if err == nil {
			delete(k.failed, pod.UID)
		} else {
			k.failed[pod.UID] = pod.Annotations[conf.NetworksAnnotation]
		}
		k.mu.Unlock()
		if err == nil || ctx.Err() != nil {
			continue
		}
		k.Log.Warn("change of networks", "pod", pod.String(), "sandbox", sandbox, "try", try, "why", err.Error())
		k.cluster.Event(pod, true, reasonFailed, "change of networks: "+err.Error())
		if try < retries {
			wait := retryAfter << (try - 1)
			time.AfterFunc(wait, func() { k.change(ctx, pod, try+1) })
		}
	}
}

func (k *keeper) changeOne(ctx context.Context, sandbox string, pod *conf.Pod) error {
	rec, err := k.journal.Read(sandbox)
	if err != nil || rec == nil {
		return err
	}
	e, err := k.engineFor(rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(delegates.Skipping(ctx, lockedWait), keepTimeout)
	defer cancel()
	if err := k.publisher.settled(ctx, sandbox); err != nil {
		return err
	}
	t := k.history.begin("UPDATE", sandbox, pod.String())
	did, err := e.Update(conf.WithSteps(ctx, t.step), sandbox, pod)
	t.end(err)
	k.metrics.request(t, err)
	if err != nil {
		if rec, errRead := k.journal.Read(sandbox); errRead == nil && rec != nil {
			k.index.take(rec) // it may have less than it was given
		}
		return err
	}
	k.index.attached(e, sandbox)
	if did != nil {
		k.cluster.Event(pod, false, reasonChanged, did.String())
	}
	return nil
}
