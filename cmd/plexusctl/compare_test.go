package main

import (
	"net/netip"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// Which lines of explain differ.
func TestDifferencesAreMarked(t *testing.T) {
	ovs := list(`{"type": "ovsdpdk", "bridge": "a", "vlan": 7, "mtu": 1500}`)
	made := func(mac string, n conf.Network) *journal.Entry {
		n.IfName = "net1"
		return &journal.Entry{Network: n, Result: resultText(t, types100.Interface{Name: "net1", Mac: mac, Sandbox: "/x"}, "")}
	}
	found := func(delegate, key, value string) *engine.Datapath {
		return &engine.Datapath{Facts: map[string]map[string]string{delegate: {key: value}}}
	}
	const mac = "02:00:00:00:00:aa"
	for _, test := range []struct {
		name string
		b    block
		want []string
	}{
		{"nothing", block{plan: &conf.Network{List: ovs}, entry: made(mac, conf.Network{List: ovs}), datapath: found("ovsdpdk", "vlan", "7")}, nil},
		{"not planned", block{entry: made(mac, conf.Network{Name: "n", DeviceID: "d", List: ovs})}, nil},
		{"another network", block{plan: &conf.Network{Name: "m"}, entry: made("", conf.Network{Name: "n"})}, []string{"network"}},
		{"another device", block{plan: &conf.Network{DeviceID: "0000:01:10.0"}, entry: made("", conf.Network{})}, []string{"device"}},
		{"another default route", block{plan: &conf.Network{}, entry: made("", conf.Network{DefaultRoute: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})}, []string{"default route"}},
		{"a planned MAC", block{plan: &conf.Network{CapabilityArgs: map[string]any{"mac": "02:00:00:00:00:bb"}}, entry: made(mac, conf.Network{})}, []string{"mac"}},
		{"the MAC of the link", block{entry: made(mac, conf.Network{}), datapath: found("link", "mac", "02:00:00:00:00:bb")}, []string{"mac"}},
		{"a MAC in capitals", block{entry: made(mac, conf.Network{}), datapath: found("link", "mac", "02:00:00:00:00:AA")}, nil},
		{"a key of the plan", block{plan: &conf.Network{List: list(`{"type": "ovsdpdk", "bridge": "a", "vlan": 8}`)}, entry: made("", conf.Network{List: ovs})}, []string{"mtu", "vlan"}},
		{"keys in another order", block{plan: &conf.Network{List: list(`{"ipam": {"a": 1, "b": 2}, "type": "x"}`)}, entry: made("", conf.Network{List: list(`{"type": "x", "ipam": {"b": 2, "a": 1}}`)})}, nil},
		{"other plugins", block{plan: &conf.Network{List: list(`{"type": "sriov", "vlan": 8}`)}, entry: made("", conf.Network{List: ovs})}, []string{"delegate"}},
		{"the vlan of the port", block{entry: made("", conf.Network{List: ovs}), datapath: found("ovsdpdk", "vlan", "9")}, []string{"vlan"}},
		{"the bridge of the port", block{entry: made("", conf.Network{List: ovs}), datapath: found("ovsdpdk", "bridge", "b")}, []string{"bridge"}},
		{"the MTU of a port that is not connected", block{entry: made("", conf.Network{List: ovs}), datapath: found("ovsdpdk", "mtu", "0")}, nil},
		{"a fact of another delegate", block{entry: made("", conf.Network{List: ovs}), datapath: found("vppmemif", "vlan", "9")}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, wide := range []bool{false, true} {
				var got []string
				for _, l := range test.b.lines(wide) {
					if l.differs {
						got = append(got, l.key)
					}
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("wide %v: %s", wide, diff)
				}
			}
		})
	}
}

// What belongs to the same interface stands together, whatever is missing.
func TestBlocks(t *testing.T) {
	x := explanation(t)
	old := left(t)
	old.Sandbox = sandboxB
	x.Journal = []*journal.Record{old, x.Journal[0]}
	names := func() (names []string) {
		for _, b := range blocks(&x) {
			name := b.sandbox[:min(2, len(b.sandbox))]
			if b.entry != nil {
				name += " " + b.entry.IfName
			}
			if b.plan != nil {
				name += " planned " + b.plan.IfName
			}
			if b.datapath != nil {
				name += " found " + b.datapath.IfName
			}
			names = append(names, name)
		}
		return names
	}
	first := []string{"b1 eth0 planned eth0 found eth0", "b1 net1 planned net1 found net1", "b1 net2 found net2"}
	second := []string{"a1 eth0 planned eth0 found eth0", "a1 net1 planned net1 found net1", "a1 net2 found net2", " planned net3"}
	without := []string{"a1 eth0 planned eth0", "a1 net1 planned net1", "a1 net2", " planned net3"}
	if diff := cmp.Diff(append(first[:3:3], without...), names()); diff != "" {
		t.Errorf("with the datapath of one: %s", diff)
	}
	x.Datapath = append(x.Datapath, x.Datapath...)
	if diff := cmp.Diff(append(first[:3:3], second...), names()); diff != "" {
		t.Errorf("with both: %s", diff)
	}
}
