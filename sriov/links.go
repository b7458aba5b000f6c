package sriov

import (
	"bytes"
	"encoding/binary"
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

	"github.com/plexus-cni/plexus/netns"
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
		return nil, fmt.Errorf("netlink in %s: %w", orOwn(path), err)
	}
	l := &links{handle: &nl.SocketHandle{Socket: socket}}
	// The kernel filters dumps for strict requests alone (Linux 4.20).
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		l.close()
		return nil, fmt.Errorf("netlink in %s: %w", orOwn(path), err)
	}
	return l, nil
}

func orOwn(path string) string {
	if path == "" {
		return "the node's network namespace"
	}
	return path
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
	answers, err := netns.Dump(func() ([][]byte, error) { return l.get(filterSkipStats, ifinfo(0)) })
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

// vlanTag is what the NIC puts on a VF's frames.
type vlanTag struct {
	ID    uint32 `json:"id"`
	QoS   uint32 `json:"qos"`
	Proto uint16 `json:"proto"` // 0x8100 or 0x88a8
}

// settings are a VF's on its PF. nil is unknown, or not asked for.
type settings struct {
	VLAN      *vlanTag `json:"vlan,omitempty"`
	SpoofChk  *bool    `json:"spoofchk,omitempty"`
	Trust     *bool    `json:"trust,omitempty"`
	LinkState *uint32  `json:"linkState,omitempty"`
	MinRate   *uint32  `json:"minRate,omitempty"` // Mbit/s
	MaxRate   *uint32  `json:"maxRate,omitempty"`
}

// vfInfo is what a PF says of one VF.
type vfInfo struct {
	settings
	MAC net.HardwareAddr `json:"mac,omitempty"`
}

// vf reads what a PF says of a VF. The kernel tells about one only with all.
func (l *links) vf(pfIndex, number int) (*vfInfo, error) {
	answers, err := l.get(filterVF|filterSkipStats, ifinfo(pfIndex))
	if err != nil {
		return nil, err
	}
	if len(answers) != 1 {
		return nil, fmt.Errorf("the kernel answered with %d interfaces", len(answers))
	}
	attrs, err := parseAttrs(answers[0][unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		if a.Attr.Type&nl.NLA_TYPE_MASK != unix.IFLA_VFINFO_LIST {
			continue
		}
		vfs, err := parseAttrs(a.Value)
		if err != nil {
			return nil, err
		}
		for _, v := range vfs {
			info, n, err := parseVF(v.Value)
			if err != nil {
				return nil, err
			}
			if n == number {
				return info, nil
			}
		}
	}
	return nil, fmt.Errorf("the PF does not tell about VF %d", number)
}

// parseVF reads one IFLA_VF_INFO (linux/if_link.h, struct ifla_vf_*). Each
// attribute begins with the VF's number; -1 is what a driver does not know.
func parseVF(data []byte) (*vfInfo, int, error) {
	attrs, err := parseAttrs(data)
	if err != nil {
		return nil, 0, err
	}
	info, number := &vfInfo{}, -1
	native := binary.NativeEndian
	word := func(b []byte, i int) *uint32 {
		if len(b) < 4*(i+1) {
			return nil
		}
		n := native.Uint32(b[4*i:])
		return &n
	}
	known := func(b []byte) *bool {
		n := word(b, 1)
		if n == nil || *n == ^uint32(0) {
			return nil
		}
		on := *n != 0
		return &on
	}
	for _, a := range attrs {
		b := a.Value
		switch a.Attr.Type & nl.NLA_TYPE_MASK {
		case nl.IFLA_VF_MAC:
			if n := word(b, 0); n != nil && len(b) >= 10 {
				number, info.MAC = int(*n), bytes.Clone(b[4:10])
			}
		case nl.IFLA_VF_VLAN:
			if id, qos := word(b, 1), word(b, 2); id != nil && qos != nil && info.VLAN == nil {
				info.VLAN = &vlanTag{*id, *qos, proto8021q}
			}
		case nl.IFLA_VF_VLAN_LIST:
			list, err := parseAttrs(b)
			if err != nil {
				return nil, 0, err
			}
			for _, v := range list {
				if id, qos := word(v.Value, 1), word(v.Value, 2); id != nil && qos != nil && len(v.Value) >= 14 {
					info.VLAN = &vlanTag{*id, *qos, binary.BigEndian.Uint16(v.Value[12:])}
				}
			}
		case nl.IFLA_VF_RATE:
			info.MinRate, info.MaxRate = word(b, 1), word(b, 2)
		case nl.IFLA_VF_SPOOFCHK:
			info.SpoofChk = known(b)
		case nl.IFLA_VF_TRUST:
			info.Trust = known(b)
		case nl.IFLA_VF_LINK_STATE:
			info.LinkState = word(b, 1)
		}
	}
	if number < 0 {
		return nil, 0, errors.New("the PF tells about a VF without a number")
	}
	return info, number, nil
}

// setVF sets one attribute of a VF on its PF.
func (l *links) setVF(pfIndex int, attr int, payload []byte) error {
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST, nil)
	list.AddRtAttr(nl.IFLA_VF_INFO, nil).AddRtAttr(attr, payload)
	_, err := l.request(unix.RTM_SETLINK, unix.NLM_F_ACK, ifinfo(pfIndex), list)
	return err
}

func words(all ...uint32) []byte {
	var b []byte
	for _, w := range all {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

func (l *links) setVLAN(pfIndex, vf int, v vlanTag) error {
	payload := words(uint32(vf), v.ID, v.QoS)
	if v.Proto != proto8021ad { // a driver may tell of 0 where there is no VLAN
		return l.setVF(pfIndex, nl.IFLA_VF_VLAN, payload)
	}
	list := nl.NewRtAttr(nl.IFLA_VF_VLAN_INFO, append(binary.BigEndian.AppendUint16(payload, v.Proto), 0, 0))
	return l.setVF(pfIndex, nl.IFLA_VF_VLAN_LIST, list.Serialize())
}

func (l *links) setVFMAC(pfIndex, vf int, mac net.HardwareAddr) error {
	payload := make([]byte, 36) // struct ifla_vf_mac: the number and 32 bytes
	binary.NativeEndian.PutUint32(payload, uint32(vf))
	copy(payload[4:], mac)
	return l.setVF(pfIndex, nl.IFLA_VF_MAC, payload)
}

// setGUID sets an InfiniBand VF's node or port GUID (struct ifla_vf_guid).
func (l *links) setGUID(pfIndex, vf, attr int, guid net.HardwareAddr) error {
	payload := words(uint32(vf), 0)
	return l.setVF(pfIndex, attr, binary.NativeEndian.AppendUint64(payload, binary.BigEndian.Uint64(guid)))
}
