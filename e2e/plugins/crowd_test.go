package plugins

import (
	"flag"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// crowd is the number of pods. Of more than 12 each has the networks of all plugins.
var crowd = flag.Int("crowd", 12, "pods of the tests of CHECK among many, at most 200")

// crowded are the networks of every pod of the crowd, and of some all that the reference plugins
// make: addresses of both families and none, filters, queues, tables of routes, a device. The
// kernel of most machines lacks what ipvlan, vlan, vrf and dummy need.
func crowded(t *testing.T, s *site.Site) (every, more string) {
	t.Helper()
	bridge := func(name string, keys map[string]any) map[string]any {
		keys["bridge"] = name
		return site.Plugin("bridge", keys)
	}
	onWire := func(keys map[string]any) map[string]any {
		keys["master"] = "up0"
		return site.Plugin("macvlan", keys)
	}
	addresses := func(subnet string) map[string]any {
		return map[string]any{"isGateway": true, "ipam": s.HostLocal(subnet)}
	}
	source := site.Plugin("sbr", nil)
	for name, plugins := range map[string][]map[string]any{
		"plain":    {bridge("cni2", map[string]any{"ipam": s.HostLocal("10.64.0.0/24")})},
		"onwire":   {onWire(addresses("10.65.0.0/24"))},
		"flat":     {bridge("cni3", map[string]any{"ipam": map[string]any{}})},
		"flatwire": {onWire(map[string]any{"mode": "private", "mtu": 1400})},
		"six":      {bridge("cni4", addresses("fd00:7::/64"))},
		"walled":   {bridge("cni5", addresses("10.66.0.0/24")), site.Plugin("firewall", map[string]any{"backend": "iptables", "ingressPolicy": "same-bridge"})},
		"tuned":    {bridge("cni6", addresses("10.67.0.0/24")), site.Plugin("tuning", map[string]any{"allmulti": true, "promisc": true, "txQLen": 500})},
		"source":   {bridge("cni7", addresses("10.68.0.0/24")), source},
		"wiresrc":  {onWire(addresses("10.69.0.0/24")), source},
		"pointsrc": {site.Plugin("ptp", addresses("10.70.0.0/24")), source},
		"device":   {site.Plugin("host-device", map[string]any{"device": "hd0"})},
		"lo":       {site.Plugin("loopback", nil)},
	} {
		s.ChainNAD(name, plugins...)
	}
	return "plain,bridged,pointed,onwire", "flat,flatwire,six,walled,tuned,source,wiresrc,pointsrc,lo"
}

// CHECK finds no difference at a healthy pod, however many pods have come and gone since, and
// neither does the agent: a bridge takes another MAC as its ports join and leave. What a pod has
// lost is still found.
func TestCheckAmongManyPods(t *testing.T) {
	uplink(t)
	s := pluginSite(t)
	every, more := crowded(t, s)
	pods := *crowd
	macs := map[string]bool{}
	healthy := map[string]*node.Pod{}
	for n := range pods {
		name, id, networks := fmt.Sprint("crowd", n), site.SandboxID(640+n), every
		switch {
		case n == 1:
			networks += "," + more + ",device"
		case n%8 == 1 || pods > 12:
			networks += "," + more
		}
		s.Pod(name, networks)
		p := site.NewPod(t, name)
		s.MustAdd(id, p, name)
		t.Cleanup(func() { _ = s.Del(id, p, name) })
		healthy[id] = p
		bridge, err := netlink.LinkByName("cni2")
		must.Do(t, err)
		macs[bridge.Attrs().HardwareAddr.String()] = true
	}
	lowest := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lowest", HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, PeerName: "lowestpeer"}
	must.Do(t, netlink.LinkAdd(lowest))
	t.Cleanup(func() { _ = netlink.LinkDel(lowest) })
	bridge, err := netlink.LinkByName("cni2")
	must.Do(t, err)
	must.Do(t, netlink.LinkSetMaster(lowest, bridge)) // a bridge has the lowest MAC of its ports
	bridge, err = netlink.LinkByName("cni2")
	must.Do(t, err)
	macs[bridge.Attrs().HardwareAddr.String()] = true
	if len(macs) < 2 {
		t.Fatalf("cni2 has had the MAC %v alone: the test shows nothing", macs)
	}
	for _, n := range []int{0, pods / 2, pods - 1} {
		id := site.SandboxID(640 + n)
		s.MustDel(id, healthy[id], fmt.Sprint("crowd", n))
		delete(healthy, id)
	}
	for n := range pods {
		if p := healthy[site.SandboxID(640+n)]; p != nil {
			if err := s.Check(site.SandboxID(640+n), p, fmt.Sprint("crowd", n)); err != nil {
				t.Errorf("CHECK of pod %d: %v", n, err)
			}
		}
	}
	agentFindsNothing(t, s)
	for ifName, n := range map[string]int{"net1": 1, "net5": 9} { // of a bridge with addresses, and of one without
		id := site.SandboxID(640 + n)
		must.Do(t, netlink.LinkSetNoMaster(hostPeer(t, healthy[id], ifName)))
		if err := s.Check(id, healthy[id], fmt.Sprint("crowd", n)); err == nil {
			t.Errorf("CHECK of a pod whose %s has left its bridge finds nothing", ifName)
		}
	}
}

// agentFindsNothing has an agent compare all pods, and hold them to CHECK.
func agentFindsNothing(t *testing.T, s *site.Site) {
	t.Helper()
	a := s.Serve(filepath.Join(s.Dir, "agent.sock"))
	for _, verb := range []string{"resync", "check"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(site.BinDir(t), "plexusctl"), verb, "--socket", a.Socket, "--timeout", "10m").CombinedOutput()
		if err != nil || verb == "resync" && !strings.Contains(string(out), "nothing had to be done") {
			t.Errorf("plexusctl %s: %v\n%s", verb, err, out)
		}
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
