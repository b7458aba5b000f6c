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
	sent   int // requests
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
	if err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", cmp.Or(path, "the node's network namespace"), err)
	}
	l := &links{handle: &nl.SocketHandle{Socket: socket}}
	// The kernel filters dumps for strict requests alone (Linux 4.20).
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		l.close()
		return nil, fmt.Errorf("netlink in %s: %w", cmp.Or(path, "the node's network namespace"), err)
	}
	return l, nil
}

func (l *links) close() { l.handle.Close() }

func (l *links) request(typ, flags int, data ...nl.NetlinkRequestData) ([][]byte, error) {
	l.sent++
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
	flags := 0
	if msg.Index == 0 && len(attrs) == 0 {
		flags = unix.NLM_F_DUMP
	}
	return l.request(unix.RTM_GETLINK, flags, append([]nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(mask))}, attrs...)...)
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
	answers, err := podnet.Dump(func() ([][]byte, error) { return l.get(filterSkipStats, ifinfo(0)) })
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

func one(answers [][]byte, err error) (*netlink.LinkAttrs, error) {
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil:
		return nil, err
	case len(answers) != 1:
		return nil, fmt.Errorf("the kernel answered with %d interfaces", len(answers))
	}
	link, err := netlink.LinkDeserialize(nil, answers[0])
	if err != nil {
		return nil, err
	}
	return link.Attrs(), nil
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
