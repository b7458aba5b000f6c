package sriov

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
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
	Tuning   *tuning          `json:"tuning,omitempty"` // nil in reservations of former versions
}

// snapshot records the function as it is.
func (h *host) snapshot(f *function) (snapshot, error) {
	s := snapshot{Incarnation: f.Incarnation, Driver: f.Driver}
	var err error
	if s.Override, err = h.sys.overridden(f.PCI); err != nil {
		return s, err
	}
	links, err := h.interfaces(f.PCI)
	if err != nil {
		return s, err
	}
	for _, l := range links {
		tuning, err := tuningOf(l)
		if err != nil {
			return s, err
		}
		s.Links = append(s.Links, linkSnapshot{
			Name: l.Name, AltNames: l.AltNames, MAC: l.HardwareAddr, PermMAC: l.PermHWAddr, MTU: l.MTU, Tuning: tuning,
			Up: l.RawFlags&unix.IFF_UP != 0, Promisc: l.RawFlags&unix.IFF_PROMISC != 0, AllMulti: l.RawFlags&unix.IFF_ALLMULTI != 0,
		})
	}
	var pf *netlink.LinkAttrs
	pf, s.VF, err = h.onPF(f)
	if err == nil && isInfiniBand(pf) && len(s.Links) > 0 {
		s.GUID = guidOf(s.Links[0].MAC)
	}
	return s, err
}

// interfaces are a function's interfaces on the node, by index.
func (h *host) interfaces(pci string) ([]*netlink.LinkAttrs, error) {
	devs, err := h.sys.netdevs(pci)
	if err != nil {
		return nil, err
	}
	var all []*netlink.LinkAttrs
	for _, d := range devs {
		link, err := h.links.byIndex(d.Index)
		if err == nil && link == nil {
			err = errors.New("it is not in this network namespace, though sysfs shows it")
		}
		if err != nil {
			return nil, fmt.Errorf("%s: interface %s: %w", pci, d.Name, err)
		}
		all = append(all, link)
	}
	return all, nil
}

// pfLink is the interface of a VF's PF; a whole PF has none.
func (h *host) pfLink(f *function) (*netlink.LinkAttrs, error) {
	if f.PF == "" {
		return nil, nil
	}
	all, err := h.interfaces(f.PF)
	if err != nil {
		return nil, fmt.Errorf("PF of %s: %w", f.PCI, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("PF %s of %s has no interface in this network namespace: its driver is gone, or it is in a pod", f.PF, f.PCI)
	}
	return all[0], nil
}

// onPF is the interface of a VF's PF, and what the PF says of the VF; a whole PF has neither.
func (h *host) onPF(f *function) (pf *netlink.LinkAttrs, vf *vfInfo, err error) {
	if pf, err = h.pfLink(f); err != nil || pf == nil {
		return nil, nil, err
	}
	if vf, err = h.links.vf(pf.Index, f.VF); err != nil {
		err = fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	return pf, vf, err
}
