package plugins

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// needsModules skips the test where the kernel lacks a kind of link. The guest of "make
// e2e-sriov", which runs this test as well, has them all.
func needsModules(t *testing.T) {
	t.Helper()
	for _, kind := range []netlink.Link{&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "probe"}}, &netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, Table: 77}} {
		err := netlink.LinkAdd(kind)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("SKIPPED HERE, run in the guest of e2e-sriov: this kernel makes no link of type %s", kind.Type())
		}
		must.Do(t, err)
		must.Do(t, netlink.LinkDel(kind))
	}
}

// CHECK and the agent find no difference at healthy pods on the reference plugins whose kinds of
// link are modules of the kernel.
func TestCheckOfPluginsOfModules(t *testing.T) {
	needsModules(t)
	uplink(t)
	s := site.New(t, nil)
	s = s.With(map[string]any{"delegates": []any{site.ClusterBridge(s.Dir + "/addresses")}})
	up, err := netlink.LinkByName("hd0") // of ipvlan's second mode: a link has one for all its slaves
	must.Do(t, err)
	must.Do(t, netlink.LinkSetUp(up))
	addresses := func(subnet string, keys map[string]any) map[string]any {
		keys["ipam"] = s.HostLocal(subnet)
		return keys
	}
	for name, plugins := range map[string][]map[string]any{
		"slave":   {site.Plugin("ipvlan", addresses("10.71.0.0/24", map[string]any{"master": "up0"}))},
		"routed":  {site.Plugin("ipvlan", addresses("10.72.0.0/24", map[string]any{"master": "hd0", "mode": "l3"}))},
		"nothing": {site.Plugin("dummy", addresses("10.73.0.0/24", map[string]any{}))},
		"table": {
			site.Plugin("bridge", addresses("10.74.0.0/24", map[string]any{"bridge": "cni8", "isGateway": true})),
			site.Plugin("vrf", map[string]any{"vrfname": "blue"}),
		},
		"six": {
			site.Plugin("bridge", addresses("fd00:8::/64", map[string]any{"bridge": "cni9", "isGateway": true})),
			site.Plugin("vrf", map[string]any{"vrfname": "red", "table": 200}),
		},
	} {
		s.ChainNAD(name, plugins...)
	}
	healthy := map[string]*node.Pod{}
	for n := range *crowd {
		// Each pod is on a VLAN of its own: up0.N is there once.
		vlan := fmt.Sprint("tagged", n)
		s.ChainNAD(vlan, site.Plugin("vlan", addresses(fmt.Sprintf("10.75.%d.0/24", n), map[string]any{"master": "up0", "vlanId": 100 + n})))
		name, id := fmt.Sprint("module", n), site.SandboxID(860+n)
		s.Pod(name, "slave,routed,nothing,table,six,"+vlan)
		p := site.NewPod(t, name)
		s.MustAdd(id, p, name)
		t.Cleanup(func() { _ = s.Del(id, p, name) })
		healthy[id] = p
	}
	for n := range *crowd {
		id, name := site.SandboxID(860+n), fmt.Sprint("module", n)
		if err := s.Check(id, healthy[id], name); err != nil {
			t.Errorf("CHECK of pod %d: %v", n, err)
		}
	}
	agentFindsNothing(t, s)
	must.Do(t, healthy[site.SandboxID(860)].Do(func() error {
		link, err := netlink.LinkByName("net3")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	}))
	if err := s.Check(site.SandboxID(860), healthy[site.SandboxID(860)], "module0"); err == nil {
		t.Error("CHECK of a pod that has lost its dummy finds nothing")
	}
	for n := range *crowd {
		id, name := site.SandboxID(860+n), fmt.Sprint("module", n)
		s.MustDel(id, healthy[id], name)
	}
}
