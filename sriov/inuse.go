package sriov

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/podnet"
)

// unused refuses a function whose interface the node uses: DEL could not give
// back what the node would lose.
func (h *host) unused(pci string, devs []netdev) error {
	for _, d := range devs {
		use, err := h.use(pci, d)
		if err != nil {
			return fmt.Errorf("interface %s of %s: %w", d.Name, pci, err)
		}
		if use != "" {
			return fmt.Errorf("%s %w by the node: %s %s: end that use, or set \"allowInUse\": true in the network's configuration", pci, errTaken, d.Name, use)
		}
	}
	return nil
}

// use says what the node uses an interface for, empty when it does not.
func (h *host) use(pci string, d netdev) (string, error) {
	link, err := h.links.byIndex(d.Index)
	if err != nil || link == nil {
		return "", err
	}
	if link.MasterIndex != 0 {
		master, err := h.links.byIndex(link.MasterIndex)
		if err != nil || master == nil {
			return fmt.Sprintf("belongs to interface %d", link.MasterIndex), err
		}
		return "belongs to interface " + master.Name, nil
	}
	if link.Xdp != nil && link.Xdp.Attached {
		return "has an XDP program", nil
	}
	if upper, err := h.sys.upper(pci, d.Name); err != nil {
		return "", err
	} else if upper != "" {
		return "is below interface " + upper, nil
	}
	for _, look := range []func(int) (string, error){h.links.addressOf, h.links.routeOf, h.links.guestOf, h.links.filterOf} {
		if use, err := look(d.Index); err != nil || use != "" {
			return use, err
		}
	}
	return "", nil
}

// upper is an interface on top of a function's interface, a VLAN or a macvlan,
// empty when there is none. The kernel shows those of the node alone.
func (s sysfs) upper(pci, name string) (string, error) {
	entries, err := os.ReadDir(s.device(pci, "net", name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it goes at this moment
	}
	for _, e := range entries {
		if upper, ok := strings.CutPrefix(filepath.Base(e.Name()), "upper_"); ok {
			return upper, nil
		}
	}
	return "", err
}

// families are those of addresses and routes.
var families = []int{unix.AF_INET, unix.AF_INET6}

// dump asks for all objects of a kind that a request selects.
func (l *links) dump(typ int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	return podnet.Dump(func() ([][]byte, error) { return l.request(typ, unix.NLM_F_DUMP, data...) })
}

// addressOf names an address of an interface. A link-local one of IPv6 does not
// count: each interface that is up has one.
func (l *links) addressOf(index int) (string, error) {
	for _, family := range families {
		msg := nl.NewIfAddrmsg(family)
		msg.Index = uint32(index)
		answers, err := l.dump(unix.RTM_GETADDR, msg)
		if err != nil {
			return "", fmt.Errorf("addresses: %w", err)
		}
		for _, data := range answers {
			head, attrs, err := splitMessage(data, unix.SizeofIfAddrmsg)
			if err != nil {
				return "", fmt.Errorf("addresses: %w", err)
			}
			if got := nl.DeserializeIfAddrmsg(head); got.Index != uint32(index) {
				continue
			}
			address, _ := netip.AddrFromSlice(attrs[unix.IFA_ADDRESS])
			if local, ok := netip.AddrFromSlice(attrs[unix.IFA_LOCAL]); ok {
				address = local
			}
			if !address.Is6() || !address.IsLinkLocalUnicast() {
				return "has the address " + address.String(), nil
			}
		}
	}
	return "", nil
}

// routeOf names a route of any table that goes through an interface. The
// kernel's own of link-local and multicast addresses of IPv6 do not count.
func (l *links) routeOf(index int) (string, error) {
	for _, family := range families {
		msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}}
		answers, err := l.dump(unix.RTM_GETROUTE, msg, nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
		if err != nil {
			return "", fmt.Errorf("routes: %w", err)
		}
		for _, data := range answers { // of this interface alone, the request is strict
			head, attrs, err := splitMessage(data, unix.SizeofRtMsg)
			if err != nil {
				return "", fmt.Errorf("routes: %w", err)
			}
			route := nl.DeserializeRtMsg(head)
			to, ok := netip.AddrFromSlice(attrs[unix.RTA_DST])
			if !ok {
				return "has a default route", nil
			}
			if route.Protocol != unix.RTPROT_KERNEL || !to.Is6() || !to.IsLinkLocalUnicast() && !to.IsMulticast() {
				return "has the route " + netip.PrefixFrom(to, int(route.Dst_len)).String(), nil
			}
		}
	}
	return "", nil
}

// guestOf names an address of the link layer for which an interface receives
// besides its own: that of a macvlan in a pod, which the node does not show, or
// one that people have added with bridge(8).
func (l *links) guestOf(index int) (string, error) {
	answers, err := l.dump(unix.RTM_GETNEIGH, &netlink.Ndmsg{Family: unix.AF_BRIDGE, Index: uint32(index)})
	if err != nil {
		return "", fmt.Errorf("forwarding entries: %w", err)
	}
	for _, data := range answers {
		head, attrs, err := splitMessage(data, unix.SizeofNdMsg)
		if err != nil {
			return "", fmt.Errorf("forwarding entries: %w", err)
		}
		const flags = 10 // offset of ndm_flags in struct ndmsg (linux/neighbour.h)
		if mac := attrs[unix.NDA_LLADDR]; head[flags]&unix.NTF_SELF != 0 && len(mac) > 0 && mac[0]&1 == 0 {
			return fmt.Sprintf("receives for %s too, a macvlan of a pod or an entry of bridge fdb", net.HardwareAddr(mac)), nil
		}
	}
	return "", nil
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

// splitMessage is a netlink message's head, of a size, and its attributes.
func splitMessage(data []byte, size int) (head []byte, attrs map[uint16][]byte, err error) {
	if len(data) < size {
		return nil, nil, errors.New("the kernel's answer is short")
	}
	all, err := parseAttrs(data[size:])
	if err != nil {
		return nil, nil, err
	}
	attrs = map[uint16][]byte{}
	for _, a := range all {
		attrs[a.Attr.Type&nl.NLA_TYPE_MASK] = slices.Clone(a.Value)
	}
	return data[:size], attrs, nil
}
