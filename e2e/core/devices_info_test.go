package core

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// What a device plugin says of a device is in the attachment's file and in
// network-status, unless the plugin of the network says more.
func TestDevicePluginsInformation(t *testing.T) {
	s, _ := deviceSite(t)
	(&fakeKubelet{pods: map[string][][]string{"told": {{"x.com/vf=0000:01:10.2", "x.com/gpu=0000:07:00.0"}}}}).serve(t)
	dir := "/var/run/k8s.cni.cncf.io/devinfo/dp"
	must.Do(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { must.Do(t, os.RemoveAll(dir)) })
	const info = `{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:01:10.2"}}`
	must.Do(t, os.WriteFile(filepath.Join(dir, "x.com-vf-0000:01:10.2-device.json"), []byte(info), 0o600))
	p := site.NewPod(t, "told")
	devicePod(s, "told", "vf, gpu", "")
	s.MustAdd("0123456789ab", p, "told")
	file, err := os.ReadFile(filepath.Join(site.DeviceInfoDir, "0123456789ab,net1.json"))
	if err != nil || string(file) != info {
		t.Errorf("the attachment's file: %s, %v", file, err)
	}
	status, err := os.ReadFile(filepath.Join(s.Manifests, "told.status.json"))
	must.Do(t, err)
	if n := strings.Count(string(status), "pci-address"); n != 1 {
		t.Errorf("%d devices in network-status, want that of net1 alone: %s", n, status)
	}
	s.MustDel("0123456789ab", p, "told")
	if left, err := os.ReadDir(site.DeviceInfoDir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	must.Do(t, os.WriteFile(filepath.Join(dir, "x.com-vf-0000:01:10.2-device.json"), make([]byte, 1<<17), 0o600))
	_, err = s.Add("0123456789ab", p, "told")
	site.Says(t, err, "x.com-vf-0000:01:10.2-device.json", "65536 bytes")
}
