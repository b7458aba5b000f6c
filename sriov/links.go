package sriov

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vishns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/podnet"
)

// links speaks rtnetlink(7) in one network namespace, without entering it. It
// asks by index and without the VFs of a PF, which the library always asks for:
// with many of them that is slow and does not fit into an answer.
type links struct {
	handle *nl.SocketHandle
}

// openLinks opens the namespace at a path, this process' own if it is empty.
func openLinks(path string) (*links, error) {
	at := vishns.None()
	if path != "" {
		n, err := ns.GetNS(path)
		if err != nil {
			return nil, err
		}
		defer n.Close()
		at = vishns.NsHandle(n.Fd())
	}
	socket, err := nl.GetNetlinkSocketAt(at, vishns.None(), unix.NETLINK_ROUTE)
	if err == nil {
		// The kernel filters dumps for strict requests alone (Linux 4.20).
		if err = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
			socket.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", cmp.Or(path, "the node's network namespace"), err)
	}
	return &links{&nl.SocketHandle{Socket: socket}}, nil
}

func (l *links) close() { l.handle.Close() }

func (l *links) request(typ, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	req := nl.NewNetlinkRequest(typ, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: l.handle}
	for _, d := range data {
		req.AddData(d)
	}
	return req.Execute(unix.NETLINK_ROUTE, 0)
}

// Bits of IFLA_EXT_MASK (linux/rtnetlink.h, RTEXT_FILTER_*).
const (
	filterVF        = 1 << 0
	filterSkipStats = 1 << 3
)

func (l *links) get(mask uint32, msg *nl.IfInfomsg, attrs ...nl.NetlinkRequestData) ([][]byte, error) {
	return l.request(unix.RTM_GETLINK, 0, append([]nl.NetlinkRequestData{msg, extMask(mask)}, attrs...)...)
}

func extMask(mask uint32) nl.NetlinkRequestData {
	return nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(mask))
}

// dump asks for all objects of a kind that a request selects.
func (l *links) dump(typ int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	return podnet.Dump(func() ([][]byte, error) { return l.request(typ, unix.NLM_F_DUMP, data...) })
}

func ifinfo(index int) *nl.IfInfomsg {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return msg
}

// byIndex is an interface, nil when there is none.
func (l *links) byIndex(index int) (*netlink.LinkAttrs, error) {
	return one(l.get(filterSkipStats, ifinfo(index)))
}

// byName is the interface that has a name, or alternative name; nil when none
// has.
func (l *links) byName(name string) (*netlink.LinkAttrs, error) {
	return one(l.get(filterSkipStats, ifinfo(0), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name))))
}

// byParent are the interfaces of a PCI function, by index, whatever they are
// called (IFLA_PARENT_DEV_NAME, Linux 5.14).
func (l *links) byParent(pci string) ([]*netlink.LinkAttrs, error) {
	answers, err := l.dump(unix.RTM_GETLINK, ifinfo(0), extMask(filterSkipStats))
	if err != nil {
		return nil, err
	}
	var all []*netlink.LinkAttrs
	for _, data := range answers {
		link, err := one([][]byte{data}, nil)
		if err == nil && link != nil && link.ParentDev == pci && link.ParentDevBus == "pci" {
			all = append(all, link)
		}
	}
	slices.SortFunc(all, func(a, b *netlink.LinkAttrs) int { return a.Index - b.Index })
	return all, nil
}

// one is the interface of an answer, nil when the kernel knows none.
func one(answers [][]byte, err error) (*netlink.LinkAttrs, error) {
	answer, err := only(answers, err)
	if errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkDeserialize(nil, answer)
	if err != nil {
		return nil, err
	}
	return link.Attrs(), nil
}

func only(answers [][]byte, err error) ([]byte, error) {
	if err == nil && len(answers) != 1 {
		err = fmt.Errorf("the kernel answered with %d interfaces", len(answers))
	}
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// set changes an interface. change says which flags are to be as in flags.
func (l *links) set(index int, flags, change uint32, attrs ...nl.NetlinkRequestData) error {
	msg := ifinfo(index)
	msg.Flags, msg.Change = flags, change
	_, err := l.request(unix.RTM_SETLINK, unix.NLM_F_ACK, append([]nl.NetlinkRequestData{msg}, attrs...)...)
	return err
}

func (l *links) setMTU(index, mtu int) error {
	return l.set(index, 0, 0, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
}

func (l *links) setMAC(index int, mac net.HardwareAddr) error {
	return l.set(index, 0, 0, nl.NewRtAttr(unix.IFLA_ADDRESS, mac))
}

func (l *links) rename(index int, name string) error {
	return l.set(index, 0, 0, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// move moves an interface to a namespace and gives it a name there. The kernel
// does both in one request, but when the name is taken it has moved all the
// same: whoever calls has looked.
func (l *links) move(index int, to ns.NetNS, name string) error {
	return l.set(index, 0, 0, nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.Fd()))), nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
}

// altNames adds or removes alternative names, all in one request.
func (l *links) altNames(typ, index int, altNames []string) error {
	if len(altNames) == 0 {
		return nil
	}
	list := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	for _, n := range altNames {
		list.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated(n))
	}
	flags := unix.NLM_F_ACK
	if typ == unix.RTM_NEWLINKPROP {
		flags |= unix.NLM_F_CREATE | unix.NLM_F_APPEND | unix.NLM_F_EXCL
	}
	_, err := l.request(typ, flags, ifinfo(index), list)
	return err
}

// parseAttrs is nl.ParseRouteAttr, which panics where the last attribute lacks its
// padding.
func parseAttrs(b []byte) ([]syscall.NetlinkRouteAttr, error) {
	return nl.ParseRouteAttr(append(slices.Clip(b), make([]byte, -len(b)&3)...))
}

// attributes are attributes by their types; of several of one type the last.
func attributes(b []byte) (map[uint16][]byte, error) {
	all, err := parseAttrs(b)
	if err != nil {
		return nil, err
	}
	attrs := map[uint16][]byte{}
	for _, a := range all {
		attrs[a.Attr.Type&nl.NLA_TYPE_MASK] = a.Value
	}
	return attrs, nil
}

// splitMessage is a netlink message's head, of a size, and its attributes.
func splitMessage(data []byte, size int) (head []byte, attrs map[uint16][]byte, err error) {
	if len(data) < size {
		return nil, nil, errors.New("the kernel's answer is short")
	}
	attrs, err = attributes(data[size:])
	return data[:size], attrs, err
}
