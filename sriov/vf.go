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

// vf reads the settings of a VF from its PF.
func (l *links) vf(pfIndex, number int) (*vfInfo, error) {
	all, err := l.vfs(pfIndex)
	if err == nil && all[number] == nil {
		err = fmt.Errorf("the PF does not tell about VF %d", number)
	}
	return all[number], err
}

// vfs reads the settings of the VFs of a PF by their numbers. The kernel sends them all at once.
func (l *links) vfs(pfIndex int) (map[int]*vfInfo, error) {
	answer, err := only(l.get(filterVF|filterSkipStats, ifinfo(pfIndex)))
	if err != nil {
		return nil, err
	}
	_, attrs, err := splitMessage(answer, unix.SizeofIfInfomsg)
	if err != nil {
		return nil, err
	}
	vfs, err := parseAttrs(attrs[unix.IFLA_VFINFO_LIST])
	if err != nil {
		return nil, err
	}
	all := map[int]*vfInfo{}
	for _, v := range vfs {
		info, n, err := parseVF(v.Value)
		if err != nil {
			return nil, err
		}
		all[n] = info
	}
	return all, nil
}

// parseVF reads one IFLA_VF_INFO (linux/if_link.h, struct ifla_vf_*). Each attribute begins
// with the VF's number. An attribute that is missing or short is a setting that is not known.
func parseVF(data []byte) (*vfInfo, int, error) {
	attrs, err := attributes(data)
	if err != nil {
		return nil, 0, err
	}
	vlans, err := attributes(attrs[nl.IFLA_VF_VLAN_LIST])
	if err != nil {
		return nil, 0, err
	}
	mac := attrs[nl.IFLA_VF_MAC]
	if len(mac) < 10 {
		return nil, 0, errors.New("the PF tells about a VF without a number")
	}
	info := &vfInfo{settings{
		SpoofChk: known(attrs[nl.IFLA_VF_SPOOFCHK]), Trust: known(attrs[nl.IFLA_VF_TRUST]), LinkState: word(attrs[nl.IFLA_VF_LINK_STATE], 1),
		MinRate: word(attrs[nl.IFLA_VF_RATE], 1), MaxRate: word(attrs[nl.IFLA_VF_RATE], 2),
	}, bytes.Clone(mac[4:10])}
	if b := attrs[nl.IFLA_VF_VLAN]; len(b) >= 12 {
		info.VLAN = &vlanTag{*word(b, 1), *word(b, 2), proto8021q}
	}
	if b := vlans[nl.IFLA_VF_VLAN_INFO]; len(b) >= 14 { // it has the protocol, which old kernels do not send
		info.VLAN = &vlanTag{*word(b, 1), *word(b, 2), binary.BigEndian.Uint16(b[12:])}
	}
	return info, int(*word(mac, 0)), nil
}

// word is one of the 32-bit words of an attribute, nil when the attribute is too short.
func word(b []byte, i int) *uint32 {
	if len(b) < 4*(i+1) {
		return nil
	}
	return new(binary.NativeEndian.Uint32(b[4*i:]))
}

// known is a setting that is on or off; -1 stands for one that the driver does not know.
func known(b []byte) *bool {
	n := word(b, 1)
	if n == nil || *n == ^uint32(0) {
		return nil
	}
	return new(*n != 0)
}

// change is one request to a PF, about one of its VFs.
type change struct {
	says    string
	attr    int    // IFLA_VF_*
	payload []byte // of the attribute, behind the VF's number
}

// setVF sends a change of a VF to its PF.
func (l *links) setVF(pfIndex, vf int, c change) error {
	payload := append(words(uint32(vf)), c.payload...)
	if c.attr == nl.IFLA_VF_VLAN_LIST {
		payload = nl.NewRtAttr(nl.IFLA_VF_VLAN_INFO, payload).Serialize()
	}
	list := nl.NewRtAttr(unix.IFLA_VFINFO_LIST, nil)
	list.AddRtAttr(nl.IFLA_VF_INFO, nil).AddRtAttr(c.attr, payload)
	return l.set(pfIndex, 0, 0, list)
}

func words(all ...uint32) []byte {
	var b []byte
	for _, w := range all {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// change gives a VF the tag.
func (v vlanTag) change() change {
	payload := words(v.ID, v.QoS)
	if v.Proto != proto8021ad { // a driver may tell of 0 where there is no VLAN
		return change{"set " + v.String(), nl.IFLA_VF_VLAN, payload}
	}
	return change{"set " + v.String(), nl.IFLA_VF_VLAN_LIST, append(binary.BigEndian.AppendUint16(payload, v.Proto), 0, 0)}
}

// macChange gives a VF an address; zeroMAC takes it away.
func macChange(mac net.HardwareAddr) change {
	payload := make([]byte, 32) // struct ifla_vf_mac
	copy(payload, mac)
	return change{"set mac " + mac.String(), nl.IFLA_VF_MAC, payload}
}

// guidChanges give an InfiniBand VF its GUIDs (struct ifla_vf_guid, whose GUID is aligned).
func guidChanges(guid net.HardwareAddr) []change {
	payload := binary.NativeEndian.AppendUint64(words(0), binary.BigEndian.Uint64(guid))
	return []change{
		{"set node GUID " + guid.String(), nl.IFLA_VF_IB_NODE_GUID, payload},
		{"set port GUID " + guid.String(), nl.IFLA_VF_IB_PORT_GUID, payload},
	}
}
