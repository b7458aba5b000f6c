package vppmemif

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// Two attachments of one pod share its folder; each DEL takes its own part,
// recorded or not.
func TestSharedFolder(t *testing.T) {
	for _, stateless := range []bool{false, true} {
		for _, volume := range []bool{false, true} {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			a, b := r.attachment(sandboxA, named("blue")), r.attachment(sandboxA, named("blue"))
			b.IfName = "net2"
			if volume {
				dir := filepath.Join(r.dir, "volume-that-is-longer-than-a-socket-can-be-0123456789012345678901234567890123456789")
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				a, b = shared(a, dir), shared(b, dir)
			}
			before := r.world()
			first, second := mustAttach(t, d, a), mustAttach(t, d, b)
			s := stateOf(t, second)
			if stateless {
				first, second = nil, nil
			}
			mustDel(t, d, a, first)
			if !stateless {
				if err := d.check(bounded(t), b, second); err != nil {
					t.Error(err)
				}
			}
			linkUp(t, s.Socket, memif.Options{})
			mustDel(t, d, b, second)
			mustDel(t, d, b, second)
			same(t, before, r.world())
		}
	}
}

// A request that is given up at any step is undone.
func TestGivenUp(t *testing.T) {
	for _, message := range []string{"memif_socket_filename_add_del_v2", "memif_create_v2", "sw_interface_tag_add_del", "sw_interface_set_l2_bridge", "sw_interface_set_flags"} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a := r.attachment(sandboxA, named("blue"))
		before := r.world()
		raw, err := d.prepare(bounded(t), a)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(bounded(t))
		r.onMessage(func(m standin.Message) {
			if m.Name == message {
				cancel()
			}
		})
		if _, err = add(ctx, d, a, raw); err == nil {
			t.Logf("%s: the answer was faster", message)
		}
		cancel()
		mustDel(t, d, a, raw)
		same(t, before, r.world())
	}
}

// A sweep finds the folder however the configuration writes its base.
func TestSweepBaseWithSlash(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, map[string]any{"socket": map[string]any{"dir": r.dir + "/"}})
	before := r.world()
	mustAttach(t, d, a)
	if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	same(t, before, r.world())
}

// In the pod's own volume the socket is called like the interface, and a file beside it tells
// the container of both. A pod that gets another sandbox finds the same again, and the end of
// the former sandbox, however late, takes none of it away.
func TestSocketInAnEmptyDir(t *testing.T) {
	for _, vhost := range []bool{false, true} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a := r.attachment(sandboxA, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "mtu": 1400, "vhostUser": vhost})
		a.Pod = &conf.Pod{Namespace: "default", Name: "p", UID: "0d3bd2ac-9b6f-4b7e-8f3a-2a54c6a1f6a8", Volumes: []conf.Volume{{Name: conf.SharedDir, Mount: "/run/vhost"}}}
		volume := a.Pod.HostDir(conf.SharedDir)
		if err := os.MkdirAll(volume, 0o777); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll("/var/lib/kubelet/pods/" + a.Pod.UID) })
		before := r.world()
		first := mustAttach(t, d, a)
		s := stateOf(t, first)
		if s.path() != volume+"/net1.sock" || s.Config != "net1.json" {
			t.Errorf("socket %s, file %s", s.path(), s.Config)
		}
		if info, err := os.ReadFile(volume + "/net1.json"); err != nil || !strings.Contains(string(info), `"socket":"/run/vhost/net1.sock","mtu":1400,`) {
			t.Errorf("%s, %v", info, err)
		}
		if err := os.Remove(volume + "/net1.json"); err != nil {
			t.Fatal(err)
		}
		if made, err := d.restore(bounded(t), a, first); err != nil || len(made) != 1 {
			t.Errorf("restored %v, %v", made, err)
		}
		again := a
		again.Sandbox = sandboxB
		_, err := d.prepare(bounded(t), again)
		wantError(t, err, "somebody listens at "+s.path())
		r.restart() // the former sandbox has lost its interface, and its DEL comes late
		second := mustAttach(t, d, again)
		for _, state := range []json.RawMessage{first, nil} {
			mustDel(t, d, a, state)
			for _, name := range []string{"net1.sock", "net1.json"} {
				if _, err := os.Stat(filepath.Join(volume, name)); err != nil {
					t.Error("the DEL of the former sandbox has removed a file of the present one: ", err)
				}
			}
		}
		if err := d.check(bounded(t), again, second); err != nil {
			t.Error(err)
		}
		mustDel(t, d, again, second)
		if files, err := os.ReadDir(volume); err != nil || len(files) > 0 {
			t.Errorf("left in the volume: %v, %v", files, err)
		}
		same(t, before, r.world())
	}
}
