package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/plexus-cni/plexus/rig/kube"
)

const recordDir = "/run/recorder"

// recorder is a CNI plugin that keeps what it is given, by pod, interface and verb,
// and makes nothing.
const recorder = `#!/bin/sh
mkdir -p ` + recordDir + `
pod=${CNI_ARGS#*K8S_POD_NAME=}
cat >"` + recordDir + `/${pod%%;*} $CNI_IFNAME $CNI_COMMAND"
case $CNI_COMMAND in
ADD) echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'"}]}' ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
esac
`

// recorded is what the recorder has been given of a device.
type recorded struct {
	DeviceID, PCIBusID string
	RuntimeConfig      struct{ DeviceID string }
}

func installRecorder(t testing.TB) {
	t.Helper()
	file := "/opt/cni/bin/recorder"
	if err := os.WriteFile(file, []byte(recorder), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) })
}

// givenTo are the devices that a pod's interfaces have been given for a verb. Each
// of a device's names has to be the same.
func givenTo(t testing.TB, pod, verb string, interfaces ...string) []string {
	t.Helper()
	var devices []string
	for _, name := range interfaces {
		data, err := os.ReadFile(filepath.Join(recordDir, pod+" "+name+" "+verb))
		if err != nil {
			t.Fatal(err)
		}
		var r recorded
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if r.DeviceID == "" || r.PCIBusID != r.DeviceID || r.RuntimeConfig.DeviceID != r.DeviceID {
			t.Errorf("%s %s %s: want the device under three names: %s", pod, name, verb, data)
		}
		devices = append(devices, r.DeviceID)
	}
	return devices
}

// recordedNetwork is a NAD of the recorder that needs a device.
func recordedNetwork(name, resource string) string {
	return fmt.Sprintf(`
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata:
  name: %s
  annotations: {k8s.v1.cni.cncf.io/resourceName: %s}
spec:
  config: '{"cniVersion": "1.0.0", "type": "recorder", "capabilities": {"deviceID": true}}'
`, name, resource)
}

// podOf is a pod that asks for networks. more is of its spec, resources of its
// container.
func podOf(name, asked, more, resources string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  annotations: {k8s.v1.cni.cncf.io/networks: '%s'}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: %s
    command: [sleep, infinity]
    resources: %s
%s
`, name, asked, kube.BusyboxImage, resources, more)
}

// serveAt serves gRPC on a socket until the test ends.
func serveAt(t testing.TB, socket string, register func(*grpc.Server)) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop) // which removes the socket
}

// portPlugin is a device plugin (k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1).
type portPlugin struct {
	deviceplugin.UnimplementedDevicePluginServer
	devices []string

	mu        sync.Mutex
	allocated []string
}

func (p *portPlugin) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{}, nil
}

func (p *portPlugin) ListAndWatch(_ *deviceplugin.Empty, stream grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	var list deviceplugin.ListAndWatchResponse
	for _, id := range p.devices {
		list.Devices = append(list.Devices, &deviceplugin.Device{ID: id, Health: deviceplugin.Healthy})
	}
	if err := stream.Send(&list); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (p *portPlugin) Allocate(_ context.Context, r *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := &deviceplugin.AllocateResponse{}
	for _, c := range r.ContainerRequests {
		p.allocated = append(p.allocated, c.DevicesIds...)
		answer.ContainerResponses = append(answer.ContainerResponses, &deviceplugin.ContainerAllocateResponse{})
	}
	return answer, nil
}

// has are the devices that the kubelet has allocated, in order.
func (p *portPlugin) has() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(slices.Values(p.allocated))
}

// startPorts registers a device plugin with the kubelet and waits until the node
// has its devices.
func (n *testNode) startPorts(t testing.TB, resource string, devices ...string) *portPlugin {
	t.Helper()
	p := &portPlugin{devices: devices}
	const endpoint = "plexus-test.sock"
	serveAt(t, deviceplugin.DevicePluginPath+endpoint, func(s *grpc.Server) { deviceplugin.RegisterDevicePluginServer(s, p) })
	conn, err := grpc.NewClient("unix:"+deviceplugin.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = deviceplugin.NewRegistrationClient(conn).Register(ctx, &deviceplugin.RegisterRequest{Version: deviceplugin.Version, Endpoint: endpoint, ResourceName: resource})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the node has the devices", func() error {
		out := n.must(t, "get", "node", "-o", `jsonpath={.items[0].status.allocatable['`+strings.ReplaceAll(resource, ".", `\.`)+`']}`)
		if out != fmt.Sprint(len(devices)) {
			return fmt.Errorf("allocatable %q", out)
		}
		return nil
	})
	return p
}

// A device that a device plugin has given to a pod reaches the pod's network, and is
// known when it is detached.
func TestDevicePlugin(t *testing.T) {
	n := theNode
	installRecorder(t)
	plugin := n.startPorts(t, "plexus.test/port", "port-a", "port-b")
	n.apply(t, recordedNetwork("port", "plexus.test/port"))
	n.apply(t, podOf("ports", "port,port", "", `{limits: {plexus.test/port: 2}}`))
	n.must(t, "wait", "--for=condition=Ready", "pod/ports", "--timeout=90s")
	want := []string{"port-a", "port-b"}
	if got := plugin.has(); !slices.Equal(got, want) {
		t.Errorf("the kubelet has allocated %v, want %v", got, want)
	}
	added := givenTo(t, "ports", "ADD", "net1", "net2")
	if got := slices.Sorted(slices.Values(added)); !slices.Equal(got, want) {
		t.Errorf("the networks were given %v, want %v", added, want)
	}
	n.must(t, "delete", "pod", "ports")
	n.nothingLeft(t)
	if got := givenTo(t, "ports", "DEL", "net1", "net2"); !slices.Equal(got, added) {
		t.Errorf("DEL was given the devices %v, ADD %v", got, added)
	}
}

// A pod that does not request the device is told so, by the kubelet and by plexus.
func TestDeviceNotRequested(t *testing.T) {
	n := theNode
	installRecorder(t)
	n.apply(t, recordedNetwork("port", "plexus.test/port"))
	n.apply(t, podOf("forgot", "port", "", `{}`))
	for reason, source := range map[string]string{"FailedCreatePodSandBox": "kubelet", "NetworksFailed": "plexus"} {
		await(t, "an event "+reason, func() error {
			out := n.must(t, "get", "events", "--field-selector", "involvedObject.name=forgot,reason="+reason,
				"-o", "jsonpath={range .items[*]}{.source.component}{.reportingComponent}: {.message}\n{end}")
			if !strings.Contains(out, source) || !strings.Contains(out, "default/port: the pod has no device of resource plexus.test/port: request it in the resources of a container") {
				return errors.New(out)
			}
			return nil
		})
	}
	if out := n.must(t, "get", "pod", "forgot", "-o", "jsonpath={.status.phase}"); out != "Pending" {
		t.Errorf("the pod is %s, want Pending", out)
	}
	if _, err := os.Stat(filepath.Join(recordDir, "forgot net1 ADD")); err == nil {
		t.Error("the network was added")
	}
	n.must(t, "delete", "pod", "forgot")
	n.nothingLeft(t)
}
