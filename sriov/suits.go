package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/conf"
)

// suits says whether the function can be what is asked for. One that is taken over from a pod
// that is gone has a reservation of before.
func (h *host) suits(f *function, want *spec, before *reservation) error {
	if err := h.sys.isClosed(f.PCI, f.Driver); err != nil {
		return err
	}
	rules := []func(*function, *spec) error{h.isOfKind, h.mayHaveDriver, h.isNamed, h.mayHaveMTU, h.family, h.atHome}
	if before != nil { // it is brought home first; a DEL that was cut short may have left it without its driver
		home := *f
		home.Driver = before.Original.Driver
		f, rules = &home, rules[:len(rules)-1]
	}
	for _, rule := range rules {
		if err := rule(f, want); err != nil {
			return err
		}
	}
	return nil
}

// isOfKind wants a network device, a VF or a whole PF as is asked for.
func (h *host) isOfKind(f *function, want *spec) error {
	class, err := h.sys.read(f.PCI, "class")
	switch isPF := f.PF == ""; {
	case err != nil:
		return fmt.Errorf("%s: %w", f.PCI, err)
	case !strings.HasPrefix(class, "0x02"): // PCI code and ID assignment specification, section 1.3
		return conf.Refuse(fmt.Errorf("key %q: %s is no network device: its PCI class is %s", "deviceID", f.PCI, class))
	case isPF && !want.pfOnly:
		return conf.Refuse(fmt.Errorf("key %q: %s is a whole PF: set \"pfOnly\": true in the network's configuration if pods are to have it", "deviceID", f.PCI))
	case !isPF && want.pfOnly:
		return fmt.Errorf("key %q: %s is a VF, no PF", "pfOnly", f.PCI)
	}
	return nil
}

// mayHaveDriver wants a driver that there is and that does what is asked for.
func (h *host) mayHaveDriver(f *function, want *spec) error {
	kernel := want.kernel(f.Driver)
	switch {
	case f.NumVFs > 0 && !kernel:
		return fmt.Errorf("%s is a PF with %d VFs, which would go with its driver: set sriov_numvfs to 0 first", f.PCI, f.NumVFs)
	case !kernel && cmp.Or(want.driver, f.Driver) != f.Driver && !h.sys.hasDriver(want.driver):
		return fmt.Errorf("key %q: driver %s is not loaded: modprobe %s", "driver", want.driver, want.driver)
	case !kernel && (want.promisc || want.allMulti):
		return fmt.Errorf("keys promiscuous, allMulti: %s has driver %s, and no kernel interface to set", f.PCI, f.Driver)
	case f.Driver == "" && want.driver == "":
		return fmt.Errorf("%s has no driver: bind it to one, or name one with \"driver\"", f.PCI)
	}
	return nil
}

// mayHaveMTU wants an MTU that is not above the PF's.
func (h *host) mayHaveMTU(f *function, want *spec) error {
	if want.mtu == 0 {
		return nil
	}
	pf, err := h.pfLink(f)
	if err == nil && pf != nil && want.mtu > pf.MTU {
		err = fmt.Errorf("key %q: %d, at most the PF's: %s has %d", "mtu", want.mtu, pf.Name, pf.MTU)
	}
	return err
}

// isNamed wants a device that was named beside PFs to be one of theirs, and the
// VF whose number was named: who chooses the device may be another one than who
// names the PFs.
func (h *host) isNamed(f *function, want *spec) error {
	switch {
	case want.device == "":
		return nil
	case want.vf >= 0 && f.VF != want.vf:
		return fmt.Errorf("key %q: %d, but %s is VF %d of PF %s", "vf", want.vf, f.PCI, f.VF, f.PF)
	case len(want.pfs) == 0:
		return nil
	}
	errs := []error{fmt.Errorf("%s belongs to PF %s, and key %q names %s", f.PCI, cmp.Or(f.PF, f.PCI), "pf", strings.Join(want.pfs, ", "))}
	for _, name := range want.pfs {
		pf, err := h.sys.pf(name)
		if err == nil && pf == cmp.Or(f.PF, f.PCI) {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// family refuses a PF any of whose VFs is in use, and a VF of a PF that a pod
// has: a VF's settings are reached by the interface of its PF alone.
func (h *host) family(f *function, want *spec) error {
	if f.PF != "" {
		pf, err := readReservation(f.PF)
		if err == nil && pf != nil && pf.live() != "" {
			err = fmt.Errorf("%s: its PF %w", f.PCI, pf.taken())
		}
		return err
	}
	vfs, err := h.sys.vfs(f.PCI)
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(vfs)) {
		vf, err := h.sys.function(vfs[n])
		if err != nil {
			return err
		}
		r, err := readReservation(vf.PCI)
		if err == nil && r != nil && r.Original.Incarnation == vf.Incarnation {
			err = r.taken()
		}
		if err == nil {
			_, err = h.present(vf, want)
		}
		if err != nil {
			return fmt.Errorf("%s is the PF of a VF that is not free: %w", f.PCI, err)
		}
	}
	return nil
}

// present are the interfaces of a function: all on the node, and not in its use.
func (h *host) present(f *function, want *spec) ([]*netlink.LinkAttrs, error) {
	if !f.hasKernelDriver() {
		return nil, nil
	}
	all, err := h.interfaces(f.PCI)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s %w: its interface is in another network namespace", f.PCI, errTaken)
	}
	if err == nil && !want.allowInUse {
		err = h.unused(f.PCI, all)
	}
	return all, err
}

// atHome wants the function's interfaces on the node and in nobody's use: a VF
// that is neither reserved nor here is in the pod of some other plugin.
func (h *host) atHome(f *function, want *spec) error {
	all, err := h.present(f, want)
	switch {
	case err != nil:
		return err
	case len(all) > 2:
		return fmt.Errorf("%s has %d interfaces, at most 2 are known to be of use", f.PCI, len(all))
	case len(all) == 2 && !want.l2 && want.kernel(f.Driver):
		return fmt.Errorf("%s has two interfaces, %s and %s: such a function goes with \"l2enable\": true only", f.PCI, all[0].Name, all[1].Name)
	}
	return nil
}
