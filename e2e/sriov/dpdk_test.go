package sriov

import (
	"testing"
)

// A VF for a user-space driver, and back.
func TestDPDK(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p := newPod(t, "dpdk")
		pci := vf(t, "eth0", 1)
		keys := map[string]any{"deviceID": pci, "driver": "vfio-pci", "vlan": 9, "mac": "02:00:00:00:00:09"}
		for range 3 {
			r := s.mustAdd("sandbox000001", p, keys)
			if i := r.Interfaces[0]; i.PciID != pci || i.Mac != "02:00:00:00:00:09" {
				t.Errorf("interface %+v", i)
			}
			if d := driver(pci); d != "vfio-pci" {
				t.Errorf("driver %s", d)
			}
			if err := s.check("sandbox000001", p, keys); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
		}
	})
}
