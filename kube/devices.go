package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/plexus-cni/plexus/conf"
)

// Devices reads the devices of a pod: those of device plugins from the kubelet, and those of
// resource claims from the API server.
type Devices struct {
	Dir  string // the kubelet's root folder
	Live *Live  // nil without an API server
}

// DefaultKubeletDir is the kubelet's root folder unless it is told otherwise.
const DefaultKubeletDir = "/var/lib/kubelet"

// Bounds of a request to the kubelet.
const (
	devicesTimeout = 5 * time.Second
	maxCheckpoint  = 32 << 20 // bytes
	maxAnswer      = 16 << 20 // bytes, as the kubelet's own clients have it
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
		given = map[string][]string{}
	case err == nil && errors.Is(errClaims, errNoResourceAPI) && len(given) > 0:
		d.Live.Cluster.Log.Warn("devices of resource claims are not known, those of device plugins are", "pod", pod.String(), "why", errClaims.Error())
	case err != nil || errClaims != nil:
		return nil, fmt.Errorf("devices of pod %s: %w", pod, errors.Join(err, errClaims))
	}
	for resource, devices := range claimed {
		given[resource] = appendNew(given[resource], devices...)
	}
	return given, nil
}

// pluginDevices are the devices of device plugins, in the order of the containers, by the
// podresources API (v1) or else by the checkpoint of the device manager.
func (d *Devices) pluginDevices(ctx context.Context, pod *conf.Pod) (map[string][]string, error) {
	given, err := listDevices(ctx, filepath.Join(d.Dir, "pod-resources/kubelet.sock"), pod)
	if err == nil {
		return given, nil
	}
	given, errFile := readCheckpoint(filepath.Join(d.Dir, "device-plugins/kubelet_internal_checkpoint"), pod)
	if errFile != nil {
		return nil, errors.Join(err, errFile)
	}
	return given, nil
}

// listDevices requests the pod, or all pods where the kubelet has no Get.
func listDevices(ctx context.Context, socket string, pod *conf.Pod) (given map[string][]string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("the kubelet's podresources API at %s: %w", socket, err)
		}
	}()
	if _, err := os.Stat(socket); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, devicesTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	client := podresources.NewPodResourcesListerClient(conn)
	one, err := client.Get(ctx, &podresources.GetPodResourcesRequest{PodName: pod.Name, PodNamespace: pod.Namespace})
	if err == nil {
		return devicesOf(one.GetPodResources()), nil
	}
	if code := grpcstatus.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		return nil, err
	}
	all, err := client.List(ctx, &podresources.ListPodResourcesRequest{}) // Get is a feature that may be off
	if err != nil {
		return nil, err
	}
	for _, p := range all.GetPodResources() {
		if p.GetName() == pod.Name && p.GetNamespace() == pod.Namespace {
			return devicesOf(p), nil
		}
	}
	return map[string][]string{}, nil
}

func devicesOf(p *podresources.PodResources) map[string][]string {
	given := map[string][]string{}
	for _, c := range p.GetContainers() {
		for _, d := range c.GetDevices() {
			given[d.GetResourceName()] = appendNew(given[d.GetResourceName()], d.GetDeviceIds()...)
		}
	}
	return given
}

func appendNew(list []string, more ...string) []string {
	for _, m := range more {
		if !slices.Contains(list, m) {
			list = append(list, m)
		}
	}
	return list
}

// checkpoint has the fields of the device manager's checkpoint that plexus reads
// (pkg/kubelet/cm/devicemanager/checkpoint).
type checkpoint struct {
	Data struct {
		PodDeviceEntries []struct {
			PodUID       string
			ResourceName string
			DeviceIDs    deviceIDs
		}
	}
}

// deviceIDs are a list, or lists by NUMA node.
type deviceIDs []string

// UnmarshalJSON reads both forms.
func (d *deviceIDs) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, (*[]string)(d)) == nil {
		return nil
	}
	var byNode map[string][]string
	if err := json.Unmarshal(data, &byNode); err != nil {
		return err
	}
	*d = nil
	for _, node := range slices.Sorted(maps.Keys(byNode)) {
		*d = append(*d, byNode[node]...)
	}
	return nil
}

func readCheckpoint(file string, pod *conf.Pod) (map[string][]string, error) {
	if pod.UID == "" {
		return nil, errors.New("its UID is not known, and the kubelet's checkpoint knows pods by nothing else")
	}
	data, err := readRegular(file, maxCheckpoint)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: device plugins need one of them", err)
	}
	if err != nil {
		return nil, err
	}
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	given := map[string][]string{}
	for _, e := range c.Data.PodDeviceEntries {
		if e.PodUID == pod.UID {
			given[e.ResourceName] = appendNew(given[e.ResourceName], e.DeviceIDs...)
		}
	}
	return given, nil
}
