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
	"github.com/vishvananda/netlink/nl"

	"github.com/plexus-cni/plexus/delegates"
)

// attach makes the reserved function what the configuration asks for.
func (h *host) attach(ctx context.Context, a *delegates.Attachment, want *spec, r *reservation) (*types100.Result, error) {
	f, err := h.sys.function(r.PCI)
	if err != nil {
		return nil, err
	}
	if r.TakenOver {
		if err := h.restore(ctx, r, ""); err != nil {
			return nil, fmt.Errorf("%s is not as its last pod found it: %w", r.PCI, err)
		}
		if f, err = h.sys.function(r.PCI); err != nil {
			return nil, err
		}
	}
	var pf *netlink.LinkAttrs
	if f.PF != "" {
		if pf, err = h.pfLink(f); err != nil {
			return nil, err
		}
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
	rebind := f.Driver != driver
	if rebind {
		if err := h.sys.unbind(ctx, f.PCI); err != nil {
			return nil, err
		}
	}
	if err := h.onWire(ctx, want, r, f, pf); err != nil {
		return nil, err
	}
	if rebind {
		if err := h.sys.bind(ctx, f.PCI, driver, driver); err != nil {
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
		all = append(all, change{"set mac " + want.mac.String(), func(l *links, pf, vf int) error { return l.setVFMAC(pf, vf, want.mac) }})
	}
	if want.guid != nil {
		if !isInfiniBand(pf) {
			return fmt.Errorf("key %q: PF %s is no InfiniBand interface", "runtimeConfig.infinibandGUID", pf.Name)
		}
		all = append(all, guidChanges(want.guid)...)
	}
	return h.apply(ctx, f, pf, all)
}

func guidChanges(guid net.HardwareAddr) []change {
	return []change{
		{"set node GUID " + guid.String(), func(l *links, pf, vf int) error { return l.setGUID(pf, vf, nl.IFLA_VF_IB_NODE_GUID, guid) }},
		{"set port GUID " + guid.String(), func(l *links, pf, vf int) error { return l.setGUID(pf, vf, nl.IFLA_VF_IB_PORT_GUID, guid) }},
	}
}

func isInfiniBand(l *netlink.LinkAttrs) bool { return l.EncapType == "infiniband" }

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
	if slices.Contains(userDrivers, f.Driver) || f.Driver == "" {
		if err := h.toKernel(ctx, f); err != nil {
			return nil, err
		}
	}
	if err := h.onWire(ctx, want, r, f, pf); err != nil {
		return nil, err
	}
	devs, err := h.address(ctx, want, f, pf)
	if err != nil {
		return nil, err
	}
	for i, d := range devs {
		name := podName(a.IfName, i)
		taken, err := inPod.byName(name)
		if err == nil && taken != nil {
			err = errors.New("the pod has an interface of that name already")
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		if err := h.send(ctx, want, d, pod, name); err != nil {
			return nil, err
		}
	}
	return configure(ctx, a, want, r.PCI, pod, inPod, len(devs))
}

// podName is the name of a function's first and second interface in the pod, as
// sriov-cni's ancestors have it.
func podName(ifName string, i int) string {
	if i == 0 {
		return ifName
	}
	return fmt.Sprintf("%.13sd%d", ifName, i)
}

// toKernel gives a function back to its kernel driver.
func (h *host) toKernel(ctx context.Context, f *function) error {
	if err := h.sys.unbind(ctx, f.PCI); err != nil {
		return err
	}
	if err := h.sys.bind(ctx, f.PCI, "", ""); err != nil {
		return err
	}
	_, err := h.sys.awaitNetdevs(ctx, f.PCI, 1)
	return err
}

// address gives the interface its MAC. Where the PF lets the VF have none but
// the one that it has been given, the driver has to start anew to take it; the
// GUID of an InfiniBand VF always.
func (h *host) address(ctx context.Context, want *spec, f *function, pf *netlink.LinkAttrs) ([]netdev, error) {
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return nil, err
	}
	if len(devs) == 0 {
		return nil, fmt.Errorf("%s has no interface on the node any more", f.PCI)
	}
	again := want.guid != nil
	if want.mac != nil {
		if err := delegates.Step(ctx, "set mac %s of %s", want.mac, devs[0].Name); err != nil {
			return nil, err
		}
		err := h.links.setMAC(devs[0].Index, want.mac)
		if err != nil && pf == nil {
			return nil, fmt.Errorf("set mac %s of %s: %w", want.mac, devs[0].Name, explain(err))
		}
		again = again || err != nil
	}
	if !again {
		return devs, nil
	}
	driver, err := h.sys.link(f.PCI, "driver")
	if err != nil {
		return nil, err
	}
	override, err := h.sys.overridden(f.PCI)
	if err != nil {
		return nil, err
	}
	if err := h.sys.unbind(ctx, f.PCI); err != nil {
		return nil, err
	}
	if want.mac != nil {
		if err := h.links.setVFMAC(pf.Index, f.VF, want.mac); err != nil {
			return nil, fmt.Errorf("set mac %s of VF %d of %s: %w", want.mac, f.VF, pf.Name, explain(err))
		}
	}
	if err := h.sys.bind(ctx, f.PCI, driver, override); err != nil {
		return nil, err
	}
	if devs, err = h.sys.awaitNetdevs(ctx, f.PCI, len(devs)); err != nil || want.mac == nil {
		return devs, err
	}
	link, err := h.links.byIndex(devs[0].Index)
	if err == nil && (link == nil || !sameMAC(link.HardwareAddr, want.mac)) {
		err = fmt.Errorf("set mac %s of %s: the driver has not taken it", want.mac, devs[0].Name)
	}
	return devs, err
}
