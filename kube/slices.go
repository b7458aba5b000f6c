package kube

import (
	"context"
	"fmt"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

const byPool = "pool" // index of the watched ResourceSlices

func poolKey(driver, pool string) string { return driver + "/" + pool }

// watchSlices makes the informer of this node's ResourceSlices. Those that are of no single
// node may be many in a large cluster: they are requested when a pod has a device of them.
func (c *Cluster) watchSlices() cache.SharedIndexInformer {
	ofNode := fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorNodeName, c.Node)
	return cache.NewSharedIndexInformer(cache.NewListWatchFromClient(c.resource, "resourceslices", "", ofNode), &resourcev1.ResourceSlice{}, 0,
		cache.Indexers{byPool: func(o any) ([]string, error) {
			s := o.(*resourcev1.ResourceSlice)
			return []string{poolKey(s.Spec.Driver, s.Spec.Pool.Name)}, nil
		}})
}

// sliceWatchFailed says nothing of an API server without resource.k8s.io/v1, which is older than
// Kubernetes 1.34: ADD of a pod with a claim says it.
func (c *Cluster) sliceWatchFailed(ctx context.Context, r *cache.Reflector, err error) {
	if !apierrors.IsNotFound(err) {
		c.watchFailed(ctx, r, err)
	}
}

// watchedPool are the watched slices of a pool of this node.
func (c *Cluster) watchedPool(node, driver, pool string) (list []*resourcev1.ResourceSlice) {
	if c.slices == nil || node != c.Node {
		return nil
	}
	objects, err := c.slices.GetIndexer().ByIndex(byPool, poolKey(driver, pool))
	if err != nil {
		return nil
	}
	for _, o := range objects {
		list = append(list, o.(*resourcev1.ResourceSlice))
	}
	return list
}

// slimSlice keeps the devices' names and the attributes that plexus reads.
func slimSlice(s *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	kept := &resourcev1.ResourceSlice{ObjectMeta: slimMeta(&s.ObjectMeta)}
	kept.Spec = resourcev1.ResourceSliceSpec{Driver: s.Spec.Driver, Pool: s.Spec.Pool, NodeName: s.Spec.NodeName}
	for _, d := range s.Spec.Devices {
		device := resourcev1.Device{Name: d.Name}
		for _, name := range []resourcev1.QualifiedName{attributeDomain + "/" + attributeResource, attributeDomain + "/" + attributeDevice, attributeResource, attributeDevice} {
			if a, ok := d.Attributes[name]; ok {
				if device.Attributes == nil {
					device.Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{}
				}
				device.Attributes[name] = a
			}
		}
		kept.Spec.Devices = append(kept.Spec.Devices, device)
	}
	return kept
}

// listSlices lists the driver's ResourceSlices that are of this node; of "" are those
// that are of no single node. All API servers that have resource.k8s.io/v1 select
// by these two fields (k8s.io/kubernetes/pkg/apis/resource/v1/conversion.go).
func (c *Cluster) listSlices(ctx context.Context, driver, node string) ([]*resourcev1.ResourceSlice, error) {
	selector := fields.AndSelectors(fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver),
		fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorNodeName, node)).String()
	list := &resourcev1.ResourceSliceList{}
	err := c.request(ctx, "list resourceslices (resource.k8s.io)", func(ctx context.Context) error {
		return c.resource.Get().Resource("resourceslices").Param("fieldSelector", selector).Do(ctx).Into(list)
	})
	if err != nil {
		return nil, fmt.Errorf("list ResourceSlices with %s: %w", selector, err)
	}
	items := make([]*resourcev1.ResourceSlice, len(list.Items))
	for i := range list.Items {
		items[i] = &list.Items[i]
	}
	return items, nil
}

// inventory finds allocated devices in the ResourceSlices of their drivers: in those that are
// watched, else in those that it requests.
type inventory struct {
	cluster *Cluster
	node    string
	lists   map[[2]string][]*resourcev1.ResourceSlice // by driver and node
}

// slices lists those of a node once, see Cluster.listSlices.
func (v *inventory) slices(ctx context.Context, driver, node string) (list []*resourcev1.ResourceSlice, err error) {
	key := [2]string{driver, node}
	list, ok := v.lists[key]
	if !ok {
		if list, err = v.cluster.listSlices(ctx, driver, node); err == nil {
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

// find requests the node's slices first: the others may be many.
func (v *inventory) find(ctx context.Context, r *resourcev1.DeviceRequestAllocationResult) (*resourcev1.Device, error) {
	if d, err := findInPool(v.cluster.watchedPool(v.node, r.Driver, r.Pool), r); err == nil {
		return d, nil
	}
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
func findInPool(list []*resourcev1.ResourceSlice, r *resourcev1.DeviceRequestAllocationResult) (*resourcev1.Device, error) {
	newest, count, want := int64(-1), int64(0), int64(0)
	var device *resourcev1.Device
	for _, slice := range list {
		s := &slice.Spec
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
