package vpp

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// memifPod is a pod with its networks attached and a peer on each memif.
type memifPod struct {
	*node.Pod
	sandbox, name string
	peers         []*memif.Peer
	addresses     []netip.Addr
}

func attachMemif(t testing.TB, s *site.Site, name, networks string) *memifPod {
	t.Helper()
	p := &memifPod{Pod: site.NewPod(t, name), sandbox: name + "00000000001", name: name}
	s.Pod(name, networks)
	r := s.MustAdd(p.sandbox, p.Pod, name)
	for i, iface := range r.Interfaces {
		if iface.SocketPath == "" {
			continue
		}
		peer, err := memif.Dial(must.Deadline(t), iface.SocketPath, 0, memif.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(peer.Close)
		if err := peer.WaitLink(must.Deadline(t)); err != nil {
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

func (p *memifPod) detach(t testing.TB, s *site.Site) {
	t.Helper()
	for _, peer := range p.peers {
		peer.Close()
	}
	s.MustDel(p.sandbox, p.Pod, p.name)
	if err := os.Remove(filepath.Join(s.Manifests, p.name+".pod.yaml")); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestMemifTwoPods(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	ctx := must.Deadline(t)
	before, stateBefore := s.World(nil), state()

	left, right := attachMemif(t, s, "left", "blue, red, routed"), attachMemif(t, s, "right", "blue, tagged")
	for _, way := range [][2]*memif.Peer{{left.peers[0], right.peers[0]}, {right.peers[0], left.peers[0]}} {
		if got, err := memif.Transfer(ctx, way[0], way[1], 1000, memif.Traffic{}); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived in one bridge domain: %v", got, err)
		}
	}
	if tally := left.peers[1].Tally(); tally.Frames != 0 {
		t.Errorf("%d frames crossed from one bridge domain to another", tally.Frames)
	}
	// "tagged" is a VLAN of the domain of "blue", and so apart from it.
	if err := right.peers[1].Send(ctx, 10, memif.Traffic{}); err != nil {
		t.Fatal(err)
	}
	if got, err := memif.Transfer(ctx, right.peers[0], left.peers[0], 1000, memif.Traffic{}); err != nil || got != 1000 {
		t.Errorf("%d of 1000 frames arrived in one bridge domain: %v", got, err)
	}
	if tally := left.peers[0].TallyFrom(right.peers[1].MAC()); tally.Frames != 0 {
		t.Errorf("%d frames crossed from a VLAN of the domain", tally.Frames)
	}
	if _, err := left.peers[2].Ping(ctx, left.addresses[2], netip.MustParseAddr("192.168.9.1")); err != nil {
		t.Errorf("the vswitch's own address: %v", err)
	}
	for _, p := range []*memifPod{left, right} {
		if err := s.Check(p.sandbox, p.Pod, p.name); err != nil {
			t.Errorf("CHECK %s: %v", p.name, err)
		}
	}
	left.detach(t, s)
	right.detach(t, s)
	site.SameWorld(t, before, s.World(nil))
	if after := state(); after != stateBefore {
		t.Errorf("left behind in the vswitch:\n%s\nbefore:\n%s", after, stateBefore)
	}
	if strings.Contains(stateBefore, "blue") {
		t.Errorf("a bridge domain outlived its last member:\n%s", stateBefore)
	}
}
