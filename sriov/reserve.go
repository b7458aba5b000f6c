package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// choose finds the function that the attachment gets and reserves it: the one that is named,
// or a free VF of one of the PFs.
func (h *host) choose(ctx context.Context, a *delegates.Attachment, want *spec) (*reservation, error) {
	if want.device != "" {
		r, err := h.named(ctx, a, want, want.device)
		if errors.Is(err, errNoDevice) {
			err = conf.Refuse(fmt.Errorf("key %q: %w", "deviceID", err))
		}
		return r, err
	}
	var pfs []string
	for _, name := range want.pfs {
		pf, err := h.sys.pf(name)
		if err != nil {
			return nil, conf.Refuse(fmt.Errorf("key %q: %w", "pf", err))
		}
		pfs = append(pfs, pf)
	}
	if want.pfOnly {
		return h.named(ctx, a, want, pfs[0])
	}
	var errs []error
	for i, pf := range pfs {
		r, err := h.pickOf(ctx, a, want, pf)
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		errs = append(errs, fmt.Errorf("PF %s: %w", want.pfs[i], err))
	}
	return nil, errors.Join(errs...)
}

// named reserves the function that is named.
func (h *host) named(ctx context.Context, a *delegates.Attachment, want *spec, pci string) (*reservation, error) {
	pf, err := h.sys.link(pci, "physfn")
	if err != nil {
		return nil, err
	}
	release, err := lockPF(ctx, cmp.Or(pf, pci))
	if err != nil {
		return nil, err
	}
	defer release()
	return h.reserve(ctx, a, want, pci)
}

// errTaken is a function that another pod has.
var errTaken = errors.New("is in use")

func (r *reservation) taken() error {
	return fmt.Errorf("%s %w by sandbox %s, interface %s", r.PCI, errTaken, r.Sandbox, r.IfName)
}

// pickOf reserves a free VF of a PF.
func (h *host) pickOf(ctx context.Context, a *delegates.Attachment, want *spec, pf string) (*reservation, error) {
	release, err := lockPF(ctx, pf)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := h.sys.function(pf); err != nil {
		return nil, err
	}
	vfs, err := h.sys.someVFs(pf)
	if err != nil {
		return nil, err
	}
	numbers := slices.DeleteFunc(slices.Sorted(maps.Keys(vfs)), func(n int) bool { return want.vf >= 0 && n != want.vf })
	if len(numbers) == 0 {
		return nil, fmt.Errorf("it has no VF %d, there are %d", want.vf, len(vfs))
	}
	var errs []error
	for _, n := range numbers {
		r, err := h.reserve(ctx, a, want, vfs[n])
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		if !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) { // of the PF, not of the VF
			errs = append(errs, err)
		}
	}
	return nil, fmt.Errorf("no VF is free: %w", errors.Join(errs...))
}

// reserve reserves a function for the attachment, if it is free and will do. One whose
// pod is gone is taken over, with the snapshot from before that pod. The caller has the
// lock of the PF.
func (h *host) reserve(ctx context.Context, a *delegates.Attachment, want *spec, pci string) (*reservation, error) {
	release, err := lockFunction(ctx, pci)
	if err != nil {
		return nil, err
	}
	defer release()
	f, err := h.sys.function(pci)
	if err != nil {
		return nil, err
	}
	before, err := readReservation(pci)
	if err != nil {
		return nil, err
	}
	if before != nil && !before.of(a) && before.live() != "" {
		return nil, before.taken()
	}
	if before != nil && before.Original.Incarnation != f.Incarnation {
		before = nil // of a function that is no more
	}
	if err := h.suits(f, want, before); err != nil {
		return nil, err
	}
	if err := h.haveOneMAC(ctx, f, want); err != nil {
		return nil, err
	}
	r := &reservation{PCI: pci, Owner: a.Owner, Sandbox: a.Sandbox, IfName: a.IfName, Netns: a.Netns, NetnsID: a.NetnsID, Baseline: want.baseline, MAC: want.mac}
	if before != nil {
		r.Original, r.TakenOver, r.MACOnPF = before.Original, true, before.MACOnPF
	} else if r.Original, err = h.snapshot(f); err != nil {
		return nil, err
	}
	return r, r.write()
}

// haveOneMAC wants no other VF of the PF to have the address that the pod asks for: the NIC would
// deliver the frames of both to one of them. A VF that has it from a pod that is gone is brought
// home. The caller has the lock of the PF, so no other pod asks for it meanwhile.
func (h *host) haveOneMAC(ctx context.Context, f *function, want *spec) error {
	if want.mac == nil || f.PF == "" {
		return nil
	}
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	table, err := h.links.vfs(pf.Index)
	if err != nil {
		return fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	vfs, err := h.sys.vfs(f.PF)
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(vfs)) {
		if n == f.VF {
			continue
		}
		r, err := readReservation(vfs[n])
		if err != nil {
			return err
		}
		onPF := table[n] != nil && sameMAC(table[n].MAC, want.mac)
		switch {
		case r == nil && onPF:
			return fmt.Errorf("key %q: %s: VF %d of %s has this address on its PF, from no pod: take it away there, or let the pod have that VF", "mac", want.mac, n, pf.Name)
		case r == nil, !onPF && !sameMAC(r.MAC, want.mac):
			continue
		case r.live() != "":
			return delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("key %q: %s: VF %d of %s has this address: %w", "mac", want.mac, n, pf.Name, r.taken()))
		}
		if err := h.giveBack(ctx, r.PCI, &delegates.Attachment{Owner: r.Owner, Sandbox: r.Sandbox, IfName: r.IfName}); err != nil {
			return fmt.Errorf("key %q: %s: VF %d of %s has this address from a pod that is gone: %w", "mac", want.mac, n, pf.Name, err)
		}
	}
	return nil
}
