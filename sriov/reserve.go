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
	if before != nil && !before.of(a) && before.alive() {
		return nil, before.taken()
	}
	if before != nil && before.Original.Incarnation != f.Incarnation {
		before = nil // of a function that is no more
	}
	if err := h.suits(f, want, before); err != nil {
		return nil, err
	}
	r := &reservation{PCI: pci, Owner: a.Owner, Sandbox: a.Sandbox, IfName: a.IfName, Netns: a.Netns, NetnsID: a.NetnsID, Baseline: want.baseline}
	if before != nil {
		r.Original, r.TakenOver, r.MACOnPF = before.Original, true, before.MACOnPF
	} else if r.Original, err = h.snapshot(f); err != nil {
		return nil, err
	}
	return r, r.write()
}
