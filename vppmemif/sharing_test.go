package vppmemif

import (
	"context"
	"os"
	"path/filepath"
	"testing"

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
