package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// kubeletsOwn is written by Kubernetes 1.36.3, see the tests of kube/checkpoint.
const kubeletsOwn = `{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ContainerName":"b","ResourceName":"x.com/vf","DeviceIDs":{"-1":["b-"],"0":["b0"],"1":["b1"],"10":["b10"],"2":["b2"]},"AllocResp":"CgVoZWxsbw=="},{"PodUID":"u2","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"0":["d9"]},"AllocResp":null},{"PodUID":"u1","ContainerName":"a","ResourceName":"x.com/vf","DeviceIDs":{"0":["a1","b0","a0"]},"AllocResp":""},{"PodUID":"u1","ContainerName":"b","ResourceName":"x.com/gpu","DeviceIDs":{"-1":["g"]},"AllocResp":null}],"RegisteredDevices":{"x.com/gpu":["g"],"x.com/none":null,"x.com/vf":["a0","a1","b0"]}},"Checksum":337074366}`

// Devices come in the order of the pod's containers, whatever the order of the kubelet's answer
// is; those of a container that the pod does not name come last.
func TestDevicesInTheOrderOfContainers(t *testing.T) {
	dir := t.TempDir()
	answer := pod("app")
	for _, name := range []string{"gone", "init", "second", "first", "sidecar"} {
		answer.Containers = append(answer.Containers, &podresources.ContainerResources{Name: name, Devices: []*podresources.ContainerDevices{devices("x.com/vf", name+"1", name+"0")}})
	}
	(&kubelet{pods: []*podresources.PodResources{answer}}).serve(t, dir)
	always := corev1.ContainerRestartPolicyAlways
	slimmed, err := slim(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "app", UID: "u1"},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init"}, {Name: "sidecar", RestartPolicy: &always}},
			Containers:     []corev1.Container{{Name: "first"}, {Name: "second"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := (&Devices{Dir: dir}).OfPod(t.Context(), podOf(slimmed.(*corev1.Pod)))
	want := map[string][]string{"x.com/vf": {"sidecar1", "sidecar0", "first1", "first0", "second1", "second0", "init1", "init0", "gone1", "gone0"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// Without the API the checkpoint is read, in both its forms.
func TestDevicesFromCheckpoint(t *testing.T) {
	dir := t.TempDir()
	app := &conf.Pod{Namespace: "shop", Name: "app", UID: "u1", Containers: []string{"a", "b"}}
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
		"by NUMA node":   {kubeletsOwn, map[string][]string{"x.com/vf": {"a1", "b0", "a0", "b-", "b1", "b2", "b10"}, "x.com/gpu": {"g"}}},
		"as a list":      {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"x.com/vf","DeviceIDs":["d1"]}]}}`, map[string][]string{"x.com/vf": {"d1"}}},
		"broken":         {`{"Data":`, nil},
		"null":           {`null`, nil},
		"another format": {`{"policyName":"none","defaultCpuSet":"","checksum":1}`, nil},
		"checksum":       {strings.Replace(kubeletsOwn, "d9", "d8", 1), nil},
		"numbers":        {`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":3}]}}`, nil},
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

// The checkpoint is read when it is a regular file. A FIFO that nobody writes to does not block.
func TestCheckpointThatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "device-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "device-plugins/kubelet_internal_checkpoint"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := (&Devices{Dir: dir}).OfPod(t.Context(), &conf.Pod{Namespace: "shop", Name: "app", UID: "u1"})
	if err == nil || !strings.Contains(err.Error(), "kubelet_internal_checkpoint: it is no regular file") {
		t.Errorf("%v", err)
	}
}

// A pod has a bounded number of devices, which are read in linear time: each is looked up once.
// (In quadratic time the largest answer takes longer than a test may.)
func TestManyDevices(t *testing.T) {
	ids := make([]string, maxDevices+1)
	for i := range ids {
		ids[i] = fmt.Sprintf("0000:%04x:%x", i>>4, i)
	}
	app := &conf.Pod{Namespace: "shop", Name: "app", UID: "u1"}
	read := func(ids []string) (map[string][]string, error) {
		dir := t.TempDir()
		twice := []*podresources.ContainerDevices{devices("x.com/vf", ids...), devices("x.com/vf", ids...)}
		(&kubelet{pods: []*podresources.PodResources{pod("app", twice, twice)}}).serve(t, dir)
		return (&Devices{Dir: dir}).OfPod(t.Context(), app)
	}
	got, err := read(ids[:maxDevices])
	if err != nil || !slices.Equal(got["x.com/vf"], ids[:maxDevices]) {
		t.Errorf("%d devices, %v", len(got["x.com/vf"]), err)
	}
	if _, err = read(ids); err == nil || !strings.Contains(err.Error(), "more than 65536 devices") {
		t.Errorf("one more: %v", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "device-plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"Data": map[string]any{"PodDeviceEntries": []any{map[string]any{"PodUID": "u1", "ResourceName": "x.com/vf", "DeviceIDs": map[string]any{"0": ids[:maxDevices]}}}}})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "device-plugins/kubelet_internal_checkpoint"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err = (&Devices{Dir: dir}).OfPod(t.Context(), app); err != nil || !slices.Equal(got["x.com/vf"], ids[:maxDevices]) {
		t.Errorf("checkpoint: %d devices, %v", len(got["x.com/vf"]), err)
	}
}
