package devices

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// kubelet stands in for the kubelet's device manager, at the wire. The real one is in
// e2e/cluster.
type kubelet struct {
	deviceplugin.UnimplementedRegistrationServer
	registered chan *deviceplugin.RegisterRequest
	stop       func()
}

func (k *kubelet) Register(_ context.Context, r *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	k.registered <- r
	return &deviceplugin.Empty{}, nil
}

func startKubelet(t *testing.T, dir string) *kubelet {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{registered: make(chan *deviceplugin.RegisterRequest, 8)}
	s := grpc.NewServer()
	deviceplugin.RegisterRegistrationServer(s, k)
	go func() { _ = s.Serve(l) }()
	k.stop = s.Stop
	t.Cleanup(s.Stop)
	return k
}

// await receives, within a bound of the test.
func await[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatal("it does not come")
		panic("unreachable")
	}
}

// fakeSwitch is a vswitch that works or does not as a test says.
type fakeSwitch struct {
	reports chan error
	ready   error
}

func (s *fakeSwitch) Ready(context.Context) error { return s.ready }
func (s *fakeSwitch) Watch(ctx context.Context, report func(error)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.reports:
			report(err)
		}
	}
}

// start runs an inventory until the test ends.
func start(t *testing.T, sysfs, settings string, s Switch) (*Inventory, *kubelet) {
	t.Helper()
	resources, err := Parse(json.RawMessage(settings))
	if err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "dp") // the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	dir := t.TempDir()
	v := &Inventory{
		Resources: resources, InUse: func(string) bool { return false }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Places: Places{Sysfs: sysfs, Sockets: filepath.Join(dir, "sockets"), Records: filepath.Join(dir, "records"), DeviceInfo: filepath.Join(dir, "dp"), Plugins: short, VhostNet: "/dev/null"},
		Switch: func(string, json.RawMessage) (Switch, error) { return s, nil },
	}
	k := startKubelet(t, short)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v", err)
		}
		if left, _ := filepath.Glob(short + "/plexus-*"); len(left) > 0 {
			t.Errorf("sockets are left: %v", left)
		}
	})
	return v, k
}

// dial speaks to a plugin as the kubelet does.
func dial(t *testing.T, v *Inventory, r *deviceplugin.RegisterRequest) deviceplugin.DevicePluginClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(v.Places.Plugins, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return deviceplugin.NewDevicePluginClient(conn)
}

// lists follows the lists of a plugin.
func lists(t *testing.T, c deviceplugin.DevicePluginClient) <-chan map[string]string {
	t.Helper()
	stream, err := c.ListAndWatch(t.Context(), &deviceplugin.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan map[string]string, 16)
	go func() {
		for {
			answer, err := stream.Recv()
			if err != nil {
				return
			}
			health := map[string]string{}
			for _, d := range answer.Devices {
				health[d.ID] = d.Health
			}
			all <- health
		}
	}()
	return all
}

func allocate(t *testing.T, c deviceplugin.DevicePluginClient, ids ...string) (*deviceplugin.ContainerAllocateResponse, error) {
	t.Helper()
	answer, err := c.Allocate(t.Context(), &deviceplugin.AllocateRequest{ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	return answer.ContainerResponses[0], nil
}

// Functions are offered, given with their environment and device files, and unhealthy when their
// PF has no carrier or they are gone. A kubelet that starts anew has them again.
func TestFunctionsOfAPlugin(t *testing.T) {
	sysfs := tree(t, node)
	v, k := start(t, sysfs, `{"resourceList": [{"resourcePrefix": "x.com", "resourceName": "vf-a", "selectors": [{"pfNames": ["ens1f0"], "needVhostNet": true}]}]}`, nil)
	r := await(t, k.registered)
	if r.ResourceName != "x.com/vf-a" || r.Version != "v1beta1" || !r.Options.GetPreferredAllocationAvailable {
		t.Errorf("registered as %v", r)
	}
	c := dial(t, v, r)
	seen := lists(t, c)
	healthy := map[string]string{"0000:01:02.0": "Healthy", "0000:01:02.1": "Healthy", "0000:01:02.2": "Healthy"}
	if diff := cmp.Diff(healthy, await(t, seen)); diff != "" {
		t.Error(diff)
	}
	got, err := allocate(t, c, "0000:01:02.2", "0000:01:02.0")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"PCIDEVICE_X_COM_VF-A": "0000:01:02.0,0000:01:02.2",
		"PCIDEVICE_X_COM_VF-A_INFO": `{"0000:01:02.0":{"generic":{"deviceID":"0000:01:02.0"},"vhost":{"net-mount":"/dev/vhost-net","tun-mount":"/dev/net/tun"}},` +
			`"0000:01:02.2":{"generic":{"deviceID":"0000:01:02.2"},"vfio":{"dev-mount":"/dev/vfio/42","mount":"/dev/vfio/vfio"},"vhost":{"net-mount":"/dev/vhost-net","tun-mount":"/dev/net/tun"}}}`,
	}
	if diff := cmp.Diff(want, got.Envs); diff != "" {
		t.Error(diff)
	}
	var nodes []string
	for _, d := range got.Devices {
		nodes = append(nodes, d.HostPath)
	}
	if diff := cmp.Diff([]string{"/dev/net/tun", "/dev/vfio/42", "/dev/vfio/vfio", "/dev/vhost-net"}, nodes); diff != "" {
		t.Error(diff)
	}
	info, err := os.ReadFile(filepath.Join(v.Places.DeviceInfo, "x.com-vf-a-0000:01:02.0-device.json"))
	if err != nil || !strings.Contains(string(info), `"pci-address":"0000:01:02.0"`) || !strings.Contains(string(info), `"pf-pci-address":"0000:01:00.0"`) {
		t.Errorf("device information %s %v", info, err)
	}
	if _, err := allocate(t, c, "0000:81:00.2"); err == nil || !strings.Contains(err.Error(), "x.com/vf-a") || !strings.Contains(err.Error(), "0000:81:00.2") {
		t.Errorf("a device of another resource is given: %v", err)
	}
	carrier := filepath.Join(sysfs, "bus/pci/devices/0000:01:00.0/net/ens1f0/carrier")
	if err := os.WriteFile(carrier, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for id, health := range await(t, seen) {
		if health != "Unhealthy" {
			t.Errorf("without carrier %s is %s", id, health)
		}
	}
	if err := errors.Join(os.WriteFile(carrier, []byte("1\n"), 0o644), os.RemoveAll(filepath.Join(sysfs, "bus/pci/devices/0000:01:02.1"))); err != nil {
		t.Fatal(err)
	}
	healthy["0000:01:02.1"] = "Unhealthy"
	for last := await(t, seen); ; last = await(t, seen) { // the two changes may be seen one by one
		if cmp.Equal(last, healthy) {
			break
		}
	}
	// The kubelet starts anew: it removes the sockets of its folder.
	k.stop()
	if err := os.Remove(filepath.Join(v.Places.Plugins, r.Endpoint)); err != nil {
		t.Fatal(err)
	}
	k = startKubelet(t, v.Places.Plugins)
	again := dial(t, v, await(t, k.registered))
	if diff := cmp.Diff(healthy, await(t, lists(t, again))); diff != "" {
		t.Error(diff)
	}
}

// Sockets are healthy while their vswitch works. A device has a folder of its own each time that
// it is given.
func TestSocketsOfAPlugin(t *testing.T) {
	s := &fakeSwitch{reports: make(chan error)}
	v, k := start(t, t.TempDir(), `{"resources": [{"name": "x.com/fast", "bridge": "br0", "ports": 3}]}`, s)
	c := dial(t, v, await(t, k.registered))
	seen := lists(t, c)
	until := func(health string) {
		t.Helper()
		want := map[string]string{"0": health, "1": health, "2": health}
		for !cmp.Equal(await(t, seen), want) {
		}
	}
	until("Healthy")
	s.reports <- errors.New("it is away")
	until("Unhealthy")
	s.reports <- nil
	until("Healthy")
	got, err := allocate(t, c, "2", "0")
	if err != nil {
		t.Fatal(err)
	}
	if got.Envs["PLEXUS_X_COM_FAST"] != "/run/plexus/x.com/fast,/run/plexus/x.com/fast-1" || len(got.Mounts) != 2 {
		t.Fatalf("answer %v", got)
	}
	first := got.Mounts[0]
	st, err := os.Stat(first.HostPath)
	if err != nil || st.Mode().Perm() != 0o777 || first.ContainerPath != "/run/plexus/x.com/fast" || first.ReadOnly {
		t.Errorf("mount %v: %v %v", first, st, err)
	}
	if above, err := os.Stat(filepath.Dir(first.HostPath)); err != nil || above.Mode().Perm() != 0o700 {
		t.Errorf("the folder above: %v %v", above, err)
	}
	info, err := os.ReadFile(filepath.Join(v.Places.DeviceInfo, "x.com-fast-0-device.json"))
	if err != nil || !strings.Contains(string(info), `"path":"`+first.HostPath+`/","container-folder":"/run/plexus/x.com/fast"`) {
		t.Errorf("device information %s %v", info, err)
	}
	if err := os.WriteFile(first.HostPath+"/left", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err = allocate(t, c, "0"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.HostPath); err == nil || got.Mounts[0].HostPath == first.HostPath {
		t.Errorf("the next pod gets the folder of the former one: %s", got.Mounts[0].HostPath)
	}
	// A reboot empties the folders in memory; the kubelet mounts the same folder again, without
	// an allocation.
	folder, described := got.Mounts[0].HostPath, filepath.Join(v.Places.DeviceInfo, "x.com-fast-0-device.json")
	before, err := os.ReadFile(described)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(v.Places.Sockets), os.RemoveAll(v.Places.DeviceInfo)); err != nil {
		t.Fatal(err)
	}
	if err := newPlugin(&v.Resources[0], nil, &v.Places, v.Log).restore(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile(described)
	if st, errFolder := os.Stat(folder); errFolder != nil || st.Mode().Perm() != 0o777 || string(after) != string(before) {
		t.Errorf("after a reboot: folder %v %v, device information %s %v", st, errFolder, after, err)
	}
	// A record that was changed leads nowhere else.
	record := filepath.Join(v.Places.Records, "x.com-fast-0-device.json")
	for _, path := range []string{"/etc/x/", v.Places.Sockets + "/x.com_fast/0/../../../y/", v.Places.Sockets + "/x.com_fast/1/aaaa/", ""} {
		if err := os.WriteFile(record, []byte(`{"type": "vhost-user", "vhost-user": {"path": "`+path+`"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := newPlugin(&v.Resources[0], nil, &v.Places, v.Log).restore(); err == nil {
			t.Errorf("a record with the path %q is used", path)
		}
	}
	if _, err := allocate(t, c, "../../etc"); err == nil {
		t.Error("a device that is not there is given")
	}
	if err := v.Places.Remove(v.Resources); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{v.Places.Sockets, v.Places.Records, v.Places.DeviceInfo + "/*"} {
		if left, _ := filepath.Glob(dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// Several functions are preferred on one NUMA node, and there on several PFs.
func TestPreferredAllocation(t *testing.T) {
	functions := map[string]Function{}
	for id, at := range map[string]struct {
		pf   string
		numa int
	}{"a0": {"a", 0}, "a1": {"a", 0}, "b0": {"b", 0}, "c0": {"c", 1}, "c1": {"c", 1}, "c2": {"c", 1}, "c3": {"c", 1}} {
		functions[id] = Function{PCI: id, PF: at.pf, NUMA: at.numa}
	}
	for _, c := range []struct {
		available, must, want []string
	}{
		{[]string{"a0", "a1", "b0"}, nil, []string{"a0", "b0"}},
		{[]string{"a0", "a1", "b0", "c0", "c1", "c2", "c3"}, nil, []string{"c0", "c1"}},
		{[]string{"a0", "a1", "b0", "c0", "c1", "c2", "c3"}, []string{"a1"}, []string{"a1", "b0"}},
		{[]string{"a0"}, nil, []string{"a0"}},
	} {
		if diff := cmp.Diff(c.want, prefer(functions, c.available, c.must, 2)); diff != "" {
			t.Errorf("of %v with %v: %s", c.available, c.must, diff)
		}
	}
}
