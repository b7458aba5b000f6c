package sriov

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// snapshot is a function as it was before anything was changed.
type snapshot struct {
	Incarnation uint64           `json:"incarnation"` // of the function, see function
	Driver      string           `json:"driver,omitempty"`
	Override    string           `json:"override,omitempty"` // driver_override
	Links       []linkSnapshot   `json:"links,omitempty"`
	VF          *vfInfo          `json:"vf,omitempty"`   // nil for a whole PF
	GUID        net.HardwareAddr `json:"guid,omitempty"` // of an InfiniBand VF
}

// linkSnapshot is an interface of the function.
type linkSnapshot struct {
	Name     string           `json:"name"`
	AltNames []string         `json:"altNames,omitempty"`
	MAC      net.HardwareAddr `json:"mac"`
	PermMAC  net.HardwareAddr `json:"permMAC,omitempty"` // address that the PF gave it when its driver started
	MTU      int              `json:"mtu"`
	Up       bool             `json:"up,omitempty"`
	Promisc  bool             `json:"promisc,omitempty"`
	AllMulti bool             `json:"allMulti,omitempty"`
}

// snapshot records the function as it is.
func (h *host) snapshot(f *function) (snapshot, error) {
	s := snapshot{Incarnation: f.Incarnation, Driver: f.Driver}
	var err error
	if s.Override, err = h.sys.overridden(f.PCI); err != nil {
		return s, err
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return s, err
	}
	for _, d := range devs {
		link, err := h.link(d)
		if err != nil {
			return s, fmt.Errorf("%s: %w", f.PCI, err)
		}
		s.Links = append(s.Links, linkSnapshot{
			Name: link.Name, AltNames: link.AltNames, MAC: link.HardwareAddr, PermMAC: link.PermHWAddr, MTU: link.MTU,
			Up: link.RawFlags&unix.IFF_UP != 0, Promisc: link.RawFlags&unix.IFF_PROMISC != 0, AllMulti: link.RawFlags&unix.IFF_ALLMULTI != 0,
		})
	}
	if f.PF == "" {
		return s, nil
	}
	pf, err := h.pfLink(f)
	if err != nil {
		return s, err
	}
	if s.VF, err = h.links.vf(pf.Index, f.VF); err != nil {
		return s, fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	if isInfiniBand(pf) && len(s.Links) > 0 {
		s.GUID = guidOf(s.Links[0].MAC)
	}
	return s, nil
}
