package kube

import (
	"context"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/plexus-cni/plexus/conf"
)

// claimWatch has the devices of the claims of pods that are about to start on this node, so
// that ADD requests none. A claim cannot be watched by node: it is read when the watch brings
// a pod that has it, and kept while it is reserved for that pod, for as long as it cannot
// change (k8s.io/api/resource/v1, ResourceClaimStatus.Allocation).
type claimWatch struct {
	mu      sync.Mutex
	results map[types.UID]map[string][]resourcev1.DeviceRequestAllocationResult // by pod and claim
}

// of are the devices of a pod's claim; false when they are not known.
func (w *claimWatch) of(pod types.UID, claim string) ([]resourcev1.DeviceRequestAllocationResult, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	results, ok := w.results[pod][claim]
	return results, ok
}

func (w *claimWatch) keep(pod types.UID, claim string, results []resourcev1.DeviceRequestAllocationResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.results == nil {
		w.results = map[types.UID]map[string][]resourcev1.DeviceRequestAllocationResult{}
	}
	if w.results[pod] == nil {
		w.results[pod] = map[string][]resourcev1.DeviceRequestAllocationResult{}
	}
	w.results[pod][claim] = results
}

func (w *claimWatch) forget(pod types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.results, pod)
}

// learnClaims reads the claims of a pod that has networks and has not started yet. What it
// cannot read, ADD requests, and tells why it cannot.
func (c *Cluster) learnClaims(ctx context.Context, p *corev1.Pod) {
	if p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodPending || p.Annotations[conf.NetworksAnnotation] == "" {
		return
	}
	claims, err := claimsOf(p)
	if err != nil {
		return
	}
	for _, claim := range claims {
		if _, known := c.claims.of(p.UID, claim.name); known {
			continue
		}
		object, err := c.claim(ctx, p.Namespace, claim.name)
		if err != nil || object.Status.Allocation == nil {
			continue
		}
		if slices.ContainsFunc(object.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == p.UID }) {
			c.claims.keep(p.UID, claim.name, object.Status.Allocation.Devices.Results)
		}
	}
}
