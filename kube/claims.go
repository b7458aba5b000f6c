package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plexus-cni/plexus/conf"
)

// Attributes in which a DRA driver publishes the resource name and the device ID that a device
// plugin would use (Multus, docs/how-to-use.md,
// "DRA"). A driver whose own name is the domain may leave the domain out
// (k8s.io/api/resource/v1, QualifiedName).
const (
	attributeDomain   = "k8s.cni.cncf.io"
	attributeResource = "resourceName"
	attributeDevice   = "deviceID"
)

// podClaim is an entry of a pod's spec.resourceClaims with the ResourceClaim that
// stands for it.
type podClaim struct {
	entry, name string
}

// claimsOf are the pod's claims, each ResourceClaim once: those of its spec, then the one that
// the scheduler has made for its extended resources (KEP-5004). An entry without a
// ResourceClaim is left out (k8s.io/api/core/v1, PodResourceClaimStatus).
func claimsOf(p *corev1.Pod) ([]podClaim, error) {
	var claims []podClaim
	seen := map[string]bool{}
	for _, c := range p.Spec.ResourceClaims {
		name := c.ResourceClaimName
		if name == nil {
			made := false
			for _, s := range p.Status.ResourceClaimStatuses {
				if s.Name == c.Name {
					made, name = true, s.ResourceClaimName
				}
			}
			if !made {
				return nil, fmt.Errorf("claim %q: no ResourceClaim has been made for it: the pod's status.resourceClaimStatuses does not have it", c.Name)
			}
		}
		if name != nil && !seen[*name] {
			seen[*name] = true
			claims = append(claims, podClaim{c.Name, *name})
		}
	}
	if extended := p.Status.ExtendedResourceClaimStatus; extended != nil && extended.ResourceClaimName != "" && !seen[extended.ResourceClaimName] {
		claims = append(claims, podClaim{"extended resources", extended.ResourceClaimName})
	}
	return claims, nil
}

// claimedDevices are the devices of the pod's resource claims by resource: those that have
// both attributes, in the order of the claims and of their allocation's results,
// whatever access they are for. After Follow they are in memory, see claimWatch; only what is
// missing there is requested. The kubelet has reserved the claims for the pod before it
// requests the pod's sandbox (k8s.io/kubernetes/pkg/kubelet/cm/dra/manager.go,
// prepareResources).
func (l *Live) claimedDevices(ctx context.Context, pod *conf.Pod) (map[string][]string, error) {
	p := l.pod
	if !l.isFor(pod) {
		var err error
		if p, err = l.Cluster.pod(ctx, pod.Namespace, pod.Name, pod.UID); err != nil {
			return nil, err
		}
	}
	claims, err := claimsOf(p)
	if err != nil {
		return nil, err
	}
	given := &deviceSet{}
	inv := &inventory{cluster: l.Cluster, node: p.Spec.NodeName, lists: map[[2]string][]*resourcev1.ResourceSlice{}}
	for _, claim := range claims {
		results, err := l.Cluster.allocation(ctx, p, claim.name)
		if err != nil {
			return nil, fmt.Errorf("claim %q: ResourceClaim %s: %w", claim.entry, claim.name, err)
		}
		for i := range results {
			r := &results[i]
			resource, device, err := inv.attributes(ctx, r)
			if err != nil {
				return nil, fmt.Errorf("claim %q: ResourceClaim %s: request %s: device %s: %w", claim.entry, claim.name, r.Request, deviceName(r), err)
			}
			switch {
			case resource != "" && device != "":
				if err := given.add(resource, device); err != nil {
					return nil, err
				}
			case resource != "" || device != "":
				l.Cluster.Log.Warn("a device of a resource claim is ignored", "pod", pod.String(), "claim", claim.name, "device", deviceName(r),
					"why", "it has one of the attributes "+attributeDomain+"/"+attributeResource+", "+attributeDevice+" and not the other")
			}
		}
	}
	return given.byResource(), nil
}

// deviceName is the name of an allocated device, as Kubernetes writes it.
func deviceName(r *resourcev1.DeviceRequestAllocationResult) string {
	return r.Driver + "/" + r.Pool + "/" + r.Device
}

// errNoResourceAPI is the error of an API server that does not serve resource claims in the
// version that plexus reads.
var errNoResourceAPI = errors.New("has no resource.k8s.io/v1, which Kubernetes has since 1.34")

// allocation are the devices that are allocated to a claim of a pod.
func (c *Cluster) allocation(ctx context.Context, p *corev1.Pod, name string) ([]resourcev1.DeviceRequestAllocationResult, error) {
	if results, ok := c.claims.of(p.UID, name); ok {
		return results, nil
	}
	claim, err := c.claim(ctx, p.Namespace, name)
	switch {
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse): // the API server does not serve this path
		return nil, fmt.Errorf("the API server %s %w", c.Server, errNoResourceAPI)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("it does not exist in namespace %s", p.Namespace)
	case err != nil:
		return nil, err
	case claim.Status.Allocation == nil:
		return nil, fmt.Errorf("it has no allocation in its status: the scheduler has not given it devices")
	}
	return claim.Status.Allocation.Devices.Results, nil
}

func (c *Cluster) claim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	claim := &resourcev1.ResourceClaim{}
	err := c.request(ctx, "get resourceclaims (resource.k8s.io)", func(ctx context.Context) error {
		return c.resource.Get().Namespace(namespace).Resource("resourceclaims").Name(name).Do(ctx).Into(claim)
	})
	return claim, err
}
