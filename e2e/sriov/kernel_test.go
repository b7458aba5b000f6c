package sriov

import (
	"strings"
	"testing"
)

// A VF in a pod is what was asked for, on both sides; after DEL everything is as
// before.
func TestKernel(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p := newPod(t, "kernel")
		keys := map[string]any{"deviceID": vf(t, "eth0", 0), "vlan": 7, "vlanQoS": 3, "mac": "02:00:00:00:00:07", "spoofchk": "off", "trust": "on", "max_tx_rate": 100, "mtu": 1400,
			"ipam": map[string]any{"type": "static", "addresses": []any{map[string]any{"address": "10.1.0.1/24"}, map[string]any{"address": "fd00:1::1/64"}}}}
		r := s.mustAdd("sandbox000001", p, keys)
		i := r.Interfaces[0]
		if i.Name != "net1" || i.Mac != "02:00:00:00:00:07" || i.PciID != keys["deviceID"] || i.Mtu != 1400 || i.Sandbox != p.Path() {
			t.Errorf("interface %+v", i)
		}
		line := vfLine(t, "eth0", 0)
		for _, want := range []string{"link/ether 02:00:00:00:00:07", "vlan 7", "qos 3", "spoof checking off", "trust on", "max_tx_rate 100Mbps"} {
			if !strings.Contains(line, want) {
				t.Errorf("PF says %q, want %q", line, want)
			}
		}
		link := inPod(t, p, "ip", "-d", "addr", "show", "net1")
		for _, want := range []string{"mtu 1400", "02:00:00:00:00:07", "UP", "10.1.0.1/24", "fd00:1::1/64"} {
			if !strings.Contains(link, want) {
				t.Errorf("pod says %q, want %q", link, want)
			}
		}
		if err := s.check("sandbox000001", p, keys); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		s.mustDel("sandbox000001", p.Path(), keys)
		sameWorld(t, before)
		s.mustDel("sandbox000001", p.Path(), keys)
		sameWorld(t, before)
	})
}
