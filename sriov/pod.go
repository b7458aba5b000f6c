package sriov

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/utils/sysctl"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// send moves one interface into the pod, under its name there.
func (h *host) send(ctx context.Context, want *spec, l *netlink.LinkAttrs, pod ns.NetNS, name string) error {
	if want.mtu != 0 {
		if err := h.setMTU(ctx, l, want.mtu); err != nil {
			return err
		}
	}
	if len(l.AltNames) > 0 {
		drop := func() error { return h.links.altNames(unix.RTM_DELLINKPROP, l.Index, l.AltNames) }
		if err := do(ctx, drop, "drop alternative names of %s", l.Name); err != nil {
			return err
		}
	}
	return do(ctx, func() error { return h.links.move(l.Index, pod, name) }, "move %s into the pod as %s", l.Name, name)
}

// setMTU gives an interface an MTU that it does not have.
func (h *host) setMTU(ctx context.Context, l *netlink.LinkAttrs, mtu int) error {
	if l.MTU == mtu {
		return nil
	}
	return do(ctx, func() error { return explain(h.links.setMTU(l.Index, mtu)) }, "set mtu %d of %s", mtu, l.Name)
}

// configure does what is to be done inside the pod.
func configure(ctx context.Context, a *delegates.Attachment, want *spec, pci string, pod ns.NetNS, inPod *links, count int) (*types100.Result, error) {
	var all []*netlink.LinkAttrs
	for n := range count {
		link, err := inPod.byName(podName(a.IfName, n))
		if err == nil && link == nil {
			err = errors.New("it is gone")
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s in the pod: %w", podName(a.IfName, n), err)
		}
		all = append(all, link)
	}
	if err := delegates.Step(ctx, "set %s up", a.IfName); err != nil {
		return nil, err
	}
	if err := pod.Do(func(ns.NetNS) error { return notify(a.IfName) }); err != nil {
		return nil, err
	}
	flags := unix.IFF_UP | receiveFlags(want.promisc, want.allMulti)
	for _, l := range all {
		if err := inPod.set(l.Index, flags, flags); err != nil {
			return nil, fmt.Errorf("set %s up: %w", l.Name, explain(err))
		}
	}
	l := all[0]
	awaitCarrier := sync.OnceValue(func() (has bool) {
		_ = pod.Do(func(ns.NetNS) error {
			has = awaitCarrier(ctx, l.Index)
			return nil
		})
		return has
	})
	if a.Allocate != nil {
		_ = awaitCarrier() // a first request of DHCP would be lost
		if err := a.Allocate(ctx); err != nil {
			return nil, err
		}
	}
	r := resultOf(&types100.Interface{Name: a.IfName, Mac: l.HardwareAddr.String(), Mtu: l.MTU, Sandbox: a.Netns, PciID: pci}, a.IPAM)
	if a.IPAM == nil || want.l2 {
		return r, nil
	}
	set := func() error {
		return pod.Do(func(ns.NetNS) error {
			has6 := slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.To4() == nil })
			if has6 {
				defer hasten(a.IfName)()
			}
			err := ipam.ConfigureIface(a.IfName, r)
			if err == nil && awaitCarrier() && has6 {
				err = ip.SettleAddresses(a.IfName, settleWait)
			}
			return err
		})
	}
	if err := do(ctx, set, "set addresses of %s", a.IfName); err != nil {
		return nil, err
	}
	return r, pod.Do(func(ns.NetNS) error { return announce(l.Index, l.HardwareAddr, r.IPs) })
}

// settleWait bounds the wait for IPv6 addresses, which may be used only when no other host has
// answered that it has them (RFC 4862, section 5.4).
const settleWait = 3 * time.Second

// hasten makes the kernel wait 0.1 s for hosts that have an address of an interface already,
// instead of up to two seconds. unhasten sets back what it was. Where /proc is not to be written
// to, the pod waits.
func hasten(ifName string) (unhasten func()) {
	was := map[string]string{}
	for key, value := range map[string]string{"net/ipv6/neigh/%s/retrans_time_ms": "100", "net/ipv6/conf/%s/router_solicitation_delay": "0"} {
		key = fmt.Sprintf(key, ifName)
		if now, err := sysctl.Sysctl(key); err == nil {
			was[key] = now
			_, _ = sysctl.Sysctl(key, value)
		}
	}
	return func() {
		for key, value := range was {
			_, _ = sysctl.Sysctl(key, value)
		}
	}
}

// notify makes the kernel announce the interface when it gets another address. Where /proc is
// not to be written to, it does not.
func notify(ifName string) error {
	for _, key := range []string{"net/ipv4/conf/%s/arp_notify", "net/ipv6/conf/%s/ndisc_notify"} {
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
