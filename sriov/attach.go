package sriov

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// stepper announces a change, see conf.Step.
type stepper func(ctx context.Context, format string, args ...any) error

// attach makes the claimed function what the configuration asks for.
func (h *host) attach(ctx context.Context, step stepper, a conf.Attachment, w *want, c *claim) (*types100.Result, error) {
	f, err := h.sys.function(c.PCI)
	if err != nil {
		return nil, err
	}
	if c.Left {
		if err := h.restore(ctx, step, c, ""); err != nil {
			return nil, fmt.Errorf("%s is not as its last pod found it: %w", c.PCI, err)
		}
		if f, err = h.sys.function(c.PCI); err != nil {
			return nil, err
		}
	}
	var pf *netlink.LinkAttrs
	if f.PF != "" {
		if pf, err = h.pfLink(f); err != nil {
			return nil, err
		}
	}
	if !w.kernel(f) {
		return h.attachDPDK(ctx, step, a, w, c, f, pf)
	}
	return h.attachKernel(ctx, step, a, w, c, f, pf)
}

// attachDPDK binds the function to its user-space driver. What it is on the wire
// is set while it has no driver.
func (h *host) attachDPDK(ctx context.Context, step stepper, a conf.Attachment, w *want, c *claim, f *function, pf *netlink.LinkAttrs) (*types100.Result, error) {
	driver := w.driver
	if driver == "" {
		driver = f.Driver
	}
	rebind := f.Driver != driver
	if rebind && f.Driver != "" {
		if err := step(ctx, "unbind %s from %s", f.PCI, f.Driver); err != nil {
			return nil, err
		}
		if err := h.sys.unbind(ctx, f.PCI); err != nil {
			return nil, err
		}
	}
	if err := h.onWire(ctx, step, w, c, f, pf); err != nil {
		return nil, err
	}
	if rebind {
		if err := step(ctx, "bind %s to %s", f.PCI, driver); err != nil {
			return nil, err
		}
		if err := h.sys.bind(ctx, f.PCI, driver, driver); err != nil {
			return nil, err
		}
	}
	i := &types100.Interface{Name: a.IfName, Sandbox: a.Netns, PciID: f.PCI, Mtu: w.mtu}
	switch {
	case w.mac != nil:
		i.Mac = w.mac.String()
	case c.Found.VF != nil && !sameMAC(c.Found.VF.MAC, zeroMAC):
		i.Mac = c.Found.VF.MAC.String()
	}
	if i.Mtu == 0 && pf != nil {
		i.Mtu = pf.MTU
	}
	return addresses(i, a), nil
}

// onWire sets on the PF what the VF is on the wire.
func (h *host) onWire(ctx context.Context, step stepper, w *want, c *claim, f *function, pf *netlink.LinkAttrs) error {
	if pf == nil {
		return nil
	}
	now := c.Found.VF.settings
	if c.Left {
		now = c.home().settings
	}
	all := changes(now, w.settings)
	if w.mac != nil {
		c.Told = true
		if err := c.write(); err != nil {
			return err
		}
		all = append(all, change{"set mac " + w.mac.String(), func(l *links, pf, vf int) error { return l.setVFMAC(pf, vf, w.mac) }})
	}
	if w.guid != nil {
		if !isInfiniBand(pf) {
			return fmt.Errorf("key %q: PF %s is no InfiniBand interface", "runtimeConfig.infinibandGUID", pf.Name)
		}
		all = append(all, guidChanges(w.guid)...)
	}
	return h.apply(ctx, step, f, pf, all)
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
func (h *host) attachKernel(ctx context.Context, step stepper, a conf.Attachment, w *want, c *claim, f *function, pf *netlink.LinkAttrs) (*types100.Result, error) {
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
		if err := h.toKernel(ctx, step, f, ""); err != nil {
			return nil, err
		}
	}
	if err := h.onWire(ctx, step, w, c, f, pf); err != nil {
		return nil, err
	}
	devs, err := h.address(ctx, step, w, f, pf)
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
		if err := h.send(ctx, step, w, d, pod, name); err != nil {
			return nil, err
		}
	}
	return configure(ctx, step, a, w, c.PCI, pod, inPod, len(devs))
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
func (h *host) toKernel(ctx context.Context, step stepper, f *function, override string) error {
	if f.Driver != "" {
		if err := step(ctx, "unbind %s from %s", f.PCI, f.Driver); err != nil {
			return err
		}
		if err := h.sys.unbind(ctx, f.PCI); err != nil {
			return err
		}
	}
	if err := step(ctx, "bind %s to the kernel's driver", f.PCI); err != nil {
		return err
	}
	if err := h.sys.bind(ctx, f.PCI, "", override); err != nil {
		return err
	}
	_, err := h.sys.awaitNetdevs(ctx, f.PCI, 1)
	return err
}

// address gives the interface its MAC. Where the PF lets the VF have none but
// the one that it has been given, the driver has to start anew to take it; the
// GUID of an InfiniBand VF always.
func (h *host) address(ctx context.Context, step stepper, w *want, f *function, pf *netlink.LinkAttrs) ([]netdev, error) {
	devs, err := h.sys.netdevs(f.PCI)
	if err != nil {
		return nil, err
	}
	if len(devs) == 0 {
		return nil, fmt.Errorf("%s has no interface on the node any more", f.PCI)
	}
	again := w.guid != nil
	if w.mac != nil {
		if err := step(ctx, "set mac %s of %s", w.mac, devs[0].Name); err != nil {
			return nil, err
		}
		err := h.links.setMAC(devs[0].Index, w.mac)
		if err != nil && pf == nil {
			return nil, fmt.Errorf("set mac %s of %s: %w", w.mac, devs[0].Name, explain(err))
		}
		again = again || err != nil
	}
	if !again {
		return devs, nil
	}
	now, err := h.sys.function(f.PCI)
	if err != nil {
		return nil, err
	}
	override, err := h.sys.overridden(f.PCI)
	if err != nil {
		return nil, err
	}
	if err := step(ctx, "unbind %s from %s", f.PCI, now.Driver); err != nil {
		return nil, err
	}
	if err := h.sys.unbind(ctx, f.PCI); err != nil {
		return nil, err
	}
	if w.mac != nil {
		if err := h.links.setVFMAC(pf.Index, f.VF, w.mac); err != nil {
			return nil, fmt.Errorf("set mac %s of VF %d of %s: %w", w.mac, f.VF, pf.Name, explain(err))
		}
	}
	if err := step(ctx, "bind %s to %s", f.PCI, now.Driver); err != nil {
		return nil, err
	}
	if err := h.sys.bind(ctx, f.PCI, now.Driver, override); err != nil {
		return nil, err
	}
	if devs, err = h.sys.awaitNetdevs(ctx, f.PCI, len(devs)); err != nil || w.mac == nil {
		return devs, err
	}
	link, err := h.links.byIndex(devs[0].Index)
	if err == nil && (link == nil || !bytes.Equal(link.HardwareAddr, w.mac)) {
		err = fmt.Errorf("set mac %s of %s: the driver has not taken it", w.mac, devs[0].Name)
	}
	return devs, err
}

// send moves one interface into the pod, under its name there.
func (h *host) send(ctx context.Context, step stepper, w *want, d netdev, pod ns.NetNS, name string) error {
	link, err := h.links.byIndex(d.Index)
	if err == nil && link == nil {
		err = errors.New("it is gone")
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", d.Name, err)
	}
	if w.mtu != 0 && link.MTU != w.mtu {
		if err := step(ctx, "set mtu %d of %s", w.mtu, d.Name); err != nil {
			return err
		}
		if err := h.links.setMTU(d.Index, w.mtu); err != nil {
			return fmt.Errorf("set mtu %d of %s: %w", w.mtu, d.Name, explain(err))
		}
	}
	if len(link.AltNames) > 0 {
		if err := step(ctx, "drop alternative names of %s", d.Name); err != nil {
			return err
		}
		if err := h.links.altNames(unix.RTM_DELLINKPROP, d.Index, link.AltNames); err != nil {
			return fmt.Errorf("drop alternative names of %s: %w", d.Name, err)
		}
	}
	if err := step(ctx, "move %s into the pod as %s", d.Name, name); err != nil {
		return err
	}
	if err := h.links.move(d.Index, pod, name); err != nil {
		return fmt.Errorf("move %s into the pod as %s: %w", d.Name, name, err)
	}
	return nil
}

// configure does what is to be done inside the pod.
func configure(ctx context.Context, step stepper, a conf.Attachment, w *want, pci string, pod ns.NetNS, inPod *links, count int) (*types100.Result, error) {
	link, err := inPod.byName(a.IfName)
	if err == nil && link == nil {
		err = errors.New("it is gone")
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s in the pod: %w", a.IfName, err)
	}
	i := &types100.Interface{Name: a.IfName, Mac: link.HardwareAddr.String(), Mtu: link.MTU, Sandbox: a.Netns, PciID: pci}
	r := addresses(i, a)
	flags := uint32(unix.IFF_UP)
	if w.promisc {
		flags |= unix.IFF_PROMISC
	}
	if w.allMulti {
		flags |= unix.IFF_ALLMULTI
	}
	if err := step(ctx, "set %s up", a.IfName); err != nil {
		return nil, err
	}
	if err := enter(pod, func() error { return notify(a.IfName) }); err != nil {
		return nil, err
	}
	for n := range count {
		other := link
		if n > 0 {
			if other, err = inPod.byName(podName(a.IfName, n)); err != nil || other == nil {
				return nil, errors.Join(err, fmt.Errorf("interface %s in the pod: it is gone", podName(a.IfName, n)))
			}
		}
		if err := inPod.set(other.Index, flags, flags); err != nil {
			return nil, fmt.Errorf("set %s up: %w", other.Name, explain(err))
		}
	}
	if a.IPAM == nil || w.l2 {
		return r, nil
	}
	if err := step(ctx, "set addresses of %s", a.IfName); err != nil {
		return nil, err
	}
	if err := enter(pod, func() error { return ipam.ConfigureIface(a.IfName, r) }); err != nil {
		return nil, fmt.Errorf("set addresses of %s: %w", a.IfName, err)
	}
	return r, enter(pod, func() error { return announce(ctx, link.Index, link.HardwareAddr, r.IPs) })
}

// enter runs something in a namespace.
func enter(n ns.NetNS, do func() error) error {
	return n.Do(func(ns.NetNS) error { return do() })
}

// notify makes the kernel announce the interface when it gets another address,
// and not wait for duplicates before it uses one. Where /proc is not to be
// written to, it does not.
func notify(ifName string) error {
	for _, key := range []string{"net/ipv4/conf/%s/arp_notify", "net/ipv6/conf/%s/ndisc_notify", "net/ipv6/conf/%s/optimistic_dad"} {
		_, _ = sysctl.Sysctl(fmt.Sprintf(key, ifName), "1")
	}
	return nil
}

// addresses is a result of one interface with what IPAM has given.
func addresses(i *types100.Interface, a conf.Attachment) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{i}}
	if a.IPAM != nil {
		r.IPs, r.Routes, r.DNS = a.IPAM.IPs, a.IPAM.Routes, a.IPAM.DNS
		for _, ip := range r.IPs {
			ip.Interface = types100.Int(0)
		}
	}
	return r
}
