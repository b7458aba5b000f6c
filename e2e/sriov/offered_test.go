package sriov

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// deviceManager stands in for the kubelet's, at the wire.
type deviceManager struct {
	deviceplugin.UnimplementedRegistrationServer
	registered chan *deviceplugin.RegisterRequest
}

func (m *deviceManager) Register(_ context.Context, r *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	m.registered <- r
	return &deviceplugin.Empty{}, nil
}

// The agent offers the VFs of a real NIC: those that the settings select, with what a container
// needs of each, and not while their PF is down.
func TestOfferedVFs(t *testing.T) {
	dpdk := vf(t, "eth1", 2)
	bind(t, dpdk, "vfio-pci")
	t.Cleanup(func() { bind(t, dpdk, "") })
	dir := t.TempDir()
	settings := filepath.Join(dir, "settings.json")
	text := `{"devices": {"resources": [{"name": "example.com/vf_a", "pf": ["eth0"], "vf": "0-1"}, {"name": "example.com/dpdk", "pf": ["eth1"], "driver": "vfio-pci"}],
		"resourceList": [{"resourceName": "rest", "resourcePrefix": "example.com", "selectors": {"vendors": ["8086"], "drivers": ["igbvf"], "pfNames": ["eth0#5-6"]}}]}}`
	if err := errors.Join(os.WriteFile(settings, []byte(text), 0o600), os.MkdirAll(deviceplugin.DevicePluginPath, 0o755)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", deviceplugin.KubeletSocket)
	if err != nil {
		t.Fatal(err)
	}
	m := &deviceManager{registered: make(chan *deviceplugin.RegisterRequest, 8)}
	server := grpc.NewServer()
	deviceplugin.RegisterRegistrationServer(server, m)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	var log strings.Builder
	agent := exec.Command(filepath.Join(binDir, "plexusd"), "serve", "--standalone", "--settings", settings, "--socket", filepath.Join(dir, "agent.sock"), "--data-dir", filepath.Join(dir, "data"))
	agent.Stderr = &log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	want := map[string][]string{"example.com/vf_a": {vf(t, "eth0", 0), vf(t, "eth0", 1)}, "example.com/dpdk": {dpdk}, "example.com/rest": {vf(t, "eth0", 5), vf(t, "eth0", 6)}}
	for range want {
		var r *deviceplugin.RegisterRequest
		select {
		case r = <-m.registered:
		case <-time.After(time.Minute):
			t.Fatal("nobody registers")
		}
		conn, err := grpc.NewClient("unix:"+deviceplugin.DevicePluginPath+r.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		c := deviceplugin.NewDevicePluginClient(conn)
		stream, err := c.ListAndWatch(t.Context(), &deviceplugin.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		until := func(health string) {
			t.Helper()
			for {
				answer, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				var ids []string
				for _, d := range answer.Devices {
					if d.Health == health {
						ids = append(ids, d.ID)
					}
				}
				if slices.Sort(ids); slices.Equal(ids, want[r.ResourceName]) {
					return
				}
			}
		}
		until(deviceplugin.Healthy)
		answer, err := c.Allocate(t.Context(), &deviceplugin.AllocateRequest{ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: want[r.ResourceName]}}})
		if err != nil {
			t.Fatal(err)
		}
		given := answer.ContainerResponses[0]
		if got := given.Envs["PCIDEVICE_"+strings.ToUpper(strings.NewReplacer(".", "_", "/", "_").Replace(r.ResourceName))]; got != strings.Join(want[r.ResourceName], ",") {
			t.Errorf("%s: environment %q in %v", r.ResourceName, got, given.Envs)
		}
		if (r.ResourceName == "example.com/dpdk") != (len(given.Devices) == 2) {
			t.Errorf("%s: device files %v", r.ResourceName, given.Devices)
		}
		for _, d := range given.Devices {
			if st, err := os.Stat(d.HostPath); err != nil || st.Mode()&os.ModeCharDevice == 0 {
				t.Errorf("%s: %s is no device file: %v %v", r.ResourceName, d.HostPath, st, err)
			}
		}
		if r.ResourceName == "example.com/dpdk" {
			run(t, "ip", "link", "set", "eth1", "down")
			until(deviceplugin.Unhealthy)
			run(t, "ip", "link", "set", "eth1", "up")
			until(deviceplugin.Healthy)
		}
	}
}
