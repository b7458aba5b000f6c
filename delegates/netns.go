package delegates

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	vishns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/netns"
)

// inNetns lends a netlink handle on a network namespace. No thread enters it.
func inNetns(path string, do func(*netlink.Handle) error) error {
	ns, err := vishns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer h.Close()
	return do(h)
}

// routeDefault gives the default routes to the attachment that the pod asked
// it for (NPWG specification 1.3, section 4.1.2.1.9): for each family of the
// gateways, every other default route goes and the ones asked for come. The
// results say so, and each attachment that loses one keeps it in mind. note is
// called before the kernel is; may be nil.
func (e *Engine) routeDefault(ctx context.Context, netns string, entries []*Entry, results []*types100.Result, note func() error) error {
	at := slices.IndexFunc(entries, func(entry *Entry) bool { return len(entry.DefaultRoute) > 0 })
	if at < 0 {
		return nil
	}
	entry := entries[at]
	for i, result := range results {
		var kept []*types.Route
		for _, route := range result.Routes {
			switch {
			case !isDefault(&route.Dst) || !entry.takes(route.Dst.IP.To4() != nil):
				kept = append(kept, route)
			case i != at:
				displaced := route.Copy()
				if displaced.GW == nil {
					displaced.GW = gatewayOf(result, route.Dst.IP.To4() != nil)
				}
				entries[i].Displaced = append(entries[i].Displaced, displaced)
			}
		}
		result.Routes = kept
	}
	for _, gw := range entry.DefaultRoute {
		results[at].Routes = append(results[at].Routes, &types.Route{Dst: *defaultDst(gw), GW: gw.Unmap().AsSlice()})
	}
	if note != nil {
		if err := note(); err != nil {
			return err
		}
	}
	if err := conf.Step(ctx, "%s: take the default route", entry.IfName); err != nil {
		return err
	}
	if err := inNetns(netns, func(h *netlink.Handle) error { return moveDefault(h, entry) }); err != nil {
		return fmt.Errorf("default-route of %s (network %s): %w", entry.IfName, entry.Name, err)
	}
	return nil
}

// takes reports whether the attachment was asked for the default route of a family.
func (entry *Entry) takes(ipv4 bool) bool {
	return slices.ContainsFunc(entry.DefaultRoute, func(gw netip.Addr) bool { return gw.Unmap().Is4() == ipv4 })
}

// gatewayOf is what a route without a gateway of its own goes through.
func gatewayOf(r *types100.Result, ipv4 bool) net.IP {
	for _, ip := range r.IPs {
		if (ip.Address.IP.To4() != nil) == ipv4 && ip.Gateway != nil {
			return ip.Gateway
		}
	}
	return nil
}

// restoreDefault gives the default routes back to those that lost them, when the
// attachment that took them is gone. netns may be "", a namespace that is gone.
func (e *Engine) restoreDefault(ctx context.Context, netns string, entries []*Entry) error {
	if slices.ContainsFunc(entries, func(entry *Entry) bool { return len(entry.DefaultRoute) > 0 }) {
		return nil
	}
	var errs []error
	for _, entry := range entries {
		if len(entry.Displaced) > 0 {
			if err := entry.restoreRoutes(ctx, netns); err != nil {
				errs = append(errs, fmt.Errorf("%s (network %s): give the default route back: %w", entry.IfName, entry.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (entry *Entry) restoreRoutes(ctx context.Context, netns string) error {
	result, err := entry.ParseResult()
	if err != nil {
		return err
	}
	if err := conf.Step(ctx, "%s: give the default route back", entry.IfName); err != nil {
		return err
	}
	for _, route := range entry.Displaced {
		if !slices.ContainsFunc(result.Routes, func(r *types.Route) bool { return isDefault(&r.Dst) && r.Dst.String() == route.Dst.String() }) {
			result.Routes = append(result.Routes, route)
		}
		if netns == "" {
			continue
		}
		err := inNetns(netns, func(h *netlink.Handle) error {
			link, err := h.LinkByName(entry.IfName)
			if err != nil {
				return err
			}
			return h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &route.Dst, Gw: route.GW})
		})
		if err != nil {
			return err
		}
	}
	data, err := encodeResult(result)
	if err != nil {
		return err
	}
	entry.Result, entry.Displaced = data, nil
	return nil
}

func moveDefault(h *netlink.Handle, entry *Entry) error {
	link, err := h.LinkByName(entry.IfName)
	if err != nil {
		return fmt.Errorf("the interface is needed in the pod's network namespace: %w", err)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		asked := slices.DeleteFunc(slices.Clone(entry.DefaultRoute), func(gw netip.Addr) bool {
			return gw.Unmap().Is4() != (family == netlink.FAMILY_V4)
		})
		if len(asked) == 0 {
			continue
		}
		routes, err := netns.Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, family) })
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, route := range routes {
			if route.Dst != nil && !isDefault(route.Dst) {
				continue
			}
			if err := h.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove %s: %w", route, err)
			}
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: defaultDst(asked[0])}
		if len(asked) == 1 {
			route.Gw = asked[0].Unmap().AsSlice()
		}
		for _, gw := range asked[1:] {
			if route.MultiPath == nil {
				route.MultiPath = []*netlink.NexthopInfo{{LinkIndex: route.LinkIndex, Gw: asked[0].Unmap().AsSlice()}}
			}
			route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: route.LinkIndex, Gw: gw.Unmap().AsSlice()})
		}
		if route.MultiPath != nil {
			route.LinkIndex = 0
		}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("default route via %v: %w", asked, err)
		}
	}
	return nil
}

func defaultDst(gw netip.Addr) *net.IPNet {
	if gw.Unmap().Is4() {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// compareLinks holds the pod's namespace against a result: every interface of
// the result that is a kernel link is there with its MAC and MTU, and has the
// addresses that the result gives it.
func compareLinks(path string, r *types100.Result) error {
	if !slices.ContainsFunc(r.Interfaces, isPodLink) {
		return nil
	}
	return inNetns(path, func(h *netlink.Handle) error {
		var errs []error
		for i, want := range r.Interfaces {
			if !isPodLink(want) {
				continue
			}
			link, err := h.LinkByName(want.Name)
			if want.PciID != "" && (err != nil || link.Attrs().ParentDev != want.PciID) {
				continue // bound to a user-space driver; the delegate says what is missing else
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %s: %w", want.Name, err))
				continue
			}
			if have := link.Attrs().HardwareAddr.String(); want.Mac != "" && !strings.EqualFold(have, want.Mac) {
				errs = append(errs, fmt.Errorf("interface %s: MAC is %s, was %s", want.Name, have, want.Mac))
			}
			if have := link.Attrs().MTU; want.Mtu != 0 && have != want.Mtu {
				errs = append(errs, fmt.Errorf("interface %s: MTU is %d, was %d", want.Name, have, want.Mtu))
			}
			addrs, err := netns.Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %s: list addresses: %w", want.Name, err))
				continue
			}
			for _, ip := range r.IPs {
				if ip.Interface == nil || *ip.Interface != i {
					continue
				}
				if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == ip.Address.String() }) {
					errs = append(errs, fmt.Errorf("interface %s: address %s is gone", want.Name, ip.Address.String()))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// isPodLink reports whether an interface of a result is a link in the pod's
// namespace; a socket is none, a PCI function may be one.
func isPodLink(i *types100.Interface) bool {
	return i.Sandbox != "" && i.SocketPath == ""
}

// compareDefault holds the pod's default routes against what was asked for: of
// the families of the gateways these alone are there.
func compareDefault(path string, entry *Entry) error {
	if len(entry.DefaultRoute) == 0 {
		return nil
	}
	return inNetns(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(entry.IfName)
		if err != nil {
			return fmt.Errorf("interface %s: %w", entry.IfName, err)
		}
		routes, err := netns.Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) }) // one with several hops is of no link
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		missing := slices.Clone(entry.DefaultRoute)
		var errs []error
		for _, route := range routes {
			if route.Dst != nil && !isDefault(route.Dst) || !slices.ContainsFunc(entry.DefaultRoute, func(gw netip.Addr) bool {
				return gw.Unmap().Is4() == (route.Family == netlink.FAMILY_V4)
			}) {
				continue
			}
			hops := route.MultiPath
			if len(hops) == 0 {
				hops = []*netlink.NexthopInfo{{LinkIndex: route.LinkIndex, Gw: route.Gw}}
			}
			for _, hop := range hops {
				asked := func(gw netip.Addr) bool {
					return hop.LinkIndex == link.Attrs().Index && hop.Gw.Equal(gw.Unmap().AsSlice())
				}
				missing = slices.DeleteFunc(missing, asked)
				if !slices.ContainsFunc(entry.DefaultRoute, asked) {
					errs = append(errs, fmt.Errorf("interface %s: there is another default route, via %s", entry.IfName, hop.Gw))
				}
			}
		}
		for _, gw := range missing {
			errs = append(errs, fmt.Errorf("interface %s: the default route via %s is gone", entry.IfName, gw))
		}
		return errors.Join(errs...)
	})
}
