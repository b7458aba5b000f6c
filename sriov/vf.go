package sriov

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

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
