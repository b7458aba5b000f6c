package shareddir

import (
	"encoding/json"
	"net"
	"os"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Only in an emptyDir, which one pod sees, names may be those of the interface.
func TestNames(t *testing.T) {
	unreachable := podWith("")
	unreachable.Volumes[0].Kind = "configMap"
	withoutUID := podWithEmptyDir()
	withoutUID.UID = ""
	for name, c := range map[string]struct {
		pod          *conf.Pod
		socket, info string
	}{
		"no pod":                  {nil, "", ""},
		"no volume":               {&conf.Pod{}, "", ""},
		"a hostPath":              {podWith("/run/x"), "", ""},
		"another kind":            {unreachable, "", ""},
		"an emptyDir without UID": {withoutUID, "", ""},
		"an emptyDir":             {podWithEmptyDir(), "net1.sock", "net1.json"},
	} {
		socket, info := Names(&delegates.Attachment{Sandbox: sandbox, IfName: "net1", Pod: c.pod}, conf.DeviceVhostUser, nil)
		if socket != c.socket || info != c.info {
			t.Errorf("%s: %q %q, want %q %q", name, socket, info, c.socket, c.info)
		}
	}
	u := Use{File: "net1.sock", Config: "net1.json"}
	for dir, valid := range map[string]bool{podWithEmptyDir().HostDir(conf.SharedDir): true, "/run/x": false} {
		if u.Dir = dir; u.Valid(sandbox, unique) != valid {
			t.Errorf("a record with net1.json in %s: valid is not %v", dir, valid)
		}
	}
}

// The container reads what it needs, by the paths that it has.
func TestInfo(t *testing.T) {
	pod := podWithEmptyDir()
	pod.Volumes[0].Mount = "/run/vhost"
	_, subnet, _ := net.ParseCIDR("192.0.2.0/24")
	a := &delegates.Attachment{IfName: "net1", Pod: pod, IPAM: &types100.Result{IPs: []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(192, 0, 2, 7), Mask: subnet.Mask}}}}}
	device := func(dir string) *conf.DeviceInfo {
		return &conf.DeviceInfo{Type: conf.DeviceVhostUser, Version: "1.1.0", VhostUser: &conf.VhostDevice{Mode: "server", Path: dir + "/net1.sock"}}
	}
	text, err := NewInfo(a, device(pod.HostDir(conf.SharedDir)), "02:00:00:00:00:01", 9000)
	must(t, err)
	const want = `{"interface":"net1","socket":"/run/vhost/net1.sock","mac":"02:00:00:00:00:01","mtu":9000,"addresses":["192.0.2.7/24"],` +
		`"device-info":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/run/vhost/net1.sock"}}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	text, err = NewInfo(&delegates.Attachment{IfName: "net1", Pod: pod}, device("/elsewhere"), "", 0)
	must(t, err)
	var info Info
	must(t, json.Unmarshal(text, &info))
	if info.Socket != "/elsewhere/net1.sock" || info.Addresses != nil {
		t.Errorf("%s", text)
	}
}

// A folder that no container sees is refused, with what to add to the pod. A request that tells
// of no containers, as of no pod, is not.
func TestChooseRefusesWhatNoContainerSees(t *testing.T) {
	dir := tempDir(t)
	pod := func(volumes ...conf.Volume) *conf.Pod {
		return &conf.Pod{Namespace: "default", Name: "p", Containers: []string{"app"}, Volumes: volumes}
	}
	add := []string{"pod default/p", "no container sees", "volumes: [{name: shared-dir, emptyDir: {}}]", "volumeMounts: [{name: shared-dir, mountPath: /run/vhost}]"}
	for name, c := range map[string]struct {
		pod  *conf.Pod
		says []string
	}{
		"no volume":                      {pod(), add},
		"a volume beside it":             {pod(conf.Volume{Name: "x", HostPath: dir + "/x", Mount: "/x"}), add},
		"shared-dir without a mount":     {pod(conf.Volume{Name: conf.SharedDir, HostPath: dir}), append(add, dir)},
		"shared-dir":                     {pod(conf.Volume{Name: conf.SharedDir, HostPath: dir, Mount: "/s"}), nil},
		"the folder of all sandboxes":    {pod(conf.Volume{Name: "x", HostPath: dir, Mount: "/x"}), nil},
		"a pod without known containers": {&conf.Pod{}, nil},
		"no pod":                         {nil, nil},
		"a configMap":                    {pod(conf.Volume{Name: conf.SharedDir, Mount: "/s", Kind: "configMap"}), []string{"pod default/p", "shared-dir", "configMap", "emptyDir: {}"}},
	} {
		_, err := choose(wish(dir), c.pod)
		if c.says == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.says != nil {
			wantError(t, err, c.says...)
		}
		unseen := wish(dir)
		unseen.Unseen = true // as with userspace-cni
		_, err = choose(unseen, c.pod)
		if kind := c.pod.Unreachable(conf.SharedDir); (err != nil) != (kind != "") {
			t.Errorf("%s, unseen allowed: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("Choose has made %v (%v)", entries, err)
	}
}

// CHECK reports what stands in the place of a socket, also of one that the pod makes.
func TestCheckReportsWhatIsNoSocket(t *testing.T) {
	dir, host := tempDir(t), victim(t)
	u, err := choose(wish(dir), podWith(dir))
	must(t, err)
	place := u.Place("sock")
	must(t, u.Check(false, "sock"))
	for name, plant := range map[string]func(){
		"a link to a socket": func() { must(t, os.Symlink(host+"/sock", place)) },
		"a link to nothing":  func() { must(t, os.Symlink(host+"/none", place)) },
		"a file":             func() { write(t, place) },
		"a folder":           func() { must(t, os.Mkdir(place, 0o755)) },
	} {
		plant()
		t.Log(name)
		wantError(t, u.Check(false, "sock"), place, "no socket")
		must(t, os.Remove(place))
	}
	socketAt(t, place)
	must(t, u.Check(false, "sock"))
}
