package sriov

import (
	"maps"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

// refused wants an error that says every word.
func refused(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	has(t, "error", err.Error(), words...)
}

// What the NIC or the node cannot do fails ADD with what is wrong, and nothing is
// changed.
func TestRefused(t *testing.T) {
	const device = "deviceID"
	cases := []struct {
		name string
		keys map[string]any
		says []string
	}{
		// The driver of the NIC does not know these; the settings before them are undone.
		{"link_state", map[string]any{"vlan": 7, "trust": "on", "link_state": "enable"}, []string{"link_state", "VF 4 of eth0", "driver refuses"}},
		{"min_tx_rate", map[string]any{"vlan": 7, "trust": "on", "min_tx_rate": 10, "max_tx_rate": 100}, []string{"min_tx_rate", "VF 4 of eth0", "driver refuses"}},
		{"vlanProto", map[string]any{"trust": "on", "vlan": 7, "vlanProto": "802.1ad"}, []string{"802.1ad", "VF 4 of eth0", "driver refuses"}},
		{"a setting, with a user-space driver", map[string]any{"driver": "vfio-pci", "mac": "02:00:00:00:00:44", "link_state": "disable"}, []string{"link_state", "driver refuses"}},
		{"a max_tx_rate above the wire's", map[string]any{"max_tx_rate": 100000}, []string{"max_tx_rate", "driver refuses"}},

		{"no such device", map[string]any{device: "0000:07:10.1"}, []string{"0000:07:10.1", "no such PCI device"}},
		{"no NIC", map[string]any{device: "0000:00:01.0"}, []string{"0000:00:01.0", "no network"}},
		{"no NIC, user-space driver", map[string]any{device: "0000:00:01.0", "driver": "vfio-pci"}, []string{"0000:00:01.0", "no network"}},
		{"a whole PF", map[string]any{device: "0000:01:00.0"}, []string{"0000:01:00.0", "whole PF", "pfOnly"}},
		{"a whole PF with settings of a VF", map[string]any{device: "0000:01:00.0", "pfOnly": true, "vlan": 7}, []string{"pfOnly", "whole PF", "vlan"}},
		{"a PF whose VFs would go", map[string]any{device: "0000:01:00.0", "pfOnly": true, "driver": "vfio-pci"}, []string{"7 VFs", "sriov_numvfs"}},
		{"a VF of another PF", map[string]any{"pf": "eth1"}, []string{"0000:01:00.0", "eth1"}},
		{"another VF of the PF", map[string]any{"pf": "eth0", "vf": 3}, []string{"vf", "3", "VF 4"}},
		{"a VF as a whole PF", map[string]any{"pfOnly": true}, []string{"pfOnly", "is a VF"}},
		{"no such PF", map[string]any{device: "", "pf": "eth77"}, []string{"eth77"}},
		{"no PF", map[string]any{device: "", "pf": "lo"}, []string{"lo", "PCI"}},
		{"no such VF", map[string]any{device: "", "pf": "eth0", "vf": 7}, []string{"VF 7", "7"}},
		{"mtu above the PF's", map[string]any{"mtu": 1501}, []string{"mtu", "1501", "1500", "eth0"}},
		{"driver not loaded", map[string]any{"driver": "igb_uio"}, []string{"driver", "igb_uio", "not loaded"}},
	}
	both(t, func(t *testing.T, s *site) {
		p := newPod(t, "refused")
		before, inside := world(t), inPod(t, p, "ip", "-d", "link")
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				s := newSite(t, s.as)
				keys := map[string]any{device: vf(t, "eth0", 4)}
				maps.Copy(keys, c.keys)
				if keys[device] == "" {
					delete(keys, device)
				}
				_, err := s.add("sandbox000001", p, keys)
				refused(t, err, c.says...)
				sameWorld(t, before)
				s.mustDel("sandbox000001", p.Path(), keys) // as the runtime does
				if now := inPod(t, p, "ip", "-d", "link"); now != inside {
					t.Errorf("in the pod now %s, before %s", now, inside)
				}
			})
		}
		sameWorld(t, before)
	})
}

// What an interface in the pod, another pod, or another plugin has is not to be
// had.
func TestTaken(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p, other := newPod(t, "taken"), newPod(t, "other")
		pci := vf(t, "eth0", 4)
		keys := map[string]any{"deviceID": pci, "vlan": 7, "mac": "02:00:00:00:00:44"}
		for _, name := range []string{"name", "altname"} {
			if name == "name" {
				inPod(t, p, "ip", "link", "add", "net1", "type", "bridge")
			} else {
				inPod(t, p, "ip", "link", "set", "net1", "name", "other")
				inPod(t, p, "ip", "link", "property", "add", "dev", "other", "altname", "net1")
			}
			inside := inPod(t, p, "ip", "-d", "link")
			_, err := s.add("sandbox000001", p, keys)
			refused(t, err, "net1", "already")
			sameWorld(t, before)
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
			if now := inPod(t, p, "ip", "-d", "link"); now != inside {
				t.Errorf("in the pod now %s, before %s", now, inside)
			}
		}

		s.mustAdd("sandbox000002", other, keys)
		line := vfLine(t, "eth0", 4)
		_, err := s.add("sandbox000003", p, map[string]any{"deviceID": pci, "vlan": 8})
		refused(t, err, pci, "in use", "sandbox000002")
		s.mustDel("sandbox000003", p.Path(), keys)
		if err := s.check("sandbox000002", other, keys); err != nil || vfLine(t, "eth0", 4) != line {
			t.Errorf("the pod that has it: %v, %s", err, vfLine(t, "eth0", 4))
		}
		s.mustDel("sandbox000002", other.Path(), keys)
		sameWorld(t, before)

		byHand(t, pci, other, func() {
			_, err := s.add("sandbox000001", p, keys)
			refused(t, err, pci, "in use", "another network namespace")
		})
		sameWorld(t, before)
	})
}

// byHand has a VF's interface in a pod while something is done.
func byHand(t testing.TB, pci string, p *node.Pod, do func()) {
	t.Helper()
	name := netdev(pci)
	run(t, "ip", "link", "set", name, "netns", p.Name())
	do()
	inPod(t, p, "ip", "link", "set", name, "netns", "1")
}
