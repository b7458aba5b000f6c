package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// Check compares the PF's side and the pod's with what Attach made.
func (n *network) Check(_ context.Context, a *delegates.Attachment) error {
	h, err := n.delegate.open()
	if err != nil {
		return err
	}
	defer h.close()
	s, err := decodeState(a.State)
	if err != nil {
		return err
	}
	want, r, err := reservationOf(a, s.PCI)
	if err != nil {
		return err
	}
	f, err := h.sys.function(s.PCI)
	if err != nil {
		return err
	}
	if f.Incarnation != r.Original.Incarnation {
		return fmt.Errorf("%s was made anew since the pod got it", s.PCI)
	}
	if want.kernel(r.Original.Driver) {
		err = checkPod(a, want, r)
	} else if driver := cmp.Or(want.driver, r.Original.Driver); f.Driver != driver {
		err = fmt.Errorf("%s has %s, was %s", s.PCI, cmp.Or(f.Driver, "no driver"), driver)
	}
	return errors.Join(err, h.checkOnWire(f, want))
}

// checkPod looks for the function's interface in the pod, and what it receives. The engine
// compares MAC, MTU and addresses with the result.
func checkPod(a *delegates.Attachment, want *spec, r *reservation) error {
	pci := r.PCI
	inPod, err := openLinks(a.Netns)
	if err != nil {
		return err
	}
	defer inPod.close()
	all, err := inPod.byParent(pci)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s has no interface in the pod any more", pci)
	}
	at := slices.IndexFunc(all, func(l *netlink.LinkAttrs) bool { return l.Name == a.IfName })
	if at < 0 {
		return fmt.Errorf("the interface of %s is called %s, was %s", pci, all[0].Name, a.IfName)
	}
	l := all[at]
	var errs []error
	for _, flag := range []struct {
		name  string
		asked bool
		bit   uint32
	}{{"up", true, unix.IFF_UP}, {"promiscuous", want.promisc, unix.IFF_PROMISC}, {"allMulti", want.allMulti, unix.IFF_ALLMULTI}} {
		if flag.asked && l.RawFlags&flag.bit == 0 {
			errs = append(errs, fmt.Errorf("interface %s: %s is false, was true", l.Name, flag.name))
		}
	}
	if len(r.Original.Links) > 0 && r.Original.Links[0].Tuning != nil {
		was := r.Original.Links[0].Tuning
		lost := was.Flags ^ l.RawFlags
		for name, bit := range map[string]uint32{"ARP": unix.IFF_NOARP, "multicast": unix.IFF_MULTICAST} {
			if lost&bit != 0 {
				errs = append(errs, fmt.Errorf("interface %s: %s is not as it was: flags %#x", l.Name, name, l.RawFlags))
			}
		}
		if l.Xdp != nil && l.Xdp.Attached && was.Driver[xdpProgram] == nil {
			errs = append(errs, fmt.Errorf("interface %s: XDP program %d has its packets, there was none", l.Name, l.Xdp.ProgId))
		}
	}
	return errors.Join(errs...)
}

// checkOnWire compares the VF on its PF with what was asked for.
func (h *host) checkOnWire(f *function, want *spec) error {
	if want.settings == (settings{}) && want.mac == nil {
		return nil
	}
	pf, now, err := h.onPF(f)
	if err != nil || pf == nil {
		return err
	}
	var errs []error
	for _, c := range changes(now.settings, want.settings) {
		errs = append(errs, fmt.Errorf("VF %d of %s has changed: not as after %q", f.VF, pf.Name, c.says))
	}
	if want.mac != nil && !sameMAC(now.MAC, want.mac) {
		errs = append(errs, fmt.Errorf("VF %d of %s: mac is %s, was %s", f.VF, pf.Name, now.MAC, want.mac))
	}
	return errors.Join(errs...)
}
