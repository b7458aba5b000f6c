package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

// mortalVPP is the machine's VPP, or a stand-in, in a process of its own, which
// is killed and started again.
type mortalVPP struct {
	t       testing.TB
	program string
	dir     string
	process interface {
		State() (string, error)
		Kill()
	}
}

func newMortalVPP(t testing.TB) *mortalVPP {
	t.Helper()
	v := &mortalVPP{t: t, program: vpp.Find(), dir: filepath.Join(node.Dir(), "mortal")}
	if v.program == "" {
		v.program = filepath.Join(node.Dir(), "standin")
		if _, err := os.Stat(v.program); err != nil {
			if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", v.program, "../rig/standin/serve").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	must(t, os.MkdirAll(v.dir, 0o755))
	v.start()
	return v
}

func (v *mortalVPP) start() {
	v.t.Helper()
	if v.program == vpp.Find() {
		p, err := vpp.Start(deadline(v.t), v.program, v.dir, v.api())
		must(v.t, err)
		v.t.Cleanup(p.Kill)
		v.process = p
		return
	}
	p, err := standin.StartProcess(deadline(v.t), v.program, v.dir)
	must(v.t, err)
	v.t.Cleanup(p.Kill)
	v.process = p
}

func (v *mortalVPP) restart() {
	v.t.Helper()
	v.process.Kill()
	v.start()
}

func (v *mortalVPP) api() string { return filepath.Join(v.dir, standin.SocketName) }

func (v *mortalVPP) state() string {
	v.t.Helper()
	text, err := v.process.State()
	must(v.t, err)
	return text
}

// A VPP that was restarted has nothing of the pod's: CHECK tells, DEL restores
// the node.
func TestMemifRestartBetweenAddAndDel(t *testing.T) {
	v := newMortalVPP(t)
	s := newMemifSite(t, v.api())
	unchanged := watch(s, v.state)
	p := attachMemif(t, s, "one", "blue, tagged, routed")
	must(t, s.check(p.sandbox, p.Pod, p.name))
	v.restart()
	says(t, s.check(p.sandbox, p.Pod, p.name), "restarted")
	p.detach(t, s)
	unchanged()
	// VPP takes pods as before.
	p = attachMemif(t, s, "one", "blue, tagged, routed")
	p.detach(t, s)
	unchanged()
}

// Numbers repeat after a restart: DEL of a pod from before leaves the memif of
// a pod from after alone.
func TestMemifRestartBetweenPods(t *testing.T) {
	v := newMortalVPP(t)
	s := newMemifSite(t, v.api())
	unchanged := watch(s, v.state)
	old := attachMemif(t, s, "old", "blue, red")
	v.restart()
	left, right := attachMemif(t, s, "left", "blue, red"), attachMemif(t, s, "right", "blue, red")
	says(t, s.check(old.sandbox, old.Pod, old.name), "restarted")
	kept := v.state()
	if !strings.Contains(kept, "left") {
		t.Errorf("left has not got the first number:\n%s", kept)
	}
	old.detach(t, s)
	if after := v.state(); after != kept {
		t.Errorf("DEL of a pod from before the restart changed the vswitch:\n%s\nbefore:\n%s", after, kept)
	}
	for i := range left.peers {
		passes(t, left.peers[i], right.peers[i])
	}
	for _, p := range []*memifPod{left, right} {
		must(t, s.check(p.sandbox, p.Pod, p.name))
		p.detach(t, s)
	}
	unchanged()
}

// passes wants a thousand frames each way between two peers.
func passes(t testing.TB, a, b *memif.Peer) {
	t.Helper()
	for _, way := range [][2]*memif.Peer{{a, b}, {b, a}} {
		if got, err := memif.Transfer(deadline(t), way[0], way[1], 1000, memif.Traffic{}); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived: %v", got, err)
		}
	}
}

// A pod from after the restart has the same socket as one from before, as both
// have the same volume and the network names the file: DEL of the old one
// leaves socket and memif to the new one.
func TestMemifRestartBetweenPodsOfOneSocket(t *testing.T) {
	v := newMortalVPP(t)
	s := newMemifSite(t, v.api())
	volume := filepath.Join(s.dir, "volume")
	must(t, os.Mkdir(volume, 0o755))
	s.nad("fixed", memifNAD(v.api(), s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	unchanged := watch(s, v.state)
	s.podWithVolume("old", "fixed", volume)
	s.podWithVolume("new", "fixed", volume)
	older, newer := newPod(t, "old"), newPod(t, "new")
	s.mustAdd("old000000001", older, "old")
	v.restart()
	s.mustAdd("new000000001", newer, "new")
	other := attachMemif(t, s, "other", "blue")
	peer := dial(t, filepath.Join(volume, "fixed.sock"), memif.Options{})
	kept := v.state()
	if err := s.del("old000000001", older, "old"); err != nil {
		t.Errorf("DEL old: %v", err)
	}
	if after := v.state(); after != kept {
		t.Errorf("DEL of a pod from before the restart changed the vswitch:\n%s\nbefore:\n%s", after, kept)
	}
	passes(t, peer, other.peers[0])
	if err := s.check("new000000001", newer, "new"); err != nil {
		t.Errorf("CHECK new: %v", err)
	}
	peer.Close()
	other.detach(t, s)
	s.mustDel("new000000001", newer, "new")
	s.mustDel("old000000001", older, "old")
	removeFiles(t, filepath.Join(s.manifests, "old.pod.yaml"), filepath.Join(s.manifests, "new.pod.yaml"))
	must(t, older.Close())
	must(t, newer.Close())
	unchanged()
}

func removeFiles(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		must(t, os.Remove(name))
	}
}

func dial(t testing.TB, socket string, o memif.Options) *memif.Peer {
	t.Helper()
	p, err := memif.Dial(deadline(t), socket, 0, o)
	must(t, err)
	t.Cleanup(p.Close)
	must(t, p.WaitLink(deadline(t)))
	return p
}

// While VPP is down, and with no trace of it, DEL succeeds and ADD asks to be
// made again later.
func TestMemifWhileDown(t *testing.T) {
	v := newMortalVPP(t)
	s := newMemifSite(t, v.api())
	unchanged := watch(s, v.state)
	for _, how := range []string{"stale socket", "no socket"} {
		t.Run(how, func(t *testing.T) {
			s.t = t
			p := attachMemif(t, s, "one", "blue, tagged, routed")
			v.process.Kill()
			if how == "no socket" {
				removeFiles(t, v.api())
			}
			says(t, s.check(p.sandbox, p.Pod, p.name), v.api())
			before := s.world(nil)
			_, err := s.add("again0000000001", p.Pod, p.name)
			hasCode(t, err, 11)
			says(t, err, v.api(), "apiSocket")
			sameWorld(t, before, s.world(nil))
			must(t, s.del("again0000000001", p.Pod, p.name))
			sameWorld(t, before, s.world(nil))
			p.detach(t, s)
			v.start()
			unchanged()
		})
	}
	s.t = t
}

// VPP refuses each message of an ADD, or loses the connection, dies or falls
// silent where it has just made something: ADD fails with a CNI error and takes
// back what it did, and the next one works.
func TestMemifVPPFailsWithinAdd(t *testing.T) {
	dir := filepath.Join(node.Dir(), "faulty")
	var vpp *standin.Server
	start := func() {
		t.Helper()
		var err error
		vpp, err = standin.Start(t.Context(), dir, standin.Options{})
		must(t, err)
	}
	start()
	t.Cleanup(func() { vpp.Close() })
	s := newMemifSite(t, vpp.Socket())
	s.pod("three", "tagged, routed")
	p := newPod(t, "three")
	seen := len(vpp.Messages())
	s.mustAdd("warmup1", p, "three")
	sent := map[string]int{} // by name
	var names []string
	for _, m := range vpp.Messages()[seen:] {
		if sent[m.Name]++; sent[m.Name] == 1 && changes(m.Name) {
			names = append(names, m.Name)
		}
	}
	s.mustDel("warmup1", p, "three")
	unchanged := watch(s, func() string { return vpp.State() })
	try := func(f standin.Fault) {
		t.Helper()
		must(t, vpp.SetFaults(f))
		_, err := s.add(faultySandbox, p, "three")
		if says(t, err); err == nil {
			t.Fatalf("ADD succeeded with %+v", f)
		}
		must(t, vpp.SetFaults())
		if f.Ending == standin.Die {
			<-vpp.Done()
			vpp.Close()
			start()
		}
		unchanged()
		s.mustAdd(faultySandbox, p, "three")
		s.mustDel(faultySandbox, p, "three")
		unchanged()
		if t.Failed() {
			t.Fatalf("with %+v ADD said: %v", f, err)
		}
	}
	refused := 0
	for _, name := range names {
		for n := 1; n <= sent[name]; n++ {
			refused++
			try(standin.Fault{Message: name, Occurrence: n, Ending: standin.Refuse, Retval: -7})
		}
	}
	// These take as long as plexus waits for an answer.
	for _, f := range []standin.Fault{
		{Message: "memif_socket_filename_add_del_v2", Occurrence: 1, Act: true, Ending: standin.Cut},
		{Message: "memif_create_v2", Occurrence: 2, Act: true, Ending: standin.Cut},
		{Message: "memif_create_v2", Occurrence: 2, Ending: standin.Die},
		{Message: "sw_interface_set_l2_bridge", Occurrence: 1, Act: true, Ending: standin.Silence},
		{Message: "sw_interface_set_flags", Occurrence: 2, Act: true, Ending: standin.Die},
	} {
		try(f)
	}
	t.Logf("%d refusals of %v", refused, sent)
}

// changes tells whether a message asks VPP to change something.
func changes(name string) bool {
	return !strings.HasSuffix(name, "_dump") && !strings.HasPrefix(name, "sockclnt_") && name != "show_version" && name != "control_ping" && name != "memclnt_delete"
}
