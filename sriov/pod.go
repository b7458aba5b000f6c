package sriov

import (
	"context"
	"errors"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// send moves one interface into the pod, under its name there.
func (h *host) send(ctx context.Context, want *spec, d netdev, pod ns.NetNS, name string) error {
	link, err := h.link(d)
	if err != nil {
		return err
	}
	if want.mtu != 0 && link.MTU != want.mtu {
		if err := do(ctx, func() error { return explain(h.links.setMTU(d.Index, want.mtu)) }, "set mtu %d of %s", want.mtu, d.Name); err != nil {
			return err
		}
	}
	if len(link.AltNames) > 0 {
		drop := func() error { return h.links.altNames(unix.RTM_DELLINKPROP, d.Index, link.AltNames) }
		if err := do(ctx, drop, "drop alternative names of %s", d.Name); err != nil {
			return err
		}
	}
	return do(ctx, func() error { return h.links.move(d.Index, pod, name) }, "move %s into the pod as %s", d.Name, name)
}

// configure does what is to be done inside the pod.
func configure(ctx context.Context, a *delegates.Attachment, want *spec, pci string, pod ns.NetNS, inPod *links, count int) (*types100.Result, error) {
	link, err := inPod.byName(a.IfName)
	if err == nil && link == nil {
		err = errors.New("it is gone")
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s in the pod: %w", a.IfName, err)
	}
	i := &types100.Interface{Name: a.IfName, Mac: link.HardwareAddr.String(), Mtu: link.MTU, Sandbox: a.Netns, PciID: pci}
	r := resultOf(i, a.IPAM)
	flags := unix.IFF_UP | receiveFlags(want.promisc, want.allMulti)
	if err := delegates.Step(ctx, "set %s up", a.IfName); err != nil {
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
	if a.IPAM == nil || want.l2 {
		return r, nil
	}
	set := func() error { return enter(pod, func() error { return ipam.ConfigureIface(a.IfName, r) }) }
	if err := do(ctx, set, "set addresses of %s", a.IfName); err != nil {
		return nil, err
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

// resultOf is a result of one interface, with a copy of what ipam answered, nil without
// one.
func resultOf(i *types100.Interface, answer *types100.Result) *types100.Result {
	r := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, Interfaces: []*types100.Interface{i}}
	if answer == nil {
		return r
	}
	for _, ip := range answer.IPs {
		ip = ip.Copy()
		ip.Interface = types100.Int(0)
		r.IPs = append(r.IPs, ip)
	}
	for _, route := range answer.Routes {
		r.Routes = append(r.Routes, route.Copy())
	}
	r.DNS = *answer.DNS.Copy()
	return r
}
