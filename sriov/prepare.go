package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// host is the node: its sysfs, and its own network namespace.
type host struct {
	sys   sysfs
	links *links
	log   *slog.Logger
}

func openHost(log *slog.Logger) (*host, error) {
	l, err := openLinks("")
	if err != nil {
		return nil, err
	}
	return &host{"/sys", l, log}, nil
}

func (h *host) close() { h.links.close() }

// choose finds the function that the attachment gets and claims it.
func (h *host) choose(ctx context.Context, a conf.Attachment, w *want) (*claim, error) {
	if w.device != "" {
		c, err := h.named(ctx, a, w, w.device)
		if errors.Is(err, errNoDevice) {
			err = conf.Refuse(fmt.Errorf("key %q: %w", "deviceID", err))
		}
		return c, err
	}
	var pfs []string
	for _, name := range w.pfs {
		pf, err := h.sys.pf(name)
		if err != nil {
			return nil, conf.Refuse(fmt.Errorf("key %q: %w", "pf", err))
		}
		pfs = append(pfs, pf)
	}
	if w.pfOnly {
		return h.named(ctx, a, w, pfs[0])
	}
	return h.pick(ctx, a, w, pfs)
}

// named claims the function that is named.
func (h *host) named(ctx context.Context, a conf.Attachment, w *want, pci string) (*claim, error) {
	pf, err := h.sys.link(pci, "physfn")
	if err != nil {
		return nil, err
	}
	release, err := lockPF(ctx, cmp.Or(pf, pci))
	if err != nil {
		return nil, err
	}
	defer release()
	return h.claim(ctx, a, w, pci)
}

// errTaken is a function that another pod has.
var errTaken = errors.New("is in use")

// pick claims a free VF of one of the PFs.
func (h *host) pick(ctx context.Context, a conf.Attachment, w *want, pfs []string) (*claim, error) {
	var errs []error
	for i, pf := range pfs {
		release, err := lockPF(ctx, pf)
		if err != nil {
			return nil, err
		}
		c, err := h.pickOf(ctx, a, w, pf)
		release()
		if c != nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("PF %s: %w", w.pfs[i], err))
	}
	return nil, errors.Join(errs...)
}

func (h *host) pickOf(ctx context.Context, a conf.Attachment, w *want, pf string) (*claim, error) {
	if _, err := h.sys.function(pf); err != nil {
		return nil, err
	}
	vfs, err := h.sys.vfs(pf)
	if err != nil {
		return nil, err
	}
	if len(vfs) == 0 {
		return nil, fmt.Errorf("it has no VFs: write their number to %s", h.sys.device(pf, "sriov_numvfs"))
	}
	var numbers []int
	for n := range vfs {
		if w.vf < 0 || n == w.vf {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return nil, fmt.Errorf("it has no VF %d, there are %d", w.vf, len(vfs))
	}
	slices.Sort(numbers)
	var errs []error
	for _, n := range numbers {
		c, err := h.claim(ctx, a, w, vfs[n])
		if err == nil || ctx.Err() != nil {
			return c, err
		}
		if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) { // of the PF, not of the VF
			errs = append(errs, err)
		}
	}
	return nil, fmt.Errorf("no VF is free: %w", errors.Join(errs...))
}

// claim claims a function for the attachment, if it is free and will do. What
// has no owner any more is taken over, with what was found before that one. The
// caller has the lock of the PF.
func (h *host) claim(ctx context.Context, a conf.Attachment, w *want, pci string) (*claim, error) {
	release, err := lockFunction(ctx, pci)
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := h.sys.function(pci)
	if err != nil {
		return nil, err
	}
	before, err := readClaim(pci)
	if err != nil {
		return nil, err
	}
	if before != nil && !before.of(a) && before.alive() {
		return nil, fmt.Errorf("%s %w by sandbox %s, interface %s", pci, errTaken, before.Sandbox, before.IfName)
	}
	if before != nil && before.Found.Incarnation != f.Incarnation {
		before = nil // of a function that is no more
	}
	if err := h.suits(f.asFound(before), w, before); err != nil {
		return nil, err
	}
	c := &claim{PCI: pci, Owner: a.Owner, Sandbox: a.Sandbox, IfName: a.IfName, Netns: a.Netns, NetnsID: a.NetnsID, Baseline: w.baseline}
	if before != nil {
		c.Found, c.Left, c.Told = before.Found, true, before.Told
	} else if c.Found, err = h.find(f); err != nil {
		return nil, err
	}
	return c, c.write()
}

// asFound is the function as it will be when what is taken over has been brought home: a
// DEL that was cut short may have left it without its driver.
func (f *function) asFound(before *claim) *function {
	if before == nil {
		return f
	}
	home := *f
	home.Driver = before.Found.Driver
	return &home
}

// suits says whether the function can be what is asked for.
func (h *host) suits(f *function, w *want, before *claim) error {
	isPF := f.PF == ""
	class, err := h.sys.read(f.PCI, "class")
	if err != nil {
		return fmt.Errorf("%s: %w", f.PCI, err)
	}
	switch {
	case !strings.HasPrefix(class, "0x02"): // PCI code and ID assignment specification, section 1.3
		return conf.Refuse(fmt.Errorf("key %q: %s is no network device: its PCI class is %s", "deviceID", f.PCI, class))
	case isPF && !w.pfOnly:
		return conf.Refuse(fmt.Errorf("key %q: %s is a whole PF: set \"pfOnly\": true in the network's configuration if pods are to have it", "deviceID", f.PCI))
	case isPF && f.NumVFs > 0 && !w.kernel(f):
		return fmt.Errorf("%s is a PF with %d VFs, which would go with its driver: set sriov_numvfs to 0 first", f.PCI, f.NumVFs)
	case !isPF && w.pfOnly:
		return fmt.Errorf("key %q: %s is a VF, no PF", "pfOnly", f.PCI)
	case w.driver != "" && w.driver != driverKernel && w.driver != f.Driver && !h.sys.hasDriver(w.driver):
		return fmt.Errorf("key %q: driver %s is not loaded: modprobe %s", "driver", w.driver, w.driver)
	case !w.kernel(f) && (w.promisc || w.allMulti):
		return fmt.Errorf("keys promiscuous, allMulti: %s has driver %s, and no kernel interface to set", f.PCI, f.Driver)
	case f.Driver == "" && w.driver == "":
		return fmt.Errorf("%s has no driver: bind it to one, or name one with \"driver\"", f.PCI)
	}
	if err := h.isNamed(f, w); err != nil {
		return err
	}
	if w.mtu != 0 && !isPF {
		if pf, err := h.pfLink(f); err != nil {
			return err
		} else if w.mtu > pf.MTU {
			return fmt.Errorf("key %q: %d, at most the PF's: %s has %d", "mtu", w.mtu, pf.Name, pf.MTU)
		}
	}
	if err := h.family(f, w); err != nil {
		return err
	}
	return h.atHome(f, w, before)
}

// isNamed wants a device that was named beside PFs to be one of theirs, and the
// VF whose number was named: who chooses the device may be another one than who
// names the PFs.
func (h *host) isNamed(f *function, w *want) error {
	if w.device == "" {
		return nil
	}
	if w.vf >= 0 && f.VF != w.vf {
		return fmt.Errorf("key %q: %d, but %s is VF %d of PF %s", "vf", w.vf, f.PCI, f.VF, f.PF)
	}
	errs := []error{nil}
	for _, name := range w.pfs {
		pf, err := h.sys.pf(name)
		if err == nil && pf == cmp.Or(f.PF, f.PCI) {
			return nil
		}
		errs = append(errs, err)
	}
	if len(w.pfs) == 0 {
		return nil
	}
	errs[0] = fmt.Errorf("%s belongs to PF %s, and key %q names %s", f.PCI, cmp.Or(f.PF, f.PCI), "pf", strings.Join(w.pfs, ", "))
	return errors.Join(errs...)
}

// family refuses a PF any of whose VFs is in use, and a VF of a PF that a pod
// has: a VF's settings are reached by the interface of its PF alone.
func (h *host) family(f *function, w *want) error {
	if f.PF != "" {
		pf, err := readClaim(f.PF)
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
		c, err := readClaim(vf.PCI)
		if err == nil && c != nil && c.Found.Incarnation == vf.Incarnation {
			err = fmt.Errorf("%s %w by sandbox %s, interface %s", vf.PCI, errTaken, c.Sandbox, c.IfName)
		}
		if err == nil {
			_, err = h.present(vf, w)
		}
		if err != nil {
			return fmt.Errorf("%s is the PF of a VF that is not free: %w", f.PCI, err)
		}
	}
	return nil
}

// present are the interfaces of a function: all on the node, and not in its use.
func (h *host) present(f *function, w *want) ([]netdev, error) {
	if f.Driver == "" || slices.Contains(userDrivers, f.Driver) {
		return nil, nil
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err == nil && len(devs) == 0 {
		err = fmt.Errorf("%s %w: its interface is in another network namespace", f.PCI, errTaken)
	}
	if err == nil && !w.allowInUse {
		err = h.unused(f.PCI, devs)
	}
	return devs, err
}

// atHome wants the function's interfaces on the node and in nobody's use: a VF
// that is neither claimed nor here is in the pod of some other plugin.
func (h *host) atHome(f *function, w *want, before *claim) error {
	if before != nil {
		return nil // what is taken over is brought home first
	}
	devs, err := h.present(f, w)
	switch {
	case err != nil:
		return err
	case len(devs) > 2:
		return fmt.Errorf("%s has %d interfaces, at most 2 are known to be of use", f.PCI, len(devs))
	case len(devs) == 2 && !w.l2 && w.kernel(f):
		return fmt.Errorf("%s has two interfaces, %s and %s: such a function goes with \"l2enable\": true only", f.PCI, devs[0].Name, devs[1].Name)
	}
	return nil
}

// kernel reports whether the function is to have a kernel interface.
func (w *want) kernel(f *function) bool {
	if w.driver == "" {
		return !slices.Contains(userDrivers, f.Driver)
	}
	return w.driver == driverKernel
}

// find records the function as it is.
func (h *host) find(f *function) (found, error) {
	r := found{Incarnation: f.Incarnation, Driver: f.Driver}
	var err error
	if r.Override, err = h.sys.overridden(f.PCI); err != nil {
		return r, err
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return r, err
	}
	for _, d := range devs {
		link, err := h.links.byIndex(d.Index)
		if err != nil {
			return r, fmt.Errorf("%s: %w", d.Name, err)
		}
		if link == nil {
			return r, fmt.Errorf("%s: its interface %s is not in this network namespace, though sysfs shows it", f.PCI, d.Name)
		}
		r.Links = append(r.Links, foundLink{
			Name: link.Name, AltNames: link.AltNames, MAC: link.HardwareAddr, PermMAC: link.PermHWAddr, MTU: link.MTU,
			Up: link.RawFlags&unix.IFF_UP != 0, Promisc: link.RawFlags&unix.IFF_PROMISC != 0, AllMulti: link.RawFlags&unix.IFF_ALLMULTI != 0,
		})
	}
	if f.PF == "" {
		return r, nil
	}
	pf, err := h.pfLink(f)
	if err != nil {
		return r, err
	}
	if r.VF, err = h.links.vf(pf.Index, f.VF); err != nil {
		return r, fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	if isInfiniBand(pf) && len(r.Links) > 0 {
		r.GUID = guidOf(r.Links[0].MAC)
	}
	return r, nil
}
