package sriov

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// strayed reports whether an interface has a name only because its owner was in
// a pod when the interface's driver started: its function is reserved, and it had
// another name before, which it will get.
func (h *host) strayed(l *netlink.LinkAttrs, name string) bool {
	if l.ParentDevBus != "pci" || l.Name != name {
		return false
	}
	r, err := readReservation(l.ParentDev)
	return err == nil && r != nil && !slices.ContainsFunc(r.Original.Links, func(was linkSnapshot) bool { return was.Name == name })
}

// freeName is the name that an interface had, or one like it when somebody else
// has it by now.
func (h *host) freeName(name string, index int) (string, error) {
	for n := range 1000 {
		try := name
		if n > 0 {
			try = fmt.Sprintf("%.11s_%d", name, n)
		}
		other, err := h.links.byName(try)
		if err != nil {
			return "", fmt.Errorf("look for a free name like %s: %w", name, err)
		}
		if other != nil && n == 0 && h.strayed(other, name) {
			away, err := h.freeName(fmt.Sprintf("%.10s_", name), other.Index)
			if err == nil && h.links.rename(other.Index, away) == nil {
				other = nil
			}
		}
		if other == nil || other.Index == index {
			if n > 0 {
				h.log.Warn("the name of an interface that comes home is taken", "name", name, "gets", try)
			}
			return try, nil
		}
	}
	return "", fmt.Errorf("no name like %s is free", name)
}

// atRest makes the function's interfaces, at home by now, what they were, but
// for being up.
func (h *host) atRest(ctx context.Context, f *function, r *reservation, retuned bool) ([]*netlink.LinkAttrs, error) {
	if len(r.Original.Links) == 0 {
		return nil, nil
	}
	all, err := h.interfaces(f.PCI)
	if err != nil {
		return nil, err
	}
	if len(all) < len(r.Original.Links) {
		return nil, fmt.Errorf("%s has %d of its %d interfaces: write its address to %s/unbind and then to %s/bind", f.PCI, len(all), len(r.Original.Links),
			"/sys/bus/pci/drivers/"+r.Original.Driver, "/sys/bus/pci/drivers/"+r.Original.Driver)
	}
	all = all[:len(r.Original.Links)]
	for i, was := range r.Original.Links {
		if err := h.rest(ctx, f, all[i], was, retuned); err != nil {
			return nil, fmt.Errorf("%s: %w", f.PCI, err)
		}
	}
	return all, nil
}

func (h *host) rest(ctx context.Context, f *function, l *netlink.LinkAttrs, was linkSnapshot, retuned bool) error {
	flags, mask := receiveFlags(was.Promisc, was.AllMulti), receiveFlags(true, true)
	if !was.Up {
		mask |= unix.IFF_UP
	}
	if !retuned {
		left, err := h.retune(ctx, l, was.Tuning)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			h.log.Warn("an interface that comes home keeps settings of its pod", "interface", l.Name, "settings", strings.Join(left, ", "))
		}
	}
	if l.RawFlags&mask != flags {
		if err := do(ctx, func() error { return h.links.set(l.Index, flags, mask) }, "set flags of %s", l.Name); err != nil {
			return err
		}
	}
	if err := h.setMTU(ctx, l, was.MTU); err != nil {
		return err
	}
	if !sameMAC(l.HardwareAddr, was.MAC) && len(was.MAC) == 6 {
		if err := do(ctx, func() error { return explain(h.restoreMAC(f, l.Index, was.MAC)) }, "set mac %s of %s", was.MAC, l.Name); err != nil {
			return err
		}
	}
	if err := h.restoreName(ctx, l, was.Name); err != nil {
		return err
	}
	return h.restoreAltNames(ctx, l, was.AltNames)
}

// receiveFlags are an interface's flags that say what it receives.
func receiveFlags(promisc, allMulti bool) (flags uint32) {
	if promisc {
		flags |= unix.IFF_PROMISC
	}
	if allMulti {
		flags |= unix.IFF_ALLMULTI
	}
	return flags
}

// restoreMAC gives an interface its address back. A PF that has set the VF's address
// lets it have no other: the PF has to forget that first.
func (h *host) restoreMAC(f *function, index int, mac net.HardwareAddr) error {
	err := h.links.setMAC(index, mac)
	if err == nil || f.PF == "" {
		return err
	}
	var errPF error
	for _, onPF := range []net.HardwareAddr{zeroMAC, mac} { // not every driver can forget
		if errPF = h.setMACOnPF(f, onPF); errPF != nil {
			continue
		}
		if err = h.links.setMAC(index, mac); err == nil {
			return nil
		}
	}
	return errors.Join(err, errPF)
}

// restoreName gives an interface the name that it had, or one like it.
func (h *host) restoreName(ctx context.Context, l *netlink.LinkAttrs, was string) error {
	if l.Name == was {
		return nil
	}
	name, err := h.freeName(was, l.Index)
	if err != nil || name == l.Name {
		return err
	}
	rename := func() error {
		if slices.Contains(l.AltNames, name) { // a rename to one's own alternative name is refused
			if err := h.links.altNames(unix.RTM_DELLINKPROP, l.Index, []string{name}); err != nil {
				return err
			}
		}
		return h.links.rename(l.Index, name)
	}
	if err := do(ctx, rename, "rename %s to %s", l.Name, name); err != nil {
		return err
	}
	l.Name = name
	return nil
}

// restoreAltNames gives an interface the alternative names that it had, those that nobody else
// has, and takes all others.
func (h *host) restoreAltNames(ctx context.Context, l *netlink.LinkAttrs, was []string) error {
	foreign := slices.DeleteFunc(slices.Clone(l.AltNames), func(name string) bool { return slices.Contains(was, name) })
	if len(foreign) > 0 {
		drop := func() error { return h.links.altNames(unix.RTM_DELLINKPROP, l.Index, foreign) }
		if err := do(ctx, drop, "drop alternative names of %s", l.Name); err != nil {
			return err
		}
	}
	for _, name := range was {
		if slices.Contains(l.AltNames, name) || l.Name == name {
			continue
		}
		add := func() error {
			err := h.links.altNames(unix.RTM_NEWLINKPROP, l.Index, []string{name})
			if errors.Is(err, unix.EEXIST) {
				h.log.Warn("an alternative name of an interface that comes home is taken", "interface", l.Name, "name", name)
				return nil
			}
			return err
		}
		if err := do(ctx, add, "add alternative name %s of %s", name, l.Name); err != nil {
			return err
		}
	}
	return nil
}
