package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// asBefore is the function as it will be when it has been brought home from the pod that
// it is taken over from: a DEL that was cut short may have left it without its driver.
func (f *function) asBefore(before *reservation) *function {
	if before == nil {
		return f
	}
	home := *f
	home.Driver = before.Original.Driver
	return &home
}

// suits says whether the function can be what is asked for.
func (h *host) suits(f *function, want *spec, before *reservation) error {
	isPF := f.PF == ""
	class, err := h.sys.read(f.PCI, "class")
	if err != nil {
		return fmt.Errorf("%s: %w", f.PCI, err)
	}
	switch {
	case !strings.HasPrefix(class, "0x02"): // PCI code and ID assignment specification, section 1.3
		return conf.Refuse(fmt.Errorf("key %q: %s is no network device: its PCI class is %s", "deviceID", f.PCI, class))
	case isPF && !want.pfOnly:
		return conf.Refuse(fmt.Errorf("key %q: %s is a whole PF: set \"pfOnly\": true in the network's configuration if pods are to have it", "deviceID", f.PCI))
	case isPF && f.NumVFs > 0 && !want.kernel(f.Driver):
		return fmt.Errorf("%s is a PF with %d VFs, which would go with its driver: set sriov_numvfs to 0 first", f.PCI, f.NumVFs)
	case !isPF && want.pfOnly:
		return fmt.Errorf("key %q: %s is a VF, no PF", "pfOnly", f.PCI)
	case want.driver != "" && want.driver != driverKernel && want.driver != f.Driver && !h.sys.hasDriver(want.driver):
		return fmt.Errorf("key %q: driver %s is not loaded: modprobe %s", "driver", want.driver, want.driver)
	case !want.kernel(f.Driver) && (want.promisc || want.allMulti):
		return fmt.Errorf("keys promiscuous, allMulti: %s has driver %s, and no kernel interface to set", f.PCI, f.Driver)
	case f.Driver == "" && want.driver == "":
		return fmt.Errorf("%s has no driver: bind it to one, or name one with \"driver\"", f.PCI)
	}
	if err := h.isNamed(f, want); err != nil {
		return err
	}
	if want.mtu != 0 && !isPF {
		if pf, err := h.pfLink(f); err != nil {
			return err
		} else if want.mtu > pf.MTU {
			return fmt.Errorf("key %q: %d, at most the PF's: %s has %d", "mtu", want.mtu, pf.Name, pf.MTU)
		}
	}
	if err := h.family(f, want); err != nil {
		return err
	}
	return h.atHome(f, want, before)
}

// isNamed wants a device that was named beside PFs to be one of theirs, and the
// VF whose number was named: who chooses the device may be another one than who
// names the PFs.
func (h *host) isNamed(f *function, want *spec) error {
	if want.device == "" {
		return nil
	}
	if want.vf >= 0 && f.VF != want.vf {
		return fmt.Errorf("key %q: %d, but %s is VF %d of PF %s", "vf", want.vf, f.PCI, f.VF, f.PF)
	}
	errs := []error{nil}
	for _, name := range want.pfs {
		pf, err := h.sys.pf(name)
		if err == nil && pf == cmp.Or(f.PF, f.PCI) {
			return nil
		}
		errs = append(errs, err)
	}
	if len(want.pfs) == 0 {
		return nil
	}
	errs[0] = fmt.Errorf("%s belongs to PF %s, and key %q names %s", f.PCI, cmp.Or(f.PF, f.PCI), "pf", strings.Join(want.pfs, ", "))
	return errors.Join(errs...)
}

// family refuses a PF any of whose VFs is in use, and a VF of a PF that a pod
// has: a VF's settings are reached by the interface of its PF alone.
func (h *host) family(f *function, want *spec) error {
	if f.PF != "" {
		pf, err := readReservation(f.PF)
		if err == nil && pf != nil && pf.alive() {
			err = fmt.Errorf("%s: its PF %s %w by sandbox %s, interface %s", f.PCI, f.PF, errTaken, pf.Sandbox, pf.IfName)
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
			err = fmt.Errorf("%s %w by sandbox %s, interface %s", vf.PCI, errTaken, r.Sandbox, r.IfName)
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
func (h *host) present(f *function, want *spec) ([]netdev, error) {
	if f.Driver == "" || slices.Contains(userDrivers, f.Driver) {
		return nil, nil
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err == nil && len(devs) == 0 {
		err = fmt.Errorf("%s %w: its interface is in another network namespace", f.PCI, errTaken)
	}
	if err == nil && !want.allowInUse {
		err = h.unused(f.PCI, devs)
	}
	return devs, err
}

// atHome wants the function's interfaces on the node and in nobody's use: a VF
// that is neither reserved nor here is in the pod of some other plugin.
func (h *host) atHome(f *function, want *spec, before *reservation) error {
	if before != nil {
		return nil // what is taken over is brought home first
	}
	devs, err := h.present(f, want)
	switch {
	case err != nil:
		return err
	case len(devs) > 2:
		return fmt.Errorf("%s has %d interfaces, at most 2 are known to be of use", f.PCI, len(devs))
	case len(devs) == 2 && !want.l2 && want.kernel(f.Driver):
		return fmt.Errorf("%s has two interfaces, %s and %s: such a function goes with \"l2enable\": true only", f.PCI, devs[0].Name, devs[1].Name)
	}
	return nil
}
