package sriov

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// unused refuses a function whose interface the node uses: DEL could not give
// back what the node would lose.
func (h *host) unused(pci string, all []*netlink.LinkAttrs) error {
	for _, l := range all {
		use, err := h.use(pci, l)
		if err != nil {
			return fmt.Errorf("interface %s of %s: %w", l.Name, pci, err)
		}
		if use != "" {
			return fmt.Errorf("%s %w by the node: %s %s: end that use, or set \"allowInUse\": true in the network's configuration", pci, errTaken, l.Name, use)
		}
	}
	return nil
}

// use says what the node uses an interface for, empty when it does not.
func (h *host) use(pci string, l *netlink.LinkAttrs) (string, error) {
	if l.MasterIndex != 0 {
		master, err := h.links.byIndex(l.MasterIndex)
		if err != nil || master == nil {
			return fmt.Sprintf("belongs to interface %d", l.MasterIndex), err
		}
		return "belongs to interface " + master.Name, nil
	}
	if l.Xdp != nil && l.Xdp.Attached {
		return "has an XDP program", nil
	}
	use, err := h.sys.upper(pci, l.Name)
	for _, look := range []func(int) (string, error){h.links.addressOf, h.links.routeOf, h.links.guestOf, h.links.filterOf} {
		if err != nil || use != "" {
			break
		}
		use, err = look(l.Index)
	}
	return use, err
}

// upper is an interface on top of a function's interface, a VLAN or a macvlan,
// empty when there is none. The kernel shows those of the node alone.
func (s sysfs) upper(pci, name string) (string, error) {
	names, err := s.list(pci, "net", name)
	for _, n := range names {
		if upper, ok := strings.CutPrefix(n, "upper_"); ok {
			return "is below interface " + upper, nil
		}
	}
	return "", err
}

// search asks for all objects of a kind that a request selects, and returns what use says of
// one of them, given its head, of a size, and its attributes; empty when it says nothing of any.
// what names the objects in errors.
func (l *links) search(what string, typ, size int, use func([]byte, map[uint16][]byte) string, request ...nl.NetlinkRequestData) (string, error) {
	answers, err := l.dump(typ, request...)
	for _, data := range answers {
		head, attrs, errSplit := splitMessage(data, size)
		if err = errSplit; err != nil {
			break
		}
		if is := use(head, attrs); is != "" {
			return is, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	return "", nil
}

// addressOf names an address of an interface. A link-local one of IPv6 does not
// count: each interface that is up has one.
func (l *links) addressOf(index int) (string, error) {
	msg := nl.NewIfAddrmsg(unix.AF_UNSPEC)
	msg.Index = uint32(index)
	return l.search("addresses", unix.RTM_GETADDR, unix.SizeofIfAddrmsg, func(head []byte, attrs map[uint16][]byte) string {
		address, _ := netip.AddrFromSlice(attrs[unix.IFA_ADDRESS])
		if local, ok := netip.AddrFromSlice(attrs[unix.IFA_LOCAL]); ok {
			address = local
		}
		if nl.DeserializeIfAddrmsg(head).Index != uint32(index) || address.Is6() && address.IsLinkLocalUnicast() {
			return ""
		}
		return "has the address " + address.String()
	}, msg)
}

// routeOf names a route of any table that goes through an interface. The
// kernel's own of link-local and multicast addresses of IPv6 do not count.
func (l *links) routeOf(index int) (use string, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}}
		// The answers are about this interface alone, as the request is strict.
		use, err = l.search("routes", unix.RTM_GETROUTE, unix.SizeofRtMsg, func(head []byte, attrs map[uint16][]byte) string {
			route := nl.DeserializeRtMsg(head)
			to, ok := netip.AddrFromSlice(attrs[unix.RTA_DST])
			if !ok {
				return "has a default route"
			}
			if route.Protocol == unix.RTPROT_KERNEL && to.Is6() && (to.IsLinkLocalUnicast() || to.IsMulticast()) {
				return ""
			}
			return "has the route " + netip.PrefixFrom(to, int(route.Dst_len)).String()
		}, msg, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
		if err != nil || use != "" {
			break
		}
	}
	return use, err
}

// guestOf names an address of the link layer for which an interface receives
// besides its own: that of a macvlan in a pod, which the node does not show, or
// one that people have added with bridge(8).
func (l *links) guestOf(index int) (string, error) {
	return l.search("forwarding entries", unix.RTM_GETNEIGH, unix.SizeofNdMsg, func(head []byte, attrs map[uint16][]byte) string {
		const flags = 10 // offset of ndm_flags in struct ndmsg (linux/neighbour.h)
		mac := attrs[unix.NDA_LLADDR]
		if head[flags]&unix.NTF_SELF == 0 || len(mac) == 0 || mac[0]&1 != 0 {
			return ""
		}
		return fmt.Sprintf("receives for %s too, a macvlan of a pod or an entry of bridge fdb", net.HardwareAddr(mac))
	}, &netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index)})
}

// filterOf says whether an interface has a qdisc for filters of received
// packets, clsact or ingress.
func (l *links) filterOf(index int) (string, error) {
	// Some kernels answer nothing without these flags.
	answers, err := l.request(unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO, &nl.TcMsg{Ifindex: int32(index), Parent: netlink.HANDLE_INGRESS})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return "", nil // none, one that has gone, a kernel without any
	case err != nil:
		return "", fmt.Errorf("qdisc: %w", err)
	case len(answers) > 0:
		return "has filters of tc (clsact or ingress)", nil
	}
	return "", nil
}
