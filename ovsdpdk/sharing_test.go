package ovsdpdk

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Two sandboxes whose IDs begin alike do not share a folder that goes with one
// of them.
func TestSandboxesThatBeginAlike(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a, b := r.attachment(d, "cnitool-7738aaaaaaaa", nil), r.attachment(d, "cnitool-7738bbbbbbbb", nil)
	b.IfName = "net2"
	mustAttach(t, d, a)
	mustAttach(t, d, b)
	mustDetach(t, d, a)
	if err := b.Network.Check(bounded(t), b); err != nil {
		t.Error(err)
	}
	mustDetach(t, d, b)
	sameWorld(t, before, r.world())
}

// Two pods that share a volume whose folder was missing: it goes with the last.
func TestMissingVolumeOfTwoPods(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a, b := shared(r.attachment(d, "first-of-two", nil), r.dir+"/volume"), shared(r.attachment(d, "second-of-two", nil), r.dir+"/volume")
	mustPrepare(t, a, b)
	wantErrorNone(t, d.Attach(bounded(t), only(a)))
	wantErrorNone(t, d.Attach(bounded(t), only(b)))
	mustDetach(t, d, a)
	if err := b.Network.Check(bounded(t), b); err != nil {
		t.Error(err)
	}
	mustDetach(t, d, b)
	sameWorld(t, before, r.world())
}

// The permissions that were asked for, or 0750, or 0770 with a group, are those
// of the folder.
func TestPermissionsReachTheFolder(t *testing.T) {
	r := newRig(t)
	group, gid := anyGroup(t)
	for _, c := range []struct {
		keys map[string]any
		mode os.FileMode
		gid  int
	}{{nil, 0o750, 0}, {map[string]any{"group": group}, 0o770, gid}, {map[string]any{"permissions": "0711"}, 0o711, 0}} {
		keys := map[string]any{"socketDir": r.dir}
		maps.Copy(keys, c.keys)
		d := newDelegate(t)
		a := r.attachment(d, sandbox, map[string]any{"vhost": keys})
		mustAttach(t, d, a)
		s, err := decodeState(a.State, sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if modeOf(t, s.Dir) != c.mode || gidOf(t, s.Dir) != c.gid {
			t.Errorf("%v: mode %o group %d, want %o and %d", c.keys, modeOf(t, s.Dir), gidOf(t, s.Dir), c.mode, c.gid)
		}
		mustDetach(t, d, a)
	}
}

// One socket for two is refused in server mode as well, and where the path is
// so long that it is reached by a short one.
func TestOneSocketForTwoInEveryMode(t *testing.T) {
	for _, c := range []struct{ name, mode, volume string }{
		{"server", "server", "volume"},
		{"client", "client", "volume"},
		{"short path", "client", strings.Repeat("x", maxSocketPath)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			volume := filepath.Join(r.dir, c.volume)
			if err := os.Mkdir(volume, 0o755); err != nil {
				t.Fatal(err)
			}
			before := r.world()
			d := newDelegate(t)
			keys := map[string]any{"vhost": map[string]any{"socketFile": "sock", "mode": c.mode}}
			a, b := shared(r.attachment(d, "first-of-two", keys), volume), shared(r.attachment(d, "second-of-two", keys), volume)
			mustPrepare(t, b) // before a has it
			mustAttach(t, d, a)
			_, err := b.Network.Prepare(bounded(t), b)
			wantError(t, err, "sock", portName(a), "default/first-of-two", "socketFile")
			wantError(t, d.Attach(bounded(t), only(b)), "sock", portName(a), "default/first-of-two", "socketFile")
			if c.mode == "client" { // the winner's application makes it
				s, err := decodeState(a.State, a.Sandbox)
				if err != nil {
					t.Fatal(err)
				}
				socketAt(t, s.Socket)
			}
			mustDetach(t, d, b)
			if !exists(volume + "/sock") {
				t.Error("the loser's DEL has removed the winner's socket")
			}
			if err := a.Network.Check(bounded(t), a); err != nil {
				t.Errorf("the loser's DEL has hurt the winner: %v", err)
			}
			mustDetach(t, d, a)
			sameWorld(t, before, r.world())
		})
	}
}

// Two ports of one pod for an emptyDir: its group goes back with the last.
func TestGroupStaysForTheOther(t *testing.T) {
	r := newRig(t)
	group, gid := anyGroup(t)
	d := newDelegate(t)
	a := inEmptyDir(t, r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"group": group}}))
	volume := a.Pod.HostDir(conf.SharedDir)
	b := sibling(a, "net2")
	mustPrepare(t, a, b)
	wantErrorNone(t, d.Attach(bounded(t), only(a)))
	wantErrorNone(t, d.Attach(bounded(t), only(b)))
	if gidOf(t, volume) != gid {
		t.Errorf("group %d, want %d", gidOf(t, volume), gid)
	}
	mustDetach(t, d, a)
	if gidOf(t, volume) != gid {
		t.Errorf("group %d while a port remains, want %d", gidOf(t, volume), gid)
	}
	mustDetach(t, d, b)
	if gidOf(t, volume) != 0 {
		t.Errorf("group %d, want it as it was", gidOf(t, volume))
	}
}

// inEmptyDir gives an attachment's pod the volume shared-dir, an emptyDir.
func inEmptyDir(t testing.TB, a *delegates.Attachment) *delegates.Attachment {
	t.Helper()
	const pods, uid = "/var/lib/kubelet/pods/", "0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a7"
	a.Pod = &conf.Pod{Namespace: "default", Name: "p", UID: uid, Volumes: []conf.Volume{{Name: conf.SharedDir, Mount: "/run/vhost"}}}
	if err := os.MkdirAll(a.Pod.HostDir(conf.SharedDir), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(pods + uid) })
	return a
}

// In the pod's own volume the socket is called like the interface, and a file beside it tells
// the container of both. A pod that gets another sandbox finds the same again, and the end of
// the former sandbox, however late, takes none of it away.
func TestSocketInAnEmptyDir(t *testing.T) {
	for _, unrecord := range []bool{false, true} {
		r := newRig(t)
		before := r.world()
		d := newDelegate(t)
		a := inEmptyDir(t, r.attachment(d, sandbox, map[string]any{"mac": "02:00:00:00:00:01", "mtu": 1400}))
		volume := a.Pod.HostDir(conf.SharedDir)
		mustAttach(t, d, a)
		s, err := decodeState(a.State, a.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if s.Place(s.File) != volume+"/net1.sock" || s.Config != "net1.json" {
			t.Errorf("socket %s, file %s", s.Place(s.File), s.Config)
		}
		info, err := os.ReadFile(volume + "/net1.json")
		if err != nil || !strings.Contains(string(info), `"socket":"/run/vhost/net1.sock","mac":"02:00:00:00:00:01","mtu":1400,`) {
			t.Errorf("%s, %v", info, err)
		}
		description, err := a.Network.Describe(a)
		if err != nil || description.DeviceInfo.VhostUser.Path != volume+"/net1.sock" {
			t.Errorf("device-info of %+v, %v", description.DeviceInfo.VhostUser, err)
		}
		remove(t, volume+"/net1.json")
		if made, err := a.Network.Restore(bounded(t), a); err != nil || len(made) != 1 || !exists(volume+"/net1.json") {
			t.Errorf("restored %v, %v", made, err)
		}
		again := sibling(a, "net1")
		again.Sandbox = "fedcba9876543210fedcba9876543210"
		wantError(t, prepare(t, again), volume+"/net1.sock", "is used by interface "+s.Port)
		r.vsctl("del-port", s.Port) // the former sandbox has lost its port, and its DEL comes late
		mustAttach(t, d, again)
		if s, err = decodeState(again.State, again.Sandbox); err != nil {
			t.Fatal(err)
		}
		socketAt(t, s.Socket)
		if unrecord {
			a = unrecorded(a)
		}
		mustDetach(t, d, a)
		if !exists(volume+"/net1.sock") || !exists(volume+"/net1.json") {
			t.Error("the DEL of the former sandbox has removed files of the present one")
		}
		if err := again.Network.Check(bounded(t), again); err != nil {
			t.Error(err)
		}
		if unrecord {
			again = unrecorded(again)
		}
		mustDetach(t, d, again)
		if files, err := os.ReadDir(volume); err != nil || len(files) > 0 {
			t.Errorf("left in the volume: %v, %v", files, err)
		}
		sameWorld(t, before, r.world())
	}
}
