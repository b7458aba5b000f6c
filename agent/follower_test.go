package agent

import (
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// A change that failed is not tried again with each state of its pod, but with the next
// reconciliation, and as soon as the annotation is another one.
func TestAChangeThatFailed(t *testing.T) {
	a, _ := unserved(t)
	rec := record("aaaa", "u1", "/none")
	a.store.index(rec)
	bad, networks := "bad", map[string]string{conf.NetworksAnnotation: "bad"}
	pod := &conf.Pod{Namespace: "ns", Name: "pod", UID: "u1", Annotations: networks}
	queued := func(again bool) bool {
		a.follower.enqueue(pod, again)
		select {
		case <-a.follower.queue:
			return true
		default:
			return false
		}
	}
	if !queued(false) {
		t.Error("a new annotation is not followed")
	}
	a.store.update("aaaa", func(k *knownSandbox) { k.failed = &bad })
	if queued(false) || !queued(true) {
		t.Error("the one that failed is followed again by a state of the pod, or not by a reconciliation")
	}
	networks[conf.NetworksAnnotation] = "other"
	if !queued(false) {
		t.Error("another one is not followed")
	}
	networks[conf.NetworksAnnotation] = ""
	if queued(true) {
		t.Error("the one that the pod has is followed")
	}
	networks[conf.NetworksAnnotation] = "bad"
	a.store.index(rec)
	if !queued(false) {
		t.Error("the failure is not forgotten with the next record")
	}
	if pod.Ended = true; queued(true) {
		t.Error("a pod that has ended is followed")
	}
}
