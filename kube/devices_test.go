package kube

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/plexus-cni/plexus/conf"
)

// kubelet serves the podresources API, on a socket as the kubelet does.
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	pods  []*podresources.PodResources
	noGet bool
}

func (k *kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	return &podresources.ListPodResourcesResponse{PodResources: k.pods}, nil
}

func (k *kubelet) Get(_ context.Context, r *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	if k.noGet {
		return nil, grpcstatus.Error(codes.Unknown, "PodResources API Get method disabled")
	}
	for _, p := range k.pods {
		if p.Name == r.PodName && p.Namespace == r.PodNamespace {
			return &podresources.GetPodResourcesResponse{PodResources: p}, nil
		}
	}
	return nil, grpcstatus.Error(codes.NotFound, "no such pod")
}

func (k *kubelet) serve(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "pod-resources"), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "pod-resources/kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(s, k)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
}

func pod(name string, containers ...[]*podresources.ContainerDevices) *podresources.PodResources {
	p := &podresources.PodResources{Name: name, Namespace: "shop"}
	for _, c := range containers {
		p.Containers = append(p.Containers, &podresources.ContainerResources{Devices: c})
	}
	return p
}

func devices(resource string, ids ...string) *podresources.ContainerDevices {
	return &podresources.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

// The devices of all containers count, in order, with Get and without.
func TestDevicesOfPod(t *testing.T) {
	for _, noGet := range []bool{false, true} {
		dir := t.TempDir()
		k := &kubelet{noGet: noGet, pods: []*podresources.PodResources{
			pod("other", []*podresources.ContainerDevices{devices("x.com/vf", "0000:01:11.0")}),
			pod("app",
				[]*podresources.ContainerDevices{devices("x.com/vf", "0000:01:10.2"), devices("x.com/gpu", "g0")},
				[]*podresources.ContainerDevices{devices("x.com/vf", "0000:01:10.0"), devices("x.com/vf", "0000:01:10.2")}),
		}}
		k.serve(t, dir)
		d := &Devices{Dir: dir}
		got, err := d.OfPod(t.Context(), &conf.Pod{Namespace: "shop", Name: "app"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string][]string{"x.com/vf": {"0000:01:10.2", "0000:01:10.0"}, "x.com/gpu": {"g0"}}, got); diff != "" {
			t.Error(diff)
		}
		if got, err := d.OfPod(t.Context(), &conf.Pod{Namespace: "shop", Name: "none"}); err != nil || len(got) != 0 {
			t.Errorf("a pod without devices: %v, %v", got, err)
		}
	}
}

// Without the API the checkpoint is read, in both its forms.
func TestDevicesFromCheckpoint(t *testing.T) {
	dir := t.TempDir()
	app := &conf.Pod{Namespace: "shop", Name: "app", UID: "u1"}
	d := &Devices{Dir: dir}
	if _, err := d.OfPod(t.Context(), app); err == nil || !strings.Contains(err.Error(), "podresources") || !strings.Contains(err.Error(), "kubelet_internal_checkpoint") {
		t.Errorf("with neither: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "device-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "device-plugins/kubelet_internal_checkpoint"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		text string
		want map[string][]string
	}{
		"by NUMA node": {`{"Data":{"PodDeviceEntries":[
			{"PodUID":"u1","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"1":["d2"],"0":["d1"]},"AllocResp":""},
			{"PodUID":"u2","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"0":["d9"]}},
			{"PodUID":"u1","ContainerName":"b","ResourceName":"x.com/gpu","DeviceIDs":{"-1":["g"]}}],"RegisteredDevices":{}},"Checksum":1}`,
			map[string][]string{"x.com/vf": {"d1", "d2"}, "x.com/gpu": {"g"}}},
		"as a list": {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"x.com/vf","DeviceIDs":["d1"]}]}}`, map[string][]string{"x.com/vf": {"d1"}}},
		"broken":    {`{"Data":`, nil},
		"numbers":   {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":3}]}}`, nil},
	} {
		write(test.text)
		got, err := d.OfPod(t.Context(), app)
		if test.want == nil {
			if err == nil || !strings.Contains(err.Error(), "kubelet_internal_checkpoint") {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			continue
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v: %s", name, err, diff)
		}
	}
	if _, err := d.OfPod(t.Context(), &conf.Pod{Namespace: "shop", Name: "app"}); err == nil || !strings.Contains(err.Error(), "UID") {
		t.Errorf("without a UID: %v", err)
	}
}
