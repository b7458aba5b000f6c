package sriov

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// strayed reports whether an interface has a name only because its owner was in
// a pod when the interface's driver started: its function is claimed, and it was
// found with another name, which it will get.
func (h *host) strayed(l *netlink.LinkAttrs, name string) bool {
	if l.ParentDevBus != "pci" || l.Name != name {
		return false
	}
	c, err := readClaim(l.ParentDev)
	return err == nil && c != nil && !slices.ContainsFunc(c.Found.Links, func(was foundLink) bool { return was.Name == name })
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
func (h *host) atRest(ctx context.Context, step stepper, f *function, c *claim) ([]*netlink.LinkAttrs, error) {
	if len(c.Found.Links) == 0 {
		return nil, nil
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return nil, err
	}
	if len(devs) < len(c.Found.Links) {
		return nil, fmt.Errorf("%s has %d of its %d interfaces: write its address to %s/unbind and then to %s/bind", f.PCI, len(devs), len(c.Found.Links),
			"/sys/bus/pci/drivers/"+c.Found.Driver, "/sys/bus/pci/drivers/"+c.Found.Driver)
	}
	var all []*netlink.LinkAttrs
	for i, was := range c.Found.Links {
		link, err := h.links.byIndex(devs[i].Index)
		if err == nil && link == nil {
			err = errors.New("it is gone")
		}
		if err == nil {
			err = h.rest(ctx, step, f, link, was)
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s of %s: %w", devs[i].Name, f.PCI, err)
		}
		all = append(all, link)
	}
	return all, nil
}

func (h *host) rest(ctx context.Context, step stepper, f *function, l *netlink.LinkAttrs, was foundLink) error {
	const flags = unix.IFF_PROMISC | unix.IFF_ALLMULTI
	wanted := uint32(0)
	if was.Promisc {
		wanted |= unix.IFF_PROMISC
	}
	if was.AllMulti {
		wanted |= unix.IFF_ALLMULTI
	}
	if l.RawFlags&flags != wanted || !was.Up && l.RawFlags&unix.IFF_UP != 0 {
		if err := step(ctx, "set flags of %s", l.Name); err != nil {
			return err
		}
		change, up := uint32(flags), uint32(0)
		if !was.Up {
			change |= unix.IFF_UP
		} else {
			up = l.RawFlags & unix.IFF_UP
		}
		if err := h.links.set(l.Index, wanted|up, change|up); err != nil {
			return fmt.Errorf("set flags: %w", err)
		}
		l.RawFlags &^= change
	}
	if l.MTU != was.MTU {
		if err := step(ctx, "set mtu %d of %s", was.MTU, l.Name); err != nil {
			return err
		}
		if err := h.links.setMTU(l.Index, was.MTU); err != nil {
			return fmt.Errorf("set mtu %d: %w", was.MTU, explain(err))
		}
	}
	if !sameMAC(l.HardwareAddr, was.MAC) && len(was.MAC) == 6 {
		if err := h.restoreMAC(ctx, step, f, l, was.MAC); err != nil {
			return err
		}
	}
	if l.Name != was.Name {
		free, err := h.freeName(was.Name, l.Index)
		if err != nil {
			return err
		}
		if free != l.Name {
			if err := step(ctx, "rename %s to %s", l.Name, free); err != nil {
				return err
			}
			if slices.Contains(l.AltNames, free) { // a rename to one's own alternative name is refused
				if err := h.links.altNames(unix.RTM_DELLINKPROP, l.Index, []string{free}); err != nil {
					return fmt.Errorf("drop alternative name %s: %w", free, err)
				}
			}
			if err := h.links.rename(l.Index, free); err != nil {
				return fmt.Errorf("rename to %s: %w", free, err)
			}
			l.Name = free
		}
	}
	return h.restoreAltNames(ctx, step, l, was.AltNames)
}

// restoreMAC gives an interface its address back. A PF that has been told the
// VF's address lets it have no other: it is told to forget that first.
func (h *host) restoreMAC(ctx context.Context, step stepper, f *function, l *netlink.LinkAttrs, mac net.HardwareAddr) error {
	if err := step(ctx, "set mac %s of %s", mac, l.Name); err != nil {
		return err
	}
	err := h.links.setMAC(l.Index, mac)
	if err == nil || f.PF == "" {
		return wrap("set mac "+mac.String(), err)
	}
	pf, errPF := h.pfLink(f)
	if errPF != nil {
		return errPF
	}
	for _, told := range []net.HardwareAddr{zeroMAC, mac} { // not every driver can forget
		if errPF = h.links.setVFMAC(pf.Index, f.VF, told); errPF != nil {
			continue
		}
		if err = h.links.setMAC(l.Index, mac); err == nil {
			return nil
		}
	}
	return wrap("set mac "+mac.String(), errors.Join(err, errPF))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, explain(err))
}

// restoreAltNames gives an interface its alternative names back, those that
// nobody else has.
func (h *host) restoreAltNames(ctx context.Context, step stepper, l *netlink.LinkAttrs, was []string) error {
	for _, name := range was {
		if slices.Contains(l.AltNames, name) || l.Name == name {
			continue
		}
		if err := step(ctx, "add alternative name %s of %s", name, l.Name); err != nil {
			return err
		}
		err := h.links.altNames(unix.RTM_NEWLINKPROP, l.Index, []string{name})
		if errors.Is(err, unix.EEXIST) {
			h.log.Warn("an alternative name of an interface that comes home is taken", "interface", l.Name, "name", name)
			continue
		}
		if err != nil {
			return fmt.Errorf("add alternative name %s: %w", name, err)
		}
	}
	return nil
}
