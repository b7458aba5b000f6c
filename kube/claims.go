package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

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
// whatever access they are for. A pod without claims costs no request; one with
// claims costs one for each, one for each of their drivers, and another for a
// driver of pools that are of no single node. The kubelet has
// reserved the claims for the pod before it requests the pod's sandbox
// (k8s.io/kubernetes/pkg/kubelet/cm/dra/manager.go, prepareResources).
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
	inv := &inventory{cluster: l.Cluster, node: p.Spec.NodeName, lists: map[[2]string][]resourcev1.ResourceSlice{}}
	for _, claim := range claims {
		results, err := l.Cluster.allocation(ctx, p.Namespace, claim.name)
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

// allocation are the devices that are allocated to a claim.
func (c *Cluster) allocation(ctx context.Context, namespace, name string) ([]resourcev1.DeviceRequestAllocationResult, error) {
	claim := &resourcev1.ResourceClaim{}
	err := c.request(ctx, "get resourceclaims (resource.k8s.io)", func(ctx context.Context) error {
		return c.resource.Get().Namespace(namespace).Resource("resourceclaims").Name(name).Do(ctx).Into(claim)
	})
	switch {
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse): // the API server does not serve this path
		return nil, fmt.Errorf("the API server %s %w", c.Server, errNoResourceAPI)
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("it does not exist in namespace %s", namespace)
	case err != nil:
		return nil, err
	case claim.Status.Allocation == nil:
		return nil, fmt.Errorf("it has no allocation in its status: the scheduler has not given it devices")
	}
	return claim.Status.Allocation.Devices.Results, nil
}

// slices lists the driver's ResourceSlices that are of this node; of "" are those
// that are of no single node. All API servers that have resource.k8s.io/v1 select
// by these two fields (k8s.io/kubernetes/pkg/apis/resource/v1/conversion.go).
func (c *Cluster) slices(ctx context.Context, driver, node string) ([]resourcev1.ResourceSlice, error) {
	selector := fields.AndSelectors(fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver),
		fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorNodeName, node)).String()
	list := &resourcev1.ResourceSliceList{}
	err := c.request(ctx, "list resourceslices (resource.k8s.io)", func(ctx context.Context) error {
		return c.resource.Get().Resource("resourceslices").Param("fieldSelector", selector).Do(ctx).Into(list)
	})
	if err != nil {
		return nil, fmt.Errorf("list ResourceSlices with %s: %w", selector, err)
	}
	return list.Items, nil
}

// inventory has the ResourceSlices of drivers; they are requested when they are needed.
type inventory struct {
	cluster *Cluster
	node    string
	lists   map[[2]string][]resourcev1.ResourceSlice // by driver and node
}

// slices lists those of a node once, see Cluster.slices.
func (v *inventory) slices(ctx context.Context, driver, node string) (list []resourcev1.ResourceSlice, err error) {
	key := [2]string{driver, node}
	list, ok := v.lists[key]
	if !ok {
		if list, err = v.cluster.slices(ctx, driver, node); err == nil {
			v.lists[key] = list
		}
	}
	return list, err
}

// attributes are those of an allocated device, "" where it has none.
func (v *inventory) attributes(ctx context.Context, r *resourcev1.DeviceRequestAllocationResult) (resource, device string, err error) {
	d, err := v.find(ctx, r)
	if err != nil {
		return "", "", err
	}
	if resource, err = attribute(d, r.Driver, attributeResource); err != nil {
		return "", "", err
	}
	device, err = attribute(d, r.Driver, attributeDevice)
	return resource, device, err
}

// find lists the node's slices first: the others may be many.
func (v *inventory) find(ctx context.Context, r *resourcev1.DeviceRequestAllocationResult) (*resourcev1.Device, error) {
	own, err := v.slices(ctx, r.Driver, v.node)
	if err != nil {
		return nil, err
	}
	d, err := findInPool(own, r)
	if err == nil || v.node == "" {
		return d, err
	}
	others, err := v.slices(ctx, r.Driver, "")
	if err != nil {
		return nil, err
	}
	return findInPool(slices.Concat(own, others), r)
}

// findInPool finds an allocated device among its driver's slices, in the newest
// generation of its pool (k8s.io/api/resource/v1, ResourcePool.Generation).
func findInPool(list []resourcev1.ResourceSlice, r *resourcev1.DeviceRequestAllocationResult) (*resourcev1.Device, error) {
	newest, count, want := int64(-1), int64(0), int64(0)
	var device *resourcev1.Device
	for i := range list {
		s := &list[i].Spec
		if s.Driver != r.Driver || s.Pool.Name != r.Pool || s.Pool.Generation < newest {
			continue
		}
		if s.Pool.Generation > newest {
			newest, count, want, device = s.Pool.Generation, 0, s.Pool.ResourceSliceCount, nil
		}
		count++
		if at := slices.IndexFunc(s.Devices, func(d resourcev1.Device) bool { return d.Name == r.Device }); at >= 0 && device == nil {
			device = &s.Devices[at]
		}
	}
	if device != nil {
		return device, nil
	}
	if count == 0 {
		return nil, fmt.Errorf("no ResourceSlice has its pool: does the driver run?")
	}
	if count < want {
		return nil, fmt.Errorf("it is in none of the pool's ResourceSlices of generation %d, of which %d of %d are there", newest, count, want)
	}
	return nil, fmt.Errorf("it is in none of the pool's %d ResourceSlices of generation %d: the driver does not have it any more", count, newest)
}

// attribute is a device's attribute of plexus' domain, "" when it has none.
func attribute(d *resourcev1.Device, driver, name string) (string, error) {
	full := attributeDomain + "/" + name
	a, ok := d.Attributes[resourcev1.QualifiedName(full)]
	if !ok && driver == attributeDomain {
		a, ok = d.Attributes[resourcev1.QualifiedName(name)]
	}
	switch {
	case !ok:
		return "", nil
	case a.StringValue == nil:
		return "", fmt.Errorf("its attribute %s is no string", full)
	}
	return *a.StringValue, nil
}
