package vpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/rig/standin"
)

// A VPP that was restarted has nothing of the pod's: CHECK tells, DEL restores
// the node.
func TestMemifRestartBetweenAddAndDel(t *testing.T) {
	v := site.NewMortalVPP(t)
	s := site.NewMemif(t, v.API())
	unchanged := watch(s, v.State)
	p := attachMemif(t, s, "one", "blue, tagged, routed")
	must.Do(t, s.Check(p.sandbox, p.Pod, p.name))
	v.Restart()
	site.Says(t, s.Check(p.sandbox, p.Pod, p.name), "restarted")
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
	v := site.NewMortalVPP(t)
	s := site.NewMemif(t, v.API())
	unchanged := watch(s, v.State)
	old := attachMemif(t, s, "old", "blue, red")
	v.Restart()
	left, right := attachMemif(t, s, "left", "blue, red"), attachMemif(t, s, "right", "blue, red")
	site.Says(t, s.Check(old.sandbox, old.Pod, old.name), "restarted")
	kept := v.State()
	if !strings.Contains(kept, "left") {
		t.Errorf("left has not got the first number:\n%s", kept)
	}
	old.detach(t, s)
	if after := v.State(); after != kept {
		t.Errorf("DEL of a pod from before the restart changed the vswitch:\n%s\nbefore:\n%s", after, kept)
	}
	for i := range left.peers {
		passes(t, left.peers[i], right.peers[i])
	}
	for _, p := range []*memifPod{left, right} {
		must.Do(t, s.Check(p.sandbox, p.Pod, p.name))
		p.detach(t, s)
	}
	unchanged()
}

// passes wants a thousand frames each way between two peers.
func passes(t testing.TB, a, b *memif.Peer) {
	t.Helper()
	for _, way := range [][2]*memif.Peer{{a, b}, {b, a}} {
		if got, err := memif.Transfer(must.Deadline(t), way[0], way[1], 1000, memif.Traffic{}); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived: %v", got, err)
		}
	}
}

// A pod from after the restart has the same socket as one from before, as both
// have the same volume and the network names the file: DEL of the old one
// leaves socket and memif to the new one.
func TestMemifRestartBetweenPodsOfOneSocket(t *testing.T) {
	v := site.NewMortalVPP(t)
	s := site.NewMemif(t, v.API())
	volume := filepath.Join(s.Dir, "volume")
	must.Do(t, os.Mkdir(volume, 0o755))
	s.NAD("fixed", site.MemifNAD(v.API(), s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	unchanged := watch(s, v.State)
	s.PodWithVolume("old", "fixed", volume)
	s.PodWithVolume("new", "fixed", volume)
	older, newer := site.NewPod(t, "old"), site.NewPod(t, "new")
	s.MustAdd("old000000001", older, "old")
	v.Restart()
	s.MustAdd("new000000001", newer, "new")
	other := attachMemif(t, s, "other", "blue")
	peer := dial(t, filepath.Join(volume, "fixed.sock"), memif.Options{})
	kept := v.State()
	if err := s.Del("old000000001", older, "old"); err != nil {
		t.Errorf("DEL old: %v", err)
	}
	if after := v.State(); after != kept {
		t.Errorf("DEL of a pod from before the restart changed the vswitch:\n%s\nbefore:\n%s", after, kept)
	}
	passes(t, peer, other.peers[0])
	if err := s.Check("new000000001", newer, "new"); err != nil {
		t.Errorf("CHECK new: %v", err)
	}
	peer.Close()
	other.detach(t, s)
	s.MustDel("new000000001", newer, "new")
	s.MustDel("old000000001", older, "old")
	removeFiles(t, filepath.Join(s.Manifests, "old.pod.yaml"), filepath.Join(s.Manifests, "new.pod.yaml"))
	must.Do(t, older.Close())
	must.Do(t, newer.Close())
	unchanged()
}

func removeFiles(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		must.Do(t, os.Remove(name))
	}
}

func dial(t testing.TB, socket string, o memif.Options) *memif.Peer {
	t.Helper()
	p, err := memif.Dial(must.Deadline(t), socket, 0, o)
	must.Do(t, err)
	t.Cleanup(p.Close)
	must.Do(t, p.WaitLink(must.Deadline(t)))
	return p
}

// While VPP is down, and with no trace of it, DEL succeeds and ADD asks to be
// made again later.
func TestMemifWhileDown(t *testing.T) {
	v := site.NewMortalVPP(t)
	s := site.NewMemif(t, v.API())
	unchanged := watch(s, v.State)
	for _, how := range []string{"stale socket", "no socket"} {
		t.Run(how, func(t *testing.T) {
			s.T = t
			p := attachMemif(t, s, "one", "blue, tagged, routed")
			v.Process.Kill()
			if how == "no socket" {
				removeFiles(t, v.API())
			}
			site.Says(t, s.Check(p.sandbox, p.Pod, p.name), v.API())
			before := s.World(nil)
			_, err := s.Add("again0000000001", p.Pod, p.name)
			site.HasCode(t, err, 11)
			site.Says(t, err, v.API(), "apiSocket")
			site.SameWorld(t, before, s.World(nil))
			must.Do(t, s.Del("again0000000001", p.Pod, p.name))
			site.SameWorld(t, before, s.World(nil))
			p.detach(t, s)
			v.Start()
			unchanged()
		})
	}
	s.T = t
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
		must.Do(t, err)
	}
	start()
	t.Cleanup(func() { vpp.Close() })
	s := site.NewMemif(t, vpp.Socket())
	s.Pod("three", "tagged, routed")
	p := site.NewPod(t, "three")
	seen := len(vpp.Messages())
	s.MustAdd("warmup1", p, "three")
	sent := map[string]int{} // by name
	var names []string
	for _, m := range vpp.Messages()[seen:] {
		if sent[m.Name]++; sent[m.Name] == 1 && changes(m.Name) {
			names = append(names, m.Name)
		}
	}
	s.MustDel("warmup1", p, "three")
	unchanged := watch(s, func() string { return vpp.State() })
	try := func(f standin.Fault) {
		t.Helper()
		must.Do(t, vpp.SetFaults(f))
		_, err := s.Add(site.FaultySandbox, p, "three")
		if site.Says(t, err); err == nil {
			t.Fatalf("ADD succeeded with %+v", f)
		}
		must.Do(t, vpp.SetFaults())
		if f.Ending == standin.Die {
			<-vpp.Done()
			vpp.Close()
			start()
		}
		unchanged()
		s.MustAdd(site.FaultySandbox, p, "three")
		s.MustDel(site.FaultySandbox, p, "three")
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
