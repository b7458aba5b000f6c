package core

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// fakeKubelet answers the podresources API where the kubelet does: pods of
// namespace default, each with one container per list of devices.
type fakeKubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	pods map[string][][]string // "RESOURCE=ID" of each container
}

func (k *fakeKubelet) resources(name string) *podresources.PodResources {
	p := &podresources.PodResources{Name: name, Namespace: "default"}
	for _, devices := range k.pods[name] {
		c := &podresources.ContainerResources{}
		for _, device := range devices {
			resource, id, _ := strings.Cut(device, "=")
			c.Devices = append(c.Devices, &podresources.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
		}
		p.Containers = append(p.Containers, c)
	}
	return p
}

func (k *fakeKubelet) Get(_ context.Context, r *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	return &podresources.GetPodResourcesResponse{PodResources: k.resources(r.PodName)}, nil
}

const kubeletDir = "/var/lib/kubelet"

func (k *fakeKubelet) serve(t *testing.T) {
	t.Helper()
	dir := filepath.Join(kubeletDir, "pod-resources")
	must.Do(t, os.MkdirAll(dir, 0o755))
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	must.Do(t, err)
	s := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(s, k)
	served := make(chan struct{})
	go func() { _ = s.Serve(l); close(served) }()
	t.Cleanup(func() { s.Stop(); <-served; must.Do(t, os.RemoveAll(kubeletDir)) })
}

// deviceSite has NADs vf, other and late of the resource x.com/vf, gpu of
// another and def, of x.com/vf, in kube-system; recorders log what they get.
func deviceSite(t *testing.T) (s *site.Site, log string) {
	s = site.New(t, nil)
	s.InstallRecorder()
	log = filepath.Join(s.Dir, "log")
	s = s.With(map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.1.0", "name": "cluster", "type": site.Recorder}}})
	for name, resource := range map[string]string{"vf": "x.com/vf", "other": "x.com/vf", "gpu": "x.com/gpu", "kube-system/def": "x.com/vf"} {
		namespace, short, ok := strings.Cut(name, "/")
		if !ok {
			namespace, short = "default", name
		}
		config := must.JSON(t, map[string]any{"cniVersion": "1.1.0", "name": short, "type": site.Recorder, "log": log, "capabilities": map[string]bool{"deviceID": true}})
		s.Manifest(short+".yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata:\n  name: %s\n  namespace: %s\n  annotations: {k8s.v1.cni.cncf.io/resourceName: %s}\nspec:\n  config: %q\n", short, namespace, resource, config))
	}
	return s, log
}

// devicePod asks for networks, and for a default network if one is named.
func devicePod(s *site.Site, name, networks, def string) {
	s.T.Helper()
	annotations := map[string]string{"k8s.v1.cni.cncf.io/networks": networks}
	if def != "" {
		annotations["v1.multus-cni.io/default-network"] = def
	}
	s.Manifest(name+".pod.yaml", string(must.JSON(s.T, map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": name, "annotations": annotations}, "spec": map[string]any{},
	})))
}

// A NAD with a resourceName gets the pod's devices of it, by the kubelet's own
// API: each once, in the order of containers and networks, at DEL and CHECK too.
func TestDevices(t *testing.T) {
	s, log := deviceSite(t)
	kubelet := &fakeKubelet{pods: map[string][][]string{
		"others":  {{"x.com/vf=0000:09:10.0"}},
		"devices": {{"x.com/vf=0000:01:10.2", "x.com/gpu=0000:07:00.0"}, {"x.com/vf=0000:01:10.0", "x.com/vf=0000:01:10.1"}},
	}}
	kubelet.serve(t)
	p := site.NewPod(t, "devices")
	for n, test := range []struct {
		name, networks, def string
		want                map[string]string // device by interface
	}{
		{"one", "vf", "", map[string]string{"net1": "0000:01:10.2"}},
		{"two NADs of one resource", "vf, other", "", map[string]string{"net1": "0000:01:10.2", "net2": "0000:01:10.0"}},
		{"the same NAD three times", "vf, vf, vf", "", map[string]string{"net1": "0000:01:10.2", "net2": "0000:01:10.0", "net3": "0000:01:10.1"}},
		{"two resources", "gpu, vf", "", map[string]string{"net1": "0000:07:00.0", "net2": "0000:01:10.2"}},
		{"asked by name", `[{"name": "vf"}, {"name": "other", "deviceID": "0000:01:10.2"}]`, "", map[string]string{"net1": "0000:01:10.0", "net2": "0000:01:10.2"}},
		{"the default network too", "vf", "def", map[string]string{"eth0": "0000:01:10.2", "net1": "0000:01:10.0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, id := s.On(t), site.SandboxID(740+n)
			devicePod(s, "devices", test.networks, test.def)
			s.MustAdd(id, p, "devices")
			s.MustCheck(id, p, "devices")
			kubelet.pods["devices"], kubelet.pods["kept"] = nil, kubelet.pods["devices"] // DEL needs no kubelet
			s.MustDel(id, p, "devices")
			kubelet.pods["devices"] = kubelet.pods["kept"]
			got := stdins(t, log)
			for _, verb := range []string{"ADD", "CHECK", "DEL"} {
				for ifName, device := range test.want {
					in := got[verb+" "+ifName]
					runtime, _ := in["runtimeConfig"].(map[string]any)
					if in["deviceID"] != device || in["pciBusID"] != device || runtime["deviceID"] != device {
						t.Errorf("%s %s got deviceID %v, pciBusID %v, runtimeConfig %v, want %s", verb, ifName, in["deviceID"], in["pciBusID"], runtime, device)
					}
				}
			}
			must.Do(t, os.Remove(log))
		})
	}
	for _, test := range []struct {
		name, networks, def string
		says                []string
	}{
		{"too few", "vf, vf, vf, vf", "", []string{"x.com/vf", "3 devices"}},
		{"too few with the default network", "vf, vf, other", "def", []string{"x.com/vf", "3 devices"}},
		{"one device twice", `[{"name": "vf", "deviceID": "0000:01:10.1"}, {"name": "other", "deviceID": "0000:01:10.1"}]`, "", []string{"0000:01:10.1", "already"}},
		{"another pod's", `[{"name": "vf", "deviceID": "0000:09:10.0"}]`, "", []string{"0000:09:10.0", "none of the pod's devices", "x.com/vf"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := s.On(t)
			devicePod(s, "devices", test.networks, test.def)
			before := s.World(nil)
			_, err := s.Add(site.SandboxID(750), p, "devices")
			site.Says(t, err, test.says...)
			site.SameWorld(t, before, s.World(nil))
			if _, err := os.Stat(log); err == nil {
				t.Errorf("a plugin was run: %q", site.Recorded(t, log))
			}
		})
	}
}

// Without a kubelet to ask, a pod that needs devices is refused, for now.
func TestDevicesWithoutKubelet(t *testing.T) {
	s, _ := deviceSite(t)
	devicePod(s, "devices", "vf", "")
	p := site.NewPod(t, "devices")
	before := s.World(nil)
	_, err := s.Add(site.SandboxID(751), p, "devices")
	site.Says(t, err, "podresources", "kubelet.sock", "default/devices")
	site.HasCode(t, err, 11)
	site.SameWorld(t, before, s.World(nil))
}
