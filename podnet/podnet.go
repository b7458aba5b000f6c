package podnet

import (
	"cmp"
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
)

// With lends a netlink handle on a network namespace. No thread enters it.
func With(path string, do func(*netlink.Handle) error) error {
	ns, err := vishns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(foreign(ns), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer h.Close()
	return do(h)
}

// dumps bounds how often a list is requested.
const dumps = 100

// Dump reads a list from the kernel. It reads the list again when the kernel has changed it
// meanwhile, for instance when an IPv6 address ceased to be tentative (NLM_F_DUMP_INTR, Linux'
// Documentation/userspace-api/netlink/intro.rst).
func Dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// defaultRoutes lists the default routes of the gateways' families, of all interfaces: a route
// with several hops has none.
func defaultRoutes(h *netlink.Handle, gateways []netip.Addr) ([]netlink.Route, error) {
	routes, err := Dump(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return slices.DeleteFunc(routes, func(route netlink.Route) bool {
		return route.Dst != nil && !IsDefault(route.Dst) || len(ofFamily(route.Family, gateways)) == 0
	}), nil
}

// ofFamily are the gateways of a netlink family.
func ofFamily(family int, gateways []netip.Addr) (some []netip.Addr) {
	for _, gw := range gateways {
		if gw.Unmap().Is4() == (family == netlink.FAMILY_V4) {
			some = append(some, gw)
		}
	}
	return some
}

// MoveDefault gives the default routes of the gateways' families to an interface and removes
// all others. Several gateways of a family share the traffic.
func MoveDefault(path, ifName string, gateways []netip.Addr) error {
	return With(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("the interface is needed in the pod's network namespace: %w", err)
		}
		routes, err := defaultRoutes(h, gateways)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if err := h.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove %s: %w", route, err)
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			gateways := ofFamily(family, gateways)
			if len(gateways) == 0 {
				continue
			}
			route := &netlink.Route{Dst: DefaultDst(gateways[0])}
			for _, gw := range gateways {
				route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: gw.Unmap().AsSlice()})
			}
			if len(gateways) == 1 {
				route.LinkIndex, route.Gw, route.MultiPath = link.Attrs().Index, route.MultiPath[0].Gw, nil
			}
			if err := h.RouteAdd(route); err != nil {
				return fmt.Errorf("default route via %v: %w", gateways, err)
			}
		}
		return nil
	})
}

// ReplaceRoutes gives an interface routes, in place of those to the same destinations.
func ReplaceRoutes(path, ifName string, routes []*types.Route) error {
	return With(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(ifName)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &route.Dst, Gw: route.GW}); err != nil {
				return err
			}
		}
		return nil
	})
}

// DefaultDst is the destination of a default route of a gateway's family.
func DefaultDst(gw netip.Addr) *net.IPNet {
	if gw.Unmap().Is4() {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// noMAC is what a result of the plugin loopback has; netlink has no address of such a link.
const noMAC = "00:00:00:00:00:00"

// CompareLinks compares the pod's namespace with a result: every interface of the result that
// is a kernel link has to exist, with its MAC, MTU and addresses.
func CompareLinks(path string, r *types100.Result) error {
	if !slices.ContainsFunc(r.Interfaces, IsLink) {
		return nil
	}
	return With(path, func(h *netlink.Handle) error {
		var errs []error
		for i, want := range r.Interfaces {
			if !IsLink(want) {
				continue
			}
			link, err := h.LinkByName(want.Name)
			if want.PciID != "" && (err != nil || link.Attrs().ParentDev != want.PciID) {
				continue // bound to a user-space driver; the delegate's CHECK compares it
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %s: %w", want.Name, err))
				continue
			}
			if have := cmp.Or(link.Attrs().HardwareAddr.String(), noMAC); want.Mac != "" && !strings.EqualFold(have, want.Mac) {
				errs = append(errs, fmt.Errorf("interface %s: MAC is %s, was %s", want.Name, have, want.Mac))
			}
			if have := link.Attrs().MTU; want.Mtu != 0 && have != want.Mtu {
				errs = append(errs, fmt.Errorf("interface %s: MTU is %d, was %d", want.Name, have, want.Mtu))
			}
			addrs, err := Dump(func() ([]netlink.Addr, error) { return h.AddrList(link, netlink.FAMILY_ALL) })
			if err != nil {
				errs = append(errs, fmt.Errorf("interface %s: list addresses: %w", want.Name, err))
				continue
			}
			for _, ip := range r.IPs {
				if ip.Interface == nil || *ip.Interface != i {
					continue
				}
				at := slices.IndexFunc(addrs, func(a netlink.Addr) bool { return a.IPNet.String() == ip.Address.String() })
				if at < 0 {
					errs = append(errs, fmt.Errorf("interface %s: address %s is gone", want.Name, ip.Address.String()))
				} else if addrs[at].Flags&unix.IFA_F_DADFAILED != 0 {
					errs = append(errs, fmt.Errorf("interface %s: address %s is not used: another host has it (dadfailed)", want.Name, ip.Address.String()))
				}
			}
		}
		return errors.Join(errs...)
	})
}

// ReadMTUs corrects the MTUs that a result says of links in the pod's namespace.
func ReadMTUs(path string, r *types100.Result) error {
	says := func(i *types100.Interface) bool { return IsLink(i) && i.Mtu != 0 }
	if !slices.ContainsFunc(r.Interfaces, says) {
		return nil
	}
	return With(path, func(h *netlink.Handle) error {
		for _, i := range r.Interfaces {
			if !says(i) {
				continue
			}
			if link, err := h.LinkByName(i.Name); err == nil && (i.PciID == "" || link.Attrs().ParentDev == i.PciID) {
				i.Mtu = link.Attrs().MTU
			}
		}
		return nil
	})
}

// IsLink reports whether an interface of a result is a link in the pod's
// namespace; a socket is none, a PCI function may be one.
func IsLink(i *types100.Interface) bool {
	return i.Sandbox != "" && i.SocketPath == ""
}

// CompareDefault compares the pod's default routes with the gateways: the default
// routes of the gateways' families have to be exactly those to the gateways.
func CompareDefault(path, ifName string, gateways []netip.Addr) error {
	if len(gateways) == 0 {
		return nil
	}
	return With(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(ifName)
		if err != nil {
			return fmt.Errorf("interface %s: %w", ifName, err)
		}
		routes, err := defaultRoutes(h, gateways)
		if err != nil {
			return err
		}
		missing := slices.Clone(gateways)
		var errs []error
		for _, route := range routes {
			hops := route.MultiPath
			if len(hops) == 0 {
				hops = []*netlink.NexthopInfo{{LinkIndex: route.LinkIndex, Gw: route.Gw}}
			}
			for _, hop := range hops {
				isHop := func(gw netip.Addr) bool {
					return hop.LinkIndex == link.Attrs().Index && hop.Gw.Equal(gw.Unmap().AsSlice())
				}
				missing = slices.DeleteFunc(missing, isHop)
				if !slices.ContainsFunc(gateways, isHop) {
					errs = append(errs, fmt.Errorf("interface %s: there is another default route, via %s", ifName, hop.Gw))
				}
			}
		}
		for _, gw := range missing {
			errs = append(errs, fmt.Errorf("interface %s: the default route via %s is gone", ifName, gw))
		}
		return errors.Join(errs...)
	})
}

// IsDefault reports whether a destination is that of a default route.
func IsDefault(dst *net.IPNet) bool {
	ones, _ := dst.Mask.Size()
	return ones == 0 && dst.IP.IsUnspecified()
}

// LinkNames are the names of the links in a namespace.
func LinkNames(path string) (names []string, err error) {
	err = With(path, func(h *netlink.Handle) error {
		links, err := Dump(h.LinkList)
		for _, link := range links {
			names = append(names, link.Attrs().Name)
		}
		return err
	})
	return names, err
}

// MAC is the hardware address of a link in a namespace, "" when there is none.
func MAC(path, name string) (mac string) {
	_ = With(path, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err == nil {
			mac = link.Attrs().HardwareAddr.String()
		}
		return err
	})
	return mac
}
