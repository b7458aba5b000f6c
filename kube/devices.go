package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/kube/checkpoint"
)

// Devices reads the devices of a pod: those of device plugins from the kubelet, and those of
// resource claims from the API server.
type Devices struct {
	Dir  string // the kubelet's root folder
	Live *Live  // nil without an API server
}

const (
	maxCheckpoint = 32 << 20 // bytes
	maxDevices    = 1 << 16  // of a pod
)

// OfPod are the pod's devices by resource: those of device plugins in the order of
// its containers, then those of its resource claims. Where the kubelet does not
// answer, devices of claims are enough.
func (d *Devices) OfPod(ctx context.Context, pod *conf.Pod) (map[string][]string, error) {
	given, err := d.pluginDevices(ctx, pod)
	if d.Live == nil {
		if err != nil {
			return nil, fmt.Errorf("devices of pod %s: %w", pod, err)
		}
		return given, nil
	}
	claimed, errClaims := d.Live.claimedDevices(ctx, pod)
	switch {
	case err != nil && errClaims == nil && len(claimed) > 0:
		d.Live.Cluster.Log.Warn("devices of device plugins are not known, those of resource claims are", "pod", pod.String(), "why", err.Error())
		given = nil
	case err == nil && errors.Is(errClaims, errNoResourceAPI) && len(given) > 0:
		d.Live.Cluster.Log.Warn("devices of resource claims are not known, those of device plugins are", "pod", pod.String(), "why", errClaims.Error())
	case err != nil || errClaims != nil:
		return nil, fmt.Errorf("devices of pod %s: %w", pod, errors.Join(err, errClaims))
	}
	all := &deviceSet{}
	for _, some := range []map[string][]string{given, claimed} {
		for resource, devices := range some {
			if err := all.add(resource, devices...); err != nil {
				return nil, fmt.Errorf("devices of pod %s: %w", pod, err)
			}
		}
	}
	return all.byResource(), nil
}

// pluginDevices are the devices of device plugins, in the order of the containers, by the
// podresources API (v1) or else by the checkpoint of the device manager.
func (d *Devices) pluginDevices(ctx context.Context, pod *conf.Pod) (map[string][]string, error) {
	given, err := listDevices(ctx, filepath.Join(d.Dir, podResourcesSocket), pod)
	if err == nil {
		return given, nil
	}
	given, errFile := readCheckpoint(filepath.Join(d.Dir, "device-plugins/kubelet_internal_checkpoint"), pod)
	if errFile != nil {
		return nil, errors.Join(err, errFile)
	}
	return given, nil
}

// readCheckpoint reads the kubelet's checkpoint. Its entries are in no order.
func readCheckpoint(path string, pod *conf.Pod) (map[string][]string, error) {
	if pod.UID == "" {
		return nil, errors.New("its UID is not known, and the kubelet's checkpoint knows pods by nothing else")
	}
	data, err := file.ReadRegular(path, maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: device plugins need one of them", err)
	}
	if err != nil {
		return nil, err
	}
	entries, err := checkpoint.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	entries = slices.DeleteFunc(entries, func(e checkpoint.Entry) bool { return e.PodUID != pod.UID })
	slices.SortStableFunc(entries, func(a, b checkpoint.Entry) int {
		return cmp.Compare(place(pod, a.Container), place(pod, b.Container))
	})
	given := &deviceSet{}
	for _, e := range entries {
		if err := given.add(e.Resource, e.DeviceIDs...); err != nil {
			return nil, err
		}
	}
	return given.byResource(), nil
}

// place is the place of a container in its pod. An unknown one is behind the others.
func place(pod *conf.Pod, container string) int {
	if at := slices.Index(pod.Containers, container); at >= 0 {
		return at
	}
	return len(pod.Containers)
}

// deviceSet has the devices of a pod by resource, each once, in the order of their arrival.
type deviceSet struct {
	lists map[string][]string
	has   map[[2]string]bool // by resource and device
}

// add adds devices. It fails at more devices than a pod may have.
func (s *deviceSet) add(resource string, devices ...string) error {
	if s.lists == nil {
		s.lists, s.has = map[string][]string{}, map[[2]string]bool{}
	}
	for _, device := range devices {
		key := [2]string{resource, device}
		if s.has[key] {
			continue
		}
		if len(s.has) == maxDevices {
			return fmt.Errorf("the pod has more than %d devices", maxDevices)
		}
		s.has[key] = true
		s.lists[resource] = append(s.lists[resource], device)
	}
	return nil
}

// byResource are the lists, none of them empty.
func (s *deviceSet) byResource() map[string][]string {
	if s.lists == nil {
		return map[string][]string{}
	}
	return s.lists
}
