package sriov

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// Check compares the PF's side and the pod's with what Add made.
func (d *Delegate) Check(_ context.Context, a conf.Attachment, raw json.RawMessage) error {
	w, _, err := parse(a)
	if err != nil {
		return err
	}
	s, err := decodeState(raw)
	if err != nil {
		return err
	}
	h, err := d.open()
	if err != nil {
		return err
	}
	defer h.close()
	c, err := readClaim(s.PCI)
	if err != nil {
		return err
	}
	if !c.of(a) {
		return fmt.Errorf("%s is not claimed for this pod any more", s.PCI)
	}
	f, err := h.sys.function(s.PCI)
	if err != nil {
		return err
	}
	if f.Incarnation != c.Found.Incarnation {
		return fmt.Errorf("%s was made anew since the pod got it", s.PCI)
	}
	if !w.kernel(&function{Driver: c.Found.Driver}) {
		driver := w.driver
		if driver == "" {
			driver = c.Found.Driver
		}
		if f.Driver != driver {
			err = fmt.Errorf("%s has %s, was %s", s.PCI, orNone(f.Driver), driver)
		}
	} else {
		err = checkPod(a, w, s.PCI)
	}
	return errors.Join(err, h.checkOnWire(f, w))
}

// checkPod looks for the function's interface in the pod.
func checkPod(a conf.Attachment, w *want, pci string) error {
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
	differ := func(what string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			errs = append(errs, fmt.Errorf("interface %s: %s is %s, was %s", l.Name, what, h, w))
		}
	}
	differ("up", l.RawFlags&unix.IFF_UP != 0, true)
	if w.mac != nil {
		differ("mac", l.HardwareAddr, w.mac)
	}
	if w.mtu != 0 {
		differ("mtu", l.MTU, w.mtu)
	}
	if w.promisc {
		differ("promiscuous", l.RawFlags&unix.IFF_PROMISC != 0, true)
	}
	if w.allMulti {
		differ("allMulti", l.RawFlags&unix.IFF_ALLMULTI != 0, true)
	}
	return errors.Join(errs...)
}

// checkOnWire compares the VF on its PF with what was asked for.
func (h *host) checkOnWire(f *function, w *want) error {
	if f.PF == "" || w.settings == (settings{}) && w.mac == nil {
		return nil
	}
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	now, err := h.links.vf(pf.Index, f.VF)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range changes(now.settings, w.settings) {
		errs = append(errs, fmt.Errorf("VF %d of %s has changed: not as after %q", f.VF, pf.Name, c.says))
	}
	if w.mac != nil && !sameMAC(now.MAC, w.mac) {
		errs = append(errs, fmt.Errorf("VF %d of %s: mac is %s, was %s", f.VF, pf.Name, now.MAC, w.mac))
	}
	return errors.Join(errs...)
}
