package sriov

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

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
	retuned, err := h.bringHome(ctx, f, r, netns)
	if err != nil {
		return err
	}
	if err := h.sys.override(ctx, f.PCI, r.Original.Override); err != nil {
		return err
	}
	links, err := h.atRest(ctx, f, r, retuned)
	if err != nil {
		return err
	}
	if err := h.resetOnWire(ctx, f, r); err != nil {
		return err
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
// driver starts anew. retuned: the settings of the interfaces have been compared, and are what
// they were.
func (h *host) bringHome(ctx context.Context, f *function, r *reservation, netns string) (retuned bool, err error) {
	if f.Driver == r.Original.Driver {
		lost, err := h.takeOut(ctx, f, r, netns)
		if err != nil {
			return false, err
		}
		why, retuned := "the interface is in no namespace that can be entered", false
		if !lost {
			if why, retuned, err = h.mustRestart(ctx, f, r); err != nil {
				return false, err
			}
		}
		if why == "" {
			return retuned, h.clearMACOnPF(ctx, f, r)
		}
		h.log.Warn("the driver of a function that comes home starts anew", "why", why, "device", f.PCI, "driver", f.Driver)
	}
	return false, h.startAnew(ctx, f, r)
}

// startAnew gives the function its former driver, which starts for it.
func (h *host) startAnew(ctx context.Context, f *function, r *reservation) error {
	if err := h.sys.unbind(ctx, f.PCI); err != nil {
		return err
	}
	if r.Original.GUID != nil {
		pf, err := h.pfLink(f)
		if err != nil {
			return err
		}
		if err := h.apply(ctx, f, pf, guidChanges(r.Original.GUID)...); err != nil {
			return err
		}
	}
	if r.Original.Driver == "" {
		return nil
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
	if err := h.sys.awaitNetdevs(ctx, f.PCI, len(r.Original.Links)); err != nil {
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

// mustRestart says why the interfaces, at home by now, do not become what they were unless the
// driver starts anew; empty when they do. The driver takes an address of the PF, and a GUID,
// only when it starts; a pod may have left what cannot be set back. retuned is that of bringHome.
func (h *host) mustRestart(ctx context.Context, f *function, r *reservation) (why string, retuned bool, err error) {
	all, err := h.interfaces(f.PCI)
	if err != nil || len(all) == 0 {
		return "", false, err
	}
	retuned = true
	mac, guid := r.driverMAC(), r.Original.GUID
	if mac != nil && !sameMAC(all[0].PermHWAddr, mac) || guid != nil && !sameMAC(guidOf(all[0].HardwareAddr), guid) {
		return "the driver has started since, and the interface has another identity", false, nil
	}
	for i, was := range r.Original.Links[:min(len(r.Original.Links), len(all))] {
		if was.Tuning != nil && (was.Tuning.Flags^all[i].RawFlags)&unix.IFF_NOARP != 0 && f.NumVFs == 0 {
			return "the pod has left NOARP, and IPv6 without detection of duplicates", false, nil
		}
		left, err := h.retune(ctx, all[i], was.Tuning)
		if err != nil {
			return "", false, err
		}
		if len(left) > 0 && f.NumVFs == 0 { // VFs would go with the driver of their PF
			return "the pod has left " + strings.Join(left, ", "), false, nil
		}
		retuned = retuned && len(left) == 0
	}
	return "", retuned, nil
}

// takeOut moves the function's interfaces from the pod to the node. lost: they
// are in neither.
func (h *host) takeOut(ctx context.Context, f *function, r *reservation, netns string) (lost bool, err error) {
	missing := len(r.Original.Links)
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil || len(devs) >= missing {
		return false, err
	}
	if netns == "" {
		netns = r.live()
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
	for i, l := range links {
		at := min(len(devs)+i, missing-1) // they have kept their order
		if err := h.takeOne(ctx, inPod, here, l, r.Original.Links[at]); err != nil {
			return false, err
		}
	}
	return false, nil
}

// takeOne takes one interface out of the pod, silent.
func (h *host) takeOne(ctx context.Context, inPod *links, here ns.NetNS, l *netlink.LinkAttrs, was linkSnapshot) error {
	if err := delegates.Step(ctx, "move %s home as %s", l.Name, was.Name); err != nil {
		return err
	}
	if sameMAC(was.PermMAC, was.MAC) && !sameMAC(l.HardwareAddr, was.MAC) {
		// igbvf takes the address that an interface has when it goes down for its permanent one, and
		// would have to start anew to have another one. Where it is refused, atRest sets it.
		if err := delegates.Step(ctx, "set mac %s of %s", was.MAC, l.Name); err != nil {
			return err
		}
		_ = inPod.setMAC(l.Index, was.MAC)
	}
	flags, mask := uint32(0), uint32(unix.IFF_UP)
	if was.Tuning != nil { // IPv6 looks at them when it comes home
		flags, mask = was.Tuning.Flags, mask|tunedFlags
	}
	if err := inPod.set(l.Index, flags, mask); err != nil {
		return fmt.Errorf("set %s down: %w", l.Name, err)
	}
	if err := inPod.altNames(unix.RTM_DELLINKPROP, l.Index, l.AltNames); err != nil {
		return fmt.Errorf("drop alternative names of %s: %w", l.Name, err)
	}
	free, err := h.freeName(was.Name, 0)
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
	pf, now, err := h.onPF(f)
	if err != nil || r.Original.VF == nil {
		return err
	}
	home := r.home()
	if err := h.apply(ctx, f, pf, changes(now.settings, home.settings)...); err != nil {
		return err
	}
	if len(home.MAC) != 6 || sameMAC(now.MAC, home.MAC) || isInfiniBand(pf) {
		return nil
	}
	err = h.apply(ctx, f, pf, macChange(home.MAC))
	if errors.Is(err, unix.EINVAL) && sameMAC(home.MAC, zeroMAC) {
		h.log.Warn("the PF's driver keeps the address that it was told of a VF", "device", f.PCI, "mac", now.MAC.String())
		return nil
	}
	return err
}
