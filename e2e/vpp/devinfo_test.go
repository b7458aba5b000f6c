package vpp

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

// The device of an attachment is in network-status and in the file of the
// device-information specification, whether a built-in made it or a plugin that
// declares the capability; the file goes with the attachment.
func TestMemifDeviceInfo(t *testing.T) {
	api, stateOf := site.VPP(t)
	s := site.New(t, map[string]any{"delegates": []any{map[string]any{"cniVersion": "1.0.0", "name": "cluster", "type": site.Recorder}}})
	s.InstallRecorder()
	s.NAD("mem", map[string]any{"cniVersion": "1.0.0", "type": "vppmemif", "apiSocket": api, "socket": map[string]any{"dir": filepath.Join(s.Dir, "m")}})
	s.NAD("other", map[string]any{"cniVersion": "1.0.0", "type": site.Recorder, "capabilities": map[string]any{"CNIDeviceInfoFile": true},
		"deviceInfo": map[string]any{"type": "vdpa", "version": "1.1.0", "vdpa": map[string]any{"path": "/dev/vhost-vdpa-1"}}})
	s.NAD("broken", map[string]any{"cniVersion": "1.0.0", "type": site.Recorder, "capabilities": map[string]any{"CNIDeviceInfoFile": true}, "deviceInfo": []int{1}})
	s.Pod("app", "mem,other,broken")
	p := site.NewPod(t, "devinfo")
	s.MustAdd("warmup000000", p, "app")
	s.MustDel("warmup000000", p, "app")
	before := s.World(nil)
	const sandbox = "0123456789ab0123"
	s.MustAdd(sandbox, p, "app")
	var status []struct {
		Name       string
		DeviceInfo json.RawMessage `json:"device-info"`
	}
	data, err := os.ReadFile(filepath.Join(s.Manifests, "app.status.json"))
	if err != nil {
		t.Fatal(err)
	}
	var published struct {
		Metadata struct{ Annotations map[string]string }
	}
	if err := json.Unmarshal(data, &published); err != nil {
		t.Fatal(err)
	}
	text := published.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"]
	if err := json.Unmarshal([]byte(text), &status); err != nil || len(status) != 4 {
		t.Fatalf("network-status %s: %v", text, err)
	}
	for i, want := range map[int]string{
		1: `{"type":"memif","version":"1.1.0","memif":{"role":"slave","path":"` + s.Dir + `/m/` + shareddir.OwnName(sandbox) + `/memif-0123456789ab-net1.sock","mode":"ethernet"}}`,
		2: `{"type":"vdpa","version":"1.1.0","vdpa":{"path":"/dev/vhost-vdpa-1"}}`,
	} {
		file, err := os.ReadFile(filepath.Join(site.DeviceInfoDir, sandbox+","+[]string{"", "net1", "net2"}[i]+".json"))
		if err != nil {
			t.Error(err)
		}
		for where, got := range map[string]string{"network-status": string(status[i].DeviceInfo), "file": string(file)} {
			if !sameJSON(t, want, got) {
				t.Errorf("%s of net%d: %s, want %s", where, i, got, want)
			}
		}
	}
	if status[3].DeviceInfo != nil {
		t.Errorf("what is no device information was published: %s", status[3].DeviceInfo)
	}
	s.MustDel(sandbox, p, "app")
	site.SameWorld(t, before, s.World(nil))

	// With the journal and libcni's cache lost DEL goes by the sandbox.
	s.MustAdd(sandbox, p, "app")
	if err := os.RemoveAll(s.DataDir); err != nil {
		t.Fatal(err)
	}
	s.MustDel(sandbox, p, "app")
	if left, err := os.ReadDir(site.DeviceInfoDir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}

	// As a delegate of another meta-plugin it writes where that one says.
	s.As = "vppmemif"
	file := filepath.Join(site.DeviceInfoDir, "default-mem-uid-net1-device.json")
	conf := map[string]any{"cniVersion": "1.0.0", "name": "mem", "type": "vppmemif", "apiSocket": api, "socket": map[string]any{"dir": filepath.Join(s.Dir, "m")},
		"capabilities": map[string]any{"CNIDeviceInfoFile": true}, "runtimeConfig": map[string]any{"CNIDeviceInfoFile": file}}
	s.Conf = must.JSON(t, conf)
	s.MustAdd(sandbox, p, "")
	if got, err := os.ReadFile(file); err != nil || !strings.Contains(string(got), `"type":"memif"`) {
		t.Errorf("%s: %v", got, err)
	}
	s.MustDel(sandbox, p, "")
	must.Do(t, os.Remove(file)) // whoever has named it removes it
	state := stateOf()
	elsewhere := filepath.Join(s.Dir, "device.json")
	for _, file := range []string{"../device.json", elsewhere} {
		conf["runtimeConfig"] = map[string]any{"CNIDeviceInfoFile": file}
		s.Conf = must.JSON(t, conf)
		_, err := s.Add(sandbox, p, "")
		var refused *site.Error
		if !errors.As(err, &refused) || refused.Code != 7 || !strings.Contains(refused.Msg, "CNIDeviceInfoFile") {
			t.Errorf("%s: %v, want code 7 and the key", file, err)
		}
	}
	if _, err := os.Stat(elsewhere); err == nil {
		t.Errorf("%s was written", elsewhere)
	}
	if after := stateOf(); after != state {
		t.Errorf("left behind:\n%s", after)
	}
}

func sameJSON(t testing.TB, a, b string) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	return cmp.Equal(x, y)
}

// The first configuration that operators of userspace-cni meet, for VPP, is a
// plugin of its own in the runtime's folder: called by its name it works.
func TestMemifUserspaceAlone(t *testing.T) {
	_, stateOf := site.VPPAt(t, "/run/vpp/api.sock")
	s := site.New(t, nil)
	s.As = "userspace"
	s.Conf = []byte(`{
	"cniVersion": "0.3.1",
        "type": "userspace",
        "name": "memif-network",
        "host": {
                "engine": "vpp",
                "iftype": "memif",
                "netType": "bridge",
                "memif": {
                        "role": "master",
                        "mode": "ethernet"
                },
                "bridge": {
                        "bridgeName": "4"
                }
        },
        "container": {
                "engine": "vpp",
                "iftype": "memif",
                "netType": "interface",
                "memif": {
                        "role": "slave",
                        "mode": "ethernet"
                }
        },
    "ipam": {
        "type": "host-local",
        "subnet": "10.56.217.0/24",
        "rangeStart": "10.56.217.131",
        "rangeEnd": "10.56.217.190",
        "routes": [
            {
                "dst": "0.0.0.0/0"
            }
        ],
        "gateway": "10.56.217.1"
    }
}`)
	p := site.NewPod(t, "alone")
	const sandbox = "0958c8871b32f00d"
	s.MustAdd("warmup000000", p, "")
	s.MustDel("warmup000000", p, "")
	before, state := s.World(nil), stateOf()
	out, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: sandbox, Netns: p.Path()})
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		CNIVersion string
		IPs        []struct{ Address, Gateway string }
	}
	if err := json.Unmarshal(out, &result); err != nil || result.CNIVersion != "0.3.1" || len(result.IPs) != 1 || !strings.HasPrefix(result.IPs[0].Address, "10.56.217.1") || result.IPs[0].Gateway != "10.56.217.1" {
		t.Errorf("result %s: %v", out, err)
	}
	if !strings.Contains(stateOf(), "bridge-domain 4 ") {
		t.Errorf("no bridge domain 4:\n%s", stateOf())
	}
	data, err := os.ReadFile("/var/run/vpp/" + shareddir.OwnName(sandbox) + "/configData-0958c8871b32-eth0.json")
	if err != nil || !strings.Contains(string(data), `"role":"slave"`) {
		t.Errorf("the container gets %s: %v", data, err)
	}
	if err := s.Del(sandbox, nil, ""); err != nil {
		t.Error(err)
	}
	if after := stateOf(); after != state {
		t.Errorf("left behind:\n%s", after)
	}
	site.SameWorld(t, before, s.World(nil))
}
