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

	"github.com/plexus-cni/plexus/delegates"
)

// restore brings a reserved function home and makes it what it was, wherever it
// is and however far ADD has come. netns is the pod's namespace if it is still
// there. What is as it was is not touched.
func (h *host) restore(ctx context.Context, r *reservation, netns string) error {
	f, err := h.sys.function(r.PCI)
	if errors.Is(err, errNoDevice) {
		return nil // it went, with all that was set
	}
	if err != nil {
		return err
	}
	if f.Incarnation != r.Original.Incarnation {
		return nil // that function went; this is a new one
	}
	// Nothing is to be heard of the pod's VLAN, so the function leaves the pod
	// before its settings change.
	release, err := lockNames(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := h.bringHome(ctx, f, r, netns); err != nil {
		return err
	}
	if err := h.sys.override(ctx, f.PCI, r.Original.Override); err != nil {
		return err
	}
	links, err := h.atRest(ctx, f, r)
	if err != nil {
		return err
	}
	if r.Original.VF != nil {
		if err := h.resetOnWire(ctx, f, r); err != nil {
			return err
		}
	}
	for i, l := range links {
		if r.Original.Links[i].Up && l.RawFlags&unix.IFF_UP == 0 {
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
func (h *host) bringHome(ctx context.Context, f *function, r *reservation, netns string) error {
	if f.Driver == r.Original.Driver {
		lost, err := h.takeOut(ctx, f, r, netns)
		if err != nil {
			return err
		}
		if lost {
			h.log.Warn("the interface is in no namespace that can be entered: its driver starts anew", "device", f.PCI, "driver", f.Driver)
		} else if other, err := h.restartedWithOtherMAC(f, r); err != nil {
			return err
		} else if !other {
			return h.clearMACOnPF(ctx, f, r)
		}
	}
	if err := h.sys.unbind(ctx, f.PCI); err != nil {
		return err
	}
	if r.Original.GUID != nil {
		if err := h.restoreGUID(ctx, f, r); err != nil {
			return err
		}
	}
	if r.Original.Driver == "" {
		return h.sys.override(ctx, f.PCI, r.Original.Override)
	}
	if mac := r.driverMAC(); mac != nil {
		if err := delegates.Step(ctx, "tell VF %d its address %s", f.VF, mac); err != nil {
			return err
		}
		r.MACOnPF = true
		if err := r.write(); err != nil {
			return err
		}
		if err := h.setMACOnPF(f, mac); err != nil {
			h.log.Warn("the PF does not take the address that its VF had", "device", f.PCI, "error", err.Error())
		}
	}
	if err := h.sys.bind(ctx, f.PCI, r.Original.Driver, r.Original.Override); err != nil {
		return fmt.Errorf("%s is without its driver %s: %w", f.PCI, r.Original.Driver, err)
	}
	if len(r.Original.Links) == 0 {
		return nil
	}
	if _, err := h.sys.awaitNetdevs(ctx, f.PCI, len(r.Original.Links)); err != nil {
		return err
	}
	return h.clearMACOnPF(ctx, f, r)
}

// clearMACOnPF makes the PF forget the address that it was given for the pod, or just for
// the driver's start, and learn from the VF itself again: a VF whose address the PF has
// set may choose no other.
func (h *host) clearMACOnPF(ctx context.Context, f *function, r *reservation) error {
	if !r.MACOnPF || len(r.Original.Links) == 0 {
		return nil
	}
	if err := delegates.Step(ctx, "let VF %d choose its address", f.VF); err != nil {
		return err
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil || len(devs) == 0 {
		return err
	}
	if h.setMACOnPF(f, zeroMAC) == nil && sameMAC(r.home().MAC, r.Original.Links[0].MAC) {
		_ = h.links.setMAC(devs[0].Index, r.Original.Links[0].MAC) // atRest tries again, and says so
	}
	r.MACOnPF = false
	return r.write()
}

// driverMAC is the address that a VF's driver got from the PF when it started, or chose
// itself; nil when that is not known.
func (r *reservation) driverMAC() net.HardwareAddr {
	if r.Original.VF == nil || len(r.Original.Links) == 0 || len(r.Original.Links[0].PermMAC) != 6 {
		return nil
	}
	return r.Original.Links[0].PermMAC
}

// restartedWithOtherMAC reports whether the driver has been started anew since, and got
// another address.
func (h *host) restartedWithOtherMAC(f *function, r *reservation) (bool, error) {
	if r.driverMAC() == nil {
		return false, nil
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil || len(devs) == 0 {
		return false, err
	}
	link, err := h.links.byIndex(devs[0].Index)
	return err == nil && link != nil && !sameMAC(link.PermHWAddr, r.driverMAC()), err
}

// setMACOnPF makes the PF give its VF an address, at its driver's next start.
func (h *host) setMACOnPF(f *function, mac net.HardwareAddr) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	return h.links.setVFMAC(pf.Index, f.VF, mac)
}

// restoreGUID gives an InfiniBand VF its GUID back, while it has no driver.
func (h *host) restoreGUID(ctx context.Context, f *function, r *reservation) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	return h.apply(ctx, f, pf, guidChanges(r.Original.GUID))
}

// takeOut moves the function's interfaces from the pod to the node. lost: they
// are in neither.
func (h *host) takeOut(ctx context.Context, f *function, r *reservation, netns string) (lost bool, err error) {
	missing := len(r.Original.Links)
	if missing == 0 {
		return false, h.sys.override(ctx, f.PCI, r.Original.Override)
	}
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return false, err
	}
	if len(devs) >= missing {
		if r.Original.GUID != nil { // the driver takes the GUID when it starts
			link, err := h.links.byIndex(devs[0].Index)
			return err == nil && link != nil && !slices.Equal(guidOf(link.HardwareAddr), r.Original.GUID), err
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
		if err := h.takeOne(ctx, inPod, here, l, r.Original.Links[at].Name); err != nil {
			return false, err
		}
		devs = append(devs, netdev{Index: l.Index})
	}
	if r.Original.GUID != nil {
		return h.takeOut(ctx, f, r, "")
	}
	return false, nil
}

// takeOne takes one interface out of the pod, silent.
func (h *host) takeOne(ctx context.Context, inPod *links, here ns.NetNS, l *netlink.LinkAttrs, name string) error {
	if err := delegates.Step(ctx, "move %s home as %s", l.Name, name); err != nil {
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
func (h *host) resetOnWire(ctx context.Context, f *function, r *reservation) error {
	pf, err := h.pfLink(f)
	if err != nil {
		return err
	}
	now, err := h.links.vf(pf.Index, f.VF)
	if err != nil {
		return fmt.Errorf("PF %s: %w", pf.Name, err)
	}
	home := r.home()
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
	return h.apply(ctx, f, pf, all)
}
