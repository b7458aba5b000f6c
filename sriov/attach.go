package sriov

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/delegates"
)

// attach makes the reserved function what the configuration asks for.
func (h *host) attach(ctx context.Context, a *delegates.Attachment, want *spec, r *reservation) (*types100.Result, error) {
	if r.TakenOver {
		if err := h.restore(ctx, r, ""); err != nil {
			return nil, fmt.Errorf("%s is not as its last pod found it: %w", r.PCI, err)
		}
	}
	f, err := h.sys.function(r.PCI)
	if err != nil {
		return nil, err
	}
	pf, err := h.pfLink(f)
	if err != nil {
		return nil, err
	}
	if !want.kernel(f.Driver) {
		return h.attachDPDK(ctx, a, want, r, f, pf)
	}
	return h.attachKernel(ctx, a, want, r, f, pf)
}

// attachDPDK binds the function to its user-space driver. What it is on the wire
// is set while it has no driver.
func (h *host) attachDPDK(ctx context.Context, a *delegates.Attachment, want *spec, r *reservation, f *function, pf *netlink.LinkAttrs) (*types100.Result, error) {
	driver := cmp.Or(want.driver, f.Driver)
	onWire := func() error { return h.onWire(ctx, want, r, f, pf) }
	var err error
	if f.Driver == driver {
		err = onWire()
	} else {
		err = h.restart(ctx, f.PCI, driver, driver, 0, onWire)
	}
	if err != nil {
		return nil, err
	}
	if a.Allocate != nil {
		if err := a.Allocate(ctx); err != nil {
			return nil, err
		}
	}
	i := &types100.Interface{Name: a.IfName, Sandbox: a.Netns, PciID: f.PCI, Mtu: want.mtu}
	switch {
	case want.mac != nil:
		i.Mac = want.mac.String()
	case r.Original.VF != nil && !sameMAC(r.Original.VF.MAC, zeroMAC):
		i.Mac = r.Original.VF.MAC.String()
	}
	if i.Mtu == 0 && pf != nil {
		i.Mtu = pf.MTU
	}
	return resultOf(i, a.IPAM), nil
}

// onWire sets on the PF what the VF is on the wire.
func (h *host) onWire(ctx context.Context, want *spec, r *reservation, f *function, pf *netlink.LinkAttrs) error {
	if pf == nil {
		return nil
	}
	now := r.Original.VF.settings
	if r.TakenOver {
		now = r.home().settings
	}
	all := changes(now, want.settings)
	if want.mac != nil {
		r.MACOnPF = true
		if err := r.write(); err != nil {
			return err
		}
		all = append(all, macChange(want.mac))
	}
	if want.guid != nil {
		if !isInfiniBand(pf) {
			return fmt.Errorf("key %q: PF %s is no InfiniBand interface", "runtimeConfig.infinibandGUID", pf.Name)
		}
		all = append(all, guidChanges(want.guid)...)
	}
	return h.apply(ctx, f, pf, all...)
}

func isInfiniBand(l *netlink.LinkAttrs) bool { return l != nil && l.EncapType == "infiniband" }

// guidOf is the port GUID in the 20 bytes of an IPoIB address (RFC 4391, section
// 9.1.1).
func guidOf(address net.HardwareAddr) net.HardwareAddr {
	if len(address) != 20 {
		return nil
	}
	return slices.Clone(address[12:])
}

// attachKernel moves the function's interface into the pod and configures it
// there.
func (h *host) attachKernel(ctx context.Context, a *delegates.Attachment, want *spec, r *reservation, f *function, pf *netlink.LinkAttrs) (*types100.Result, error) {
	pod, err := ns.GetNS(a.Netns)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	inPod, err := openLinks(a.Netns)
	if err != nil {
		return nil, err
	}
	defer inPod.close()
	release, err := lockNames(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if !f.hasKernelDriver() {
		if err := h.restart(ctx, f.PCI, "", "", 1, nil); err != nil {
			return nil, err
		}
	}
	if err := h.onWire(ctx, want, r, f, pf); err != nil {
		return nil, err
	}
	all, err := h.address(ctx, want, f, pf)
	if err != nil {
		return nil, err
	}
	for i, link := range all {
		name := podName(a.IfName, i)
		taken, err := inPod.byName(name)
		if err == nil && taken != nil {
			err = errors.New("the pod has an interface of that name already")
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		if err := h.send(ctx, want, link, pod, name); err != nil {
			return nil, err
		}
	}
	return configure(ctx, a, want, r.PCI, pod, inPod, len(all))
}

// podName is the name of a function's first and second interface in the pod, as
// sriov-cni's ancestors have it.
func podName(ifName string, i int) string {
	if i == 0 {
		return ifName
	}
	return fmt.Sprintf("%.13sd%d", ifName, i)
}

// address gives the interface its MAC. Where the PF lets the VF have none but
// the one that it has been given, the driver has to start anew to take it; the
// GUID of an InfiniBand VF always.
func (h *host) address(ctx context.Context, want *spec, f *function, pf *netlink.LinkAttrs) ([]*netlink.LinkAttrs, error) {
	all, err := h.interfaces(f.PCI)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no interface on the node any more", f.PCI)
	}
	again := want.guid != nil
	if want.mac != nil {
		set := func() error {
			err := h.links.setMAC(all[0].Index, want.mac)
			if err != nil && pf != nil {
				again = true
				return nil
			}
			return explain(err)
		}
		if err := do(ctx, set, "set mac %s of %s", want.mac, all[0].Name); err != nil {
			return nil, err
		}
	}
	if !again {
		return all, nil
	}
	driver, err := h.sys.link(f.PCI, "driver")
	if err != nil {
		return nil, err
	}
	override, err := h.sys.overridden(f.PCI)
	if err != nil {
		return nil, err
	}
	err = h.restart(ctx, f.PCI, driver, override, len(all), func() error {
		if want.mac == nil {
			return nil
		}
		if err := h.setMACOnPF(f, want.mac); err != nil {
			return fmt.Errorf("set mac %s of VF %d of %s: %w", want.mac, f.VF, pf.Name, explain(err))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all, err = h.interfaces(f.PCI)
	if err == nil && want.mac != nil && (len(all) == 0 || !sameMAC(all[0].HardwareAddr, want.mac)) {
		err = fmt.Errorf("set mac %s of VF %d of %s: the driver has not taken it", want.mac, f.VF, pf.Name)
	}
	return all, err
}
