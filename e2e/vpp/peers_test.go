package vpp

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// Applications of two makes, with the library gomemif and with DPDK's driver
// net_memif, exchange frames through two pods of one bridge domain.
func TestMemifPeersOfTwoMakes(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	unchanged := watch(s, state)
	left, right := site.NewPod(t, "left"), site.NewPod(t, "right")
	s.Pod("left", "blue")
	s.Pod("right", "blue")
	ctx := must.Deadline(t)

	of := func(sandbox string, p *node.Pod, name string) string {
		r := s.MustAdd(sandbox, p, name)
		return r.Interfaces[len(r.Interfaces)-1].SocketPath
	}
	library := dial(t, of("left000000001", left, "left"), memif.Options{Gomemif: true})
	dpdk, err := memif.StartTestpmd(ctx, t.TempDir(), of("right00000001", right, "right"), 0)
	must.Do(t, err)
	t.Cleanup(dpdk.Stop)
	must.Do(t, dpdk.WaitLink(ctx))

	must.Do(t, library.Send(ctx, 1000, memif.Traffic{}))
	if err := dpdk.WaitReceived(ctx, 1000); err != nil {
		t.Error(err)
	}
	for range 2 {
		must.Do(t, dpdk.Send(ctx, 500))
	}
	if err := library.WaitOther(ctx, 1000); err != nil {
		t.Error(err)
	}
	if got, err := dpdk.Received(ctx); err != nil || got != 1000 {
		t.Errorf("DPDK has received %d frames: %v", got, err)
	}
	if tally := library.Tally(); tally.Other != 1000 || tally.Frames != 0 {
		t.Errorf("the library has received %d frames of DPDK's, and %s", tally.Other, tally)
	}
	library.Close()
	dpdk.Stop()
	s.MustDel("left000000001", left, "left")
	s.MustDel("right00000001", right, "right")
	removeFiles(t, filepath.Join(s.Manifests, "left.pod.yaml"), filepath.Join(s.Manifests, "right.pod.yaml"))
	must.Do(t, left.Close())
	must.Do(t, right.Close())
	unchanged()
}

// A VPP that connects shares the memory of that one link with the pod, not its packet buffers,
// which are those of all pods.
func TestMemifClientSharesNoBuffers(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	s.NAD("connects", site.MemifNAD(api, s, map[string]any{"role": "client", "bridgeDomain": map[string]any{"name": "blue"}}))
	unchanged := watch(s, state)
	left := attachMemif(t, s, "left", "blue")
	right := site.NewPod(t, "right")
	s.Pod("right", "connects")
	r := s.MustAdd("right00000001", right, "right")
	peer := dial(t, r.Interfaces[len(r.Interfaces)-1].SocketPath, memif.Options{Server: true})
	must.Do(t, memif.WarmUp(must.Deadline(t), left.peers[0], peer))
	passes(t, peer, left.peers[0])
	if n := peer.Regions(); n != 1 {
		t.Errorf("VPP shares %d pieces of memory, want that of the link alone", n)
	}
	peer.Close()
	left.detach(t, s)
	s.MustDel("right00000001", right, "right")
	removeFiles(t, filepath.Join(s.Manifests, "right.pod.yaml"))
	must.Do(t, right.Close())
	unchanged()
}

// DPDK's net_memif goes on after a restart of VPP where it listens and VPP connects.
func TestMemifDPDKAcrossRestart(t *testing.T) {
	v := site.NewMortalVPP(t)
	s := newServed(t, v)
	s.NAD("connects", site.MemifNAD(v.API(), s, map[string]any{"role": "client", "bridgeDomain": map[string]any{"name": "blue"}}))
	unchanged := watch(s, v.State)
	ctx := must.Deadline(t)
	left := attachMemif(t, s, "left", "blue")
	right := site.NewPod(t, "right")
	s.Pod("right", "connects")
	r := s.MustAdd("right00000001", right, "right")
	dpdk, err := memif.ServeTestpmd(ctx, t.TempDir(), r.Interfaces[len(r.Interfaces)-1].SocketPath, 0)
	must.Do(t, err)
	t.Cleanup(dpdk.Stop)
	for round := range 2 {
		must.Do(t, dpdk.Pause(ctx)) // while its link comes
		must.Do(t, dpdk.WaitLink(ctx))
		must.Do(t, dpdk.Resume(ctx))
		must.Do(t, left.peers[0].WaitLink(ctx))
		must.Do(t, left.peers[0].Send(ctx, 1000, memif.Traffic{}))
		must.Do(t, dpdk.WaitReceived(ctx, 1000*(round+1)))
		must.Do(t, dpdk.Send(ctx, 500))
		must.Do(t, left.peers[0].WaitOther(ctx, 500*(round+1)))
		if round == 0 {
			must.Do(t, dpdk.Pause(ctx)) // while its link goes
			restored(t, v, s, left)
			must.Do(t, dpdk.Resume(ctx))
		}
	}
	must.Do(t, s.Check("right00000001", right, "right"))
	dpdk.Stop()
	left.detach(t, s)
	s.MustDel("right00000001", right, "right")
	removeFiles(t, filepath.Join(s.Manifests, "right.pod.yaml"))
	must.Do(t, right.Close())
	unchanged()
}

// Abstract sockets are in the pod's network namespace: two pods have one of the
// same name, without a folder, and nobody else reaches them.
func TestMemifAbstractSocket(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	s.NAD("abstract", site.MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"abstract": true}}))
	s.NAD("named", site.MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"abstract": true, "file": "uplink"}}))
	s.Pod("left", "named, abstract")
	s.Pod("right", "named")
	left, right := site.NewPod(t, "left"), site.NewPod(t, "right")
	unchanged := watch(s, state)
	folders := func() []string {
		found, err := filepath.Glob(filepath.Join(s.Dir, "memif", "*"))
		must.Do(t, err)
		return found
	}

	r := s.MustAdd("left000000001", left, "left")
	named, made := r.Interfaces[len(r.Interfaces)-2].SocketPath, r.Interfaces[len(r.Interfaces)-1].SocketPath
	r = s.MustAdd("right00000001", right, "right")
	if other := r.Interfaces[len(r.Interfaces)-1].SocketPath; named != "@uplink" || other != named {
		t.Errorf("socketPath %q and %q, want the name that was asked for", named, other)
	}
	if len(made) < 2 || made[0] != '@' || made == named {
		t.Fatalf("socketPath %q, want an abstract name of its own", made)
	}
	if found := folders(); len(found) > 0 {
		t.Errorf("folders were made: %v", found)
	}
	within := func(p *node.Pod, name string) string { return "abstract:" + name[1:] + ",netns_name=" + p.Path() }
	outside, err := memif.Dial(must.Deadline(t), "abstract:"+named[1:], 0, memif.Options{})
	must.Do(t, err)
	t.Cleanup(outside.Close)
	a, b, c := dial(t, within(left, named), memif.Options{}), dial(t, within(right, named), memif.Options{}), dial(t, within(left, made), memif.Options{})
	passes(t, a, b)
	passes(t, b, c)
	if outside.Connected() {
		t.Error("the socket is reached from the node's network namespace")
	}
	for _, peer := range []*memif.Peer{outside, a, b, c} {
		peer.Close()
	}
	must.Do(t, s.Check("left000000001", left, "left"))
	must.Do(t, s.Check("right00000001", right, "right"))
	// The network namespace may be gone before DEL.
	must.Do(t, right.Close())
	must.Do(t, s.Del("right00000001", nil, "right"))
	s.MustDel("left000000001", left, "left")
	must.Do(t, left.Close())
	left, right = site.NewPod(t, "left"), site.NewPod(t, "right") // as world has them
	unchanged()
	must.Do(t, left.Close())
	must.Do(t, right.Close())
}

// The socket is in the pod's volume shared-dir, which stays, and one that was
// not there goes with the pod.
func TestMemifVolume(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	kept, made := filepath.Join(s.Dir, "kept"), filepath.Join(s.Dir, "made")
	must.Do(t, os.Mkdir(kept, 0o755))
	must.WriteFile(t, filepath.Join(kept, "application"), "data")
	deep := filepath.Join(s.Dir, "a-folder-whose-path-is-longer-than-that-of-a-unix-socket-may-be-so-that-VPP-gets-a-link-that-is-short")
	must.Do(t, os.Mkdir(deep, 0o755))
	s.PodWithVolume("left", "blue, red", kept)
	s.PodWithVolume("right", "blue, red", made)
	s.PodWithVolume("long", "blue, red", deep)
	// /run/plexus/short is there from the first link on.
	warm := site.NewPod(t, "long")
	s.MustAdd("long000000001", warm, "long")
	s.MustDel("long000000001", warm, "long")
	left, right := site.NewPod(t, "left"), site.NewPod(t, "right")
	unchanged := watch(s, state)

	pods := []struct {
		*node.Pod
		sandbox, name, dir string
	}{{left, "left000000001", "left", kept}, {right, "right00000001", "right", made}, {warm, "long000000001", "long", deep}}
	var peers [][2]*memif.Peer
	for _, p := range pods {
		r := s.MustAdd(p.sandbox, p.Pod, p.name)
		var two [2]*memif.Peer
		for i := range two {
			socket := r.Interfaces[len(r.Interfaces)-2+i].SocketPath
			if filepath.Dir(socket) != p.dir {
				t.Errorf("%s: socketPath %s, want it in the volume %s", p.name, socket, p.dir)
			}
			if st, err := os.Lstat(socket); err != nil || st.Mode().Type() != os.ModeSocket {
				t.Errorf("%s: no socket: %v", p.name, err)
			}
			two[i] = dialLong(t, socket)
		}
		peers = append(peers, two)
	}
	for i := range peers[0] {
		passes(t, peers[0][i], peers[1][i])
		passes(t, peers[1][i], peers[2][i])
	}
	for i, p := range pods {
		must.Do(t, s.Check(p.sandbox, p.Pod, p.name))
		peers[i][0].Close()
		peers[i][1].Close()
		s.MustDel(p.sandbox, p.Pod, p.name)
	}
	unchanged()
	if must.ReadFile(t, filepath.Join(kept, "application")) != "data" {
		t.Error("the application's file has changed")
	}
}

// dialLong is dial for a socket whose path may be too long for connect(2), by a
// link as short as a container's mount of the volume is.
func dialLong(t testing.TB, socket string) *memif.Peer {
	t.Helper()
	mount, err := os.MkdirTemp(node.Dir(), "mount")
	must.Do(t, err)
	mount = filepath.Join(mount, "m")
	must.Do(t, os.Symlink(filepath.Dir(socket), mount))
	return dial(t, filepath.Join(mount, filepath.Base(socket)), memif.Options{})
}
