package ovsdpdk

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// The port goes to the socket that a device plugin has given to the pod, where the node's
// configuration allows it. The device plugin's own description of it stays.
func TestDeviceOfADevicePlugin(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	dirs := tempDir(t)
	folder := filepath.Join(dirs, "socket7")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	a := r.attachment(d, sandbox, nil)
	a.Bounds = conf.Bounds{Endpoints: []string{r.address}, SocketDirs: []string{r.dir, dirs + "/*"}}
	a.Pod.Containers = []string{"app"} // the device plugin has mounted the folder
	device := func(mode, path string) *conf.DeviceInfo {
		return &conf.DeviceInfo{Type: conf.DeviceVhostUser, Version: "1.1.0", VhostUser: &conf.VhostDevice{Mode: mode, Path: path}}
	}
	a.Device = device("server", folder+"/vhost.sock")
	mustAttach(t, d, a)
	if got := r.vsctl("get", "Interface", portName(a), "options:vhost-server-path"); got != `"`+folder+`/vhost.sock"` {
		t.Errorf("the port is at %s", got)
	}
	if said, err := a.Network.Describe(a); err != nil || said.DeviceInfo != nil {
		t.Errorf("device-info %+v, %v: want the device plugin's to stay", said.DeviceInfo, err)
	}
	wantErrorNone(t, a.Network.Check(bounded(t), a))
	mustDetach(t, d, a)
	if _, err := os.Stat(folder); err != nil {
		t.Error("the device plugin's folder has gone with the port: ", err)
	}
	for _, c := range []struct {
		device *conf.DeviceInfo
		keys   map[string]any
		says   []string
	}{
		{device("server", "/etc/x/vhost.sock"), nil, []string{"device plugin", `"vhost-user.path"`, "/etc/x", `"socketDirs"`}},
		{device("server", "/run/openvswitch/db.sock"), nil, []string{`"socketDirs"`}},
		{device("server", folder+"/../x/vhost.sock"), nil, []string{"absolute path"}},
		{device("server", "vhost.sock"), nil, []string{"absolute path"}},
		{device("server", ""), nil, []string{"absolute path"}},
		{device("server", dirs+"/missing/vhost.sock"), nil, []string{"device plugin", dirs + "/missing", "is not there"}},
		{device("client", folder+"/vhost.sock"), nil, []string{`"vhost.mode"`, "client"}},
		{device("", folder+"/vhost.sock"), map[string]any{"vhost": map[string]any{"socketDir": r.dir, "socketFile": "x"}}, []string{`"vhost.socketFile"`}},
	} {
		b := r.attachment(d, sandbox, c.keys)
		b.Bounds, b.Device = a.Bounds, c.device
		wantError(t, prepare(t, b), c.says...)
	}
	pci := r.attachment(d, sandbox, nil) // a device of another type is not where the socket is
	pci.Device = &conf.DeviceInfo{Type: conf.DevicePCI, PCI: &conf.PCIDevice{}}
	wantErrorNone(t, prepare(t, pci))
	sameWorld(t, before, r.world())
}
