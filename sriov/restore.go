package sriov

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// restore brings a claimed function home and makes it what it was, wherever it
// is and however far ADD has come. netns is the pod's namespace if it is still
// there. What is as it was is not touched.
func (h *host) restore(ctx context.Context, step stepper, c *claim, netns string) error {
	f, err := h.sys.function(c.PCI)
	if errors.Is(err, errNoDevice) {
		return nil // it went, with all that was set
	}
	if err != nil {
		return err
	}
	if f.Incarnation != c.Found.Incarnation {
		return nil // that function went; this is a new one
	}
	// Nothing is to be heard of the pod's VLAN, so the function leaves the pod
	// before its settings change.
	release, err := lockNames(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := h.bringHome(ctx, step, f, c, netns); err != nil {
		return err
	}
	if err := h.sys.override(ctx, f.PCI, c.Found.Override); err != nil {
		return err
	}
	links, err := h.atRest(ctx, step, f, c)
	if err != nil {
		return err
	}
	if c.Found.VF != nil {
		if err := h.resetOnWire(ctx, step, f, c); err != nil {
			return err
		}
	}
	for i, l := range links {
		if c.Found.Links[i].Up && l.RawFlags&unix.IFF_UP == 0 {
			if err := h.links.set(l.Index, unix.IFF_UP, unix.IFF_UP); err != nil {
				return fmt.Errorf("set %s up: %w", l.Name, err)
			}
		}
	}
	return nil
}

// bringHome gives the function its former driver, or takes its interfaces out of
// the pod. Those that are in no namespace that can be entered come home when the
// driver starts anew.
func (h *host) bringHome(ctx context.Context, step stepper, f *function, c *claim, netns string) error {
	if f.Driver == c.Found.Driver {
		lost, err := h.takeOut(ctx, step, f, c, netns)
		if err != nil {
			return err
		}
		if lost {
			h.log.Warn("the interface is in no namespace that can be entered: its driver starts anew", "device", f.PCI, "driver", f.Driver)
		} else if told, err := h.toldOther(f, c); err != nil {
			return err
		} else if !told {
			return h.untell(ctx, step, f, c)
		}
	}
	if f.Driver != "" {
		if err := step(ctx, "unbind %s from %s", f.PCI, f.Driver); err != nil {
			return err
		}
		if err := h.sys.unbind(ctx, f.PCI); err != nil {
			return err
		}
	}
	if c.Found.GUID != nil {
		if err := h.restoreGUID(ctx, step, f, c); err != nil {
			return err
		}
	}
	if c.Found.Driver == "" {
		return h.sys.override(ctx, f.PCI, c.Found.Override)
	}
	if tells := c.tells(); tells != nil {
		if err := step(ctx, "tell VF %d its address %s", f.VF, tells); err != nil {
			return err
		}
		c.Told = true
		if err := c.write(); err != nil {
			return err
		}
		if err := h.tell(f, tells); err != nil {
			h.log.Warn("the PF does not take the address that its VF had", "device", f.PCI, "error", err.Error())
		}
	}
	if err := step(ctx, "bind %s to %s", f.PCI, c.Found.Driver); err != nil {
		return err
	}
	if err := h.sys.bind(ctx, f.PCI, c.Found.Driver, c.Found.Override); err != nil {
		return fmt.Errorf("%s is without its driver %s: %w", f.PCI, c.Found.Driver, err)
	}
	if len(c.Found.Links) == 0 {
		return nil
	}
	if _, err := h.sys.awaitNetdevs(ctx, f.PCI, len(c.Found.Links)); err != nil {
		return err
	}
	return h.untell(ctx, step, f, c)
}

// untell makes the PF forget the address that it was told for the pod, or just
// for the driver's start, and learn from the VF itself again: one that the PF has
// told an address may choose no other.
func (h *host) untell(ctx context.Context, step stepper, f *function, c *claim) error {
	if !c.Told || len(c.Found.Links) == 0 {
		return nil
	}
	if err := step(ctx, "let VF %d choose its address", f.VF); err != nil {
		return err
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil || len(devs) == 0 {
		return err
	}
	if h.tell(f, zeroMAC) == nil && sameMAC(c.home().MAC, c.Found.Links[0].MAC) {
		_ = h.links.setMAC(devs[0].Index, c.Found.Links[0].MAC) // atRest tries again, and says so
	}
	c.Told = false
	return c.write()
}

// tells is the address that a VF's driver was told by the PF when it started, or
// had chosen itself; nil when that is not known.
func (c *claim) tells() net.HardwareAddr {
	if c.Found.VF == nil || len(c.Found.Links) == 0 || len(c.Found.Links[0].PermMAC) != 6 {
		return nil
	}
	return c.Found.Links[0].PermMAC
}

// toldOther reports whether the driver has been started anew since, and was told
// another address.
func (h *host) toldOther(f *function, c *claim) (bool, error) {
	if c.tells() == nil {
		return false, nil
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil || len(devs) == 0 {
		return false, err
	}
	link, err := h.links.byIndex(devs[0].Index)
	return err == nil && link != nil && !sameMAC(link.PermHWAddr, c.tells()), err
}

// tell makes the PF tell its VF an address, at its driver's next start.
func (h *host) tell(f *function, mac net.HardwareAddr) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	return h.links.setVFMAC(pf.Index, f.VF, mac)
}

// restoreGUID gives an InfiniBand VF its GUID back, while it has no driver.
func (h *host) restoreGUID(ctx context.Context, step stepper, f *function, c *claim) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	return h.apply(ctx, step, f, pf, guidChanges(c.Found.GUID))
}

// takeOut moves the function's interfaces from the pod to the node. lost: they
// are in neither.
func (h *host) takeOut(ctx context.Context, step stepper, f *function, c *claim, netns string) (lost bool, err error) {
	missing := len(c.Found.Links)
	if missing == 0 {
		return false, h.sys.override(ctx, f.PCI, c.Found.Override)
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return false, err
	}
	if len(devs) >= missing {
		if c.Found.GUID != nil { // the driver takes the GUID when it starts
			link, err := h.links.byIndex(devs[0].Index)
			return err == nil && link != nil && !slices.Equal(guidOf(link.HardwareAddr), c.Found.GUID), err
		}
		return false, nil
	}
	if netns == "" {
		return true, nil
	}
	inPod, err := openLinks(netns)
	if err != nil {
		return true, nil // it went at this moment
	}
	defer inPod.close()
	here, err := ns.GetNS("/proc/self/ns/net")
	if err != nil {
		return false, err
	}
	defer here.Close()
	links, err := inPod.byParent(f.PCI)
	if err != nil {
		return false, fmt.Errorf("interfaces in %s: %w", netns, err)
	}
	if len(links)+len(devs) < missing {
		return true, nil
	}
	for _, l := range links {
		at := min(len(devs), missing-1) // they have kept their order
		if err := h.takeOne(ctx, step, inPod, here, l, c.Found.Links[at].Name); err != nil {
			return false, err
		}
		devs = append(devs, netdev{Index: l.Index})
	}
	if c.Found.GUID != nil {
		return h.takeOut(ctx, step, f, c, "")
	}
	return false, nil
}

// takeOne takes one interface out of the pod, silent.
func (h *host) takeOne(ctx context.Context, step stepper, inPod *links, here ns.NetNS, l *netlink.LinkAttrs, name string) error {
	if err := step(ctx, "move %s home as %s", l.Name, name); err != nil {
		return err
	}
	if err := inPod.set(l.Index, 0, unix.IFF_UP); err != nil {
		return fmt.Errorf("set %s down: %w", l.Name, err)
	}
	if err := inPod.altNames(unix.RTM_DELLINKPROP, l.Index, l.AltNames); err != nil {
		return fmt.Errorf("drop alternative names of %s: %w", l.Name, err)
	}
	free, err := h.freeName(name, 0)
	if err != nil {
		return err
	}
	if err := inPod.move(l.Index, here, free); err != nil {
		return fmt.Errorf("move %s home as %s: %w", l.Name, free, err)
	}
	return nil
}

// resetOnWire makes the VF on its PF what it was.
func (h *host) resetOnWire(ctx context.Context, step stepper, f *function, c *claim) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	now, err := h.links.vf(pf.Index, f.VF)
	if err != nil {
		return fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	home := c.home()
	all := changes(now.settings, home.settings)
	if len(home.MAC) == 6 && !sameMAC(now.MAC, home.MAC) && !isInfiniBand(pf) {
		all = append(all, change{"set mac " + home.MAC.String(), func(l *links, pf, vf int) error {
			err := l.setVFMAC(pf, vf, home.MAC)
			if errors.Is(err, unix.EINVAL) && sameMAC(home.MAC, zeroMAC) {
				h.log.Warn("the PF's driver keeps the address that it was told of a VF", "device", f.PCI, "mac", now.MAC.String())
				return nil
			}
			return err
		}})
	}
	return h.apply(ctx, step, f, pf, all)
}
