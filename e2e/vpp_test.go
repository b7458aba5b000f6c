package e2e

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

// vppAPI is the API socket that the tests of memif run against, and what is
// there: that of the VPP which PLEXUS_VPP_API names and which has to see the
// node's folders, else of the machine's VPP, started here, else of a stand-in.
func vppAPI(t testing.TB) (api string, state func() string) {
	t.Helper()
	dir := filepath.Join(node.Dir(), "vpp")
	text := func(state func() (string, error)) func() string {
		return func() string {
			text, err := state()
			if err != nil {
				t.Error(err)
			}
			return text
		}
	}
	if api := os.Getenv("PLEXUS_VPP_API"); api != "" {
		version, err := vpp.Version(api)
		must(t, err)
		t.Logf("against VPP %s at %s", version, api)
		return api, text(func() (string, error) { return vpp.State(api) })
	}
	if program := vpp.Find(); program != "" {
		p, err := vpp.Start(deadline(t), program, dir, filepath.Join(dir, standin.SocketName))
		must(t, err)
		t.Cleanup(p.Kill)
		version, err := vpp.Version(p.Socket())
		must(t, err)
		t.Logf("against VPP %s, %s", version, program)
		return p.Socket(), text(p.State)
	}
	s, err := standin.Start(context.Background(), dir, standin.Options{})
	must(t, err)
	t.Cleanup(s.Close)
	t.Logf("PLEXUS_VPP_API names no VPP and none is installed: against the stand-in")
	return s.Socket(), s.State
}

// memifNAD is a network of type vppmemif.
func memifNAD(api string, s *site, keys map[string]any) map[string]any {
	all := map[string]any{"cniVersion": "1.1.0", "type": "vppmemif", "apiSocket": api, "socket": map[string]any{"dir": filepath.Join(s.dir, "memif")}}
	for k, v := range keys {
		all[k] = v
	}
	return all
}

func newMemifSite(t testing.TB, api string) *site {
	s := newSite(t, nil)
	s.conf = jsonOf(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.manifests, "dataDir": s.dataDir, "endpoints": testEndpoints, "socketDirs": testSocketDirs,
		"delegates": []any{clusterBridge(filepath.Join(s.dir, "ipam"))},
	})
	s.nad("blue", memifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}}))
	s.nad("red", memifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "red"}}))
	s.nad("tagged", memifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "vlan": 7}))
	s.nad("routed", memifNAD(api, s, map[string]any{"addresses": []any{"192.168.9.1/24"}, "ipam": map[string]any{
		"type": "host-local", "subnet": "192.168.9.0/24", "rangeStart": "192.168.9.10", "dataDir": filepath.Join(s.dir, "ipam")}}))
	p := newPod(t, "warmup")
	s.pod("warmup", "blue, routed")
	s.mustAdd("warmup0", p, "warmup")
	s.mustDel("warmup0", p, "warmup")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// memifPod is a pod with its networks attached and a peer on each memif.
type memifPod struct {
	*node.Pod
	sandbox, name string
	peers         []*memif.Peer
	addresses     []netip.Addr
}

func attachMemif(t testing.TB, s *site, name, networks string) *memifPod {
	t.Helper()
	p := &memifPod{Pod: newPod(t, name), sandbox: name + "00000000001", name: name}
	s.pod(name, networks)
	r := s.mustAdd(p.sandbox, p.Pod, name)
	for i, iface := range r.Interfaces {
		if iface.SocketPath == "" {
			continue
		}
		peer, err := memif.Dial(deadline(t), iface.SocketPath, 0, memif.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(peer.Close)
		if err := peer.WaitLink(deadline(t)); err != nil {
			t.Fatal(err)
		}
		p.peers = append(p.peers, peer)
		var own netip.Addr
		for _, ip := range r.IPs {
			if ip.Interface != nil && *ip.Interface == i {
				own, _ = netip.AddrFromSlice(ip.Address.IP.To4())
			}
		}
		p.addresses = append(p.addresses, own)
	}
	return p
}

func (p *memifPod) detach(t testing.TB, s *site) {
	t.Helper()
	for _, peer := range p.peers {
		peer.Close()
	}
	s.mustDel(p.sandbox, p.Pod, p.name)
	if err := os.Remove(filepath.Join(s.manifests, p.name+".pod.yaml")); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestMemifTwoPods(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	ctx := deadline(t)
	before, stateBefore := s.world(nil), state()

	left, right := attachMemif(t, s, "left", "blue, red, routed"), attachMemif(t, s, "right", "blue, tagged")
	for _, way := range [][2]*memif.Peer{{left.peers[0], right.peers[0]}, {right.peers[0], left.peers[0]}} {
		if got, err := memif.Transfer(ctx, way[0], way[1], 1000, memif.Traffic{}); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived in one bridge domain: %v", got, err)
		}
	}
	if tally := left.peers[1].Tally(); tally.Frames != 0 {
		t.Errorf("%d frames crossed from one bridge domain to another", tally.Frames)
	}
	// What the pod on "tagged" sends untagged is tagged in the domain.
	if err := right.peers[1].Send(ctx, 10, memif.Traffic{}); err != nil {
		t.Fatal(err)
	}
	if err := left.peers[0].WaitReceived(ctx, 1010); err != nil {
		t.Error(err)
	}
	if tags := left.peers[0].TallyFrom(right.peers[1].MAC()).Tags; tags["7"] != 10 {
		t.Errorf("tags of the frames from the pod with vlan 7: %v", tags)
	}
	if _, err := left.peers[2].Ping(ctx, left.addresses[2], netip.MustParseAddr("192.168.9.1")); err != nil {
		t.Errorf("the vswitch's own address: %v", err)
	}
	for _, p := range []*memifPod{left, right} {
		if err := s.check(p.sandbox, p.Pod, p.name); err != nil {
			t.Errorf("CHECK %s: %v", p.name, err)
		}
	}
	left.detach(t, s)
	right.detach(t, s)
	sameWorld(t, before, s.world(nil))
	if after := state(); after != stateBefore {
		t.Errorf("left behind in the vswitch:\n%s\nbefore:\n%s", after, stateBefore)
	}
	if strings.Contains(stateBefore, "blue") {
		t.Errorf("a bridge domain outlived its last member:\n%s", stateBefore)
	}
}
