package plugins

import (
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// CHECK finds no difference at a healthy pod, however many pods have come and gone since: a
// bridge takes another MAC as its ports join and leave. What a pod has lost is still found.
func TestCheckAmongManyPods(t *testing.T) {
	uplink(t)
	s := pluginSite(t)
	s.ChainNAD("plain", site.Plugin("bridge", map[string]any{"bridge": "cni2", "ipam": s.HostLocal("10.64.0.0/24")}))
	s.ChainNAD("onwire", site.Plugin("macvlan", map[string]any{"master": "up0", "ipam": s.HostLocal("10.65.0.0/24")}))
	const pods = 24
	macs := map[string]bool{}
	healthy := map[string]*node.Pod{}
	for n := range pods {
		name, id := fmt.Sprint("crowd", n), site.SandboxID(640+n)
		s.Pod(name, "plain,bridged,pointed,onwire")
		p := site.NewPod(t, name)
		s.MustAdd(id, p, name)
		t.Cleanup(func() { _ = s.Del(id, p, name) })
		healthy[id] = p
		bridge, err := netlink.LinkByName("cni2")
		must.Do(t, err)
		macs[bridge.Attrs().HardwareAddr.String()] = true
	}
	if len(macs) < 2 {
		t.Fatalf("cni2 has had the MAC %v alone: the test shows nothing", macs)
	}
	check := func() {
		t.Helper()
		for n := range pods {
			if p := healthy[site.SandboxID(640+n)]; p != nil {
				if err := s.Check(site.SandboxID(640+n), p, fmt.Sprint("crowd", n)); err != nil {
					t.Errorf("CHECK of pod %d: %v", n, err)
				}
			}
		}
	}
	check()
	for _, n := range []int{0, pods / 2, pods - 1} {
		id := site.SandboxID(640 + n)
		s.MustDel(id, healthy[id], fmt.Sprint("crowd", n))
		delete(healthy, id)
	}
	check()
	p := healthy[site.SandboxID(641)]
	peer := hostPeer(t, p, "net1")
	must.Do(t, netlink.LinkSetNoMaster(peer))
	if err := s.Check(site.SandboxID(641), p, "crowd1"); err == nil {
		t.Error("CHECK of a pod whose port has left its bridge finds nothing")
	}
}

// hostPeer is the node's end of a pod's veth.
func hostPeer(t *testing.T, p *node.Pod, ifName string) netlink.Link {
	t.Helper()
	var index int
	must.Do(t, p.Do(func() error {
		link, err := netlink.LinkByName(ifName)
		if err == nil {
			index = link.Attrs().ParentIndex
		}
		return err
	}))
	links, err := netlink.LinkList()
	must.Do(t, err)
	at := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == index })
	if at < 0 {
		t.Fatalf("%s has no peer on the node", ifName)
	}
	return links[at]
}
