package standin

import (
	"fmt"
	"strings"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
)

func (v *vswitch) registerInterfaces(t *table) {
	one(t, func(m *interfaces.SwInterfaceSetFlags) *interfaces.SwInterfaceSetFlagsReply {
		return &interfaces.SwInterfaceSetFlagsReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			return v.setUp(i, m.Flags&interface_types.IF_STATUS_API_FLAG_ADMIN_UP != 0)
		})}
	})
	one(t, func(m *interfaces.SwInterfaceSetMtu) *interfaces.SwInterfaceSetMtuReply {
		return &interfaces.SwInterfaceSetMtuReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			copy(i.mtu[:], m.Mtu)
			return success
		})}
	})
	one(t, func(m *interfaces.HwInterfaceSetMtu) *interfaces.HwInterfaceSetMtuReply {
		return &interfaces.HwInterfaceSetMtuReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if i.kind == kindVLAN {
				return int32(api.INVALID_VALUE)
			}
			i.linkMTU = m.Mtu
			return success
		})}
	})
	one(t, func(m *interfaces.SwInterfaceSetMacAddress) *interfaces.SwInterfaceSetMacAddressReply {
		return &interfaces.SwInterfaceSetMacAddressReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if i.kind == kindLocal || i.isIP() {
				return int32(api.UNIMPLEMENTED)
			}
			i.hardware().mac = append([]byte(nil), m.MacAddress[:]...)
			return success
		})}
	})
	one(t, func(m *interfaces.SwInterfaceTagAddDel) *interfaces.SwInterfaceTagAddDelReply {
		return &interfaces.SwInterfaceTagAddDelReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			switch tag := cut(cString(m.Tag)); {
			case !m.IsAdd:
				i.tag = ""
			case tag == "":
				return int32(api.INVALID_VALUE)
			default:
				i.tag = tag
			}
			return success
		})}
	})
	dump(t, v.interfaceDump)
	one(t, func(m *interfaces.CreateVlanSubif) *interfaces.CreateVlanSubifReply {
		reply := &interfaces.CreateVlanSubifReply{SwIfIndex: interface_types.InterfaceIndex(unset)}
		reply.Retval = v.with(m.SwIfIndex, func(i *iface) int32 {
			sub, code := v.createVLAN(i.hardware(), m.VlanID)
			if sub != nil {
				reply.SwIfIndex = interface_types.InterfaceIndex(sub.index)
			}
			return code
		})
		return reply
	})
	one(t, func(m *interfaces.DeleteSubif) *interfaces.DeleteSubifReply {
		return &interfaces.DeleteSubifReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if i.kind != kindVLAN {
				return int32(api.INVALID_SUB_SW_IF_INDEX)
			}
			v.remove(i)
			return success
		})}
	})
}

// with calls f with the interface of an index and returns its return code.
func (v *vswitch) with(index interface_types.InterfaceIndex, f func(i *iface) int32) int32 {
	i := v.interfaces[uint32(index)]
	if i == nil {
		return int32(api.INVALID_SW_IF_INDEX)
	}
	return f(i)
}

// hardware is the interface a VLAN is on, or the interface itself.
func (i *iface) hardware() *iface {
	if i.parent != nil {
		return i.parent
	}
	return i
}

// isIP tells whether packets of an interface have no Ethernet header.
func (i *iface) isIP() bool { return i.hardware().memif != nil && i.hardware().memif.mode == 1 }

// setUp sets the administrative state. A VLAN cannot be up on a port that is
// down.
func (v *vswitch) setUp(i *iface, up bool) int32 {
	if up && i.parent != nil && !i.parent.up {
		return int32(api.UNSPECIFIED)
	}
	changed := i.up != up
	i.up = up
	if !up {
		for _, sub := range i.subs {
			v.setUp(sub, false)
		}
	} else if i.memif != nil {
		v.connectClient(i)
	}
	if changed {
		v.events = append(v.events, event(i, false))
	}
	return success
}

func (v *vswitch) createVLAN(port *iface, id uint32) (*iface, int32) {
	switch {
	case id == 0 || id > 4095:
		return nil, int32(api.INVALID_VLAN)
	case port.subs[uint16(id)] != nil:
		return nil, int32(api.VLAN_ALREADY_EXISTS)
	}
	sub := v.add(&iface{kind: kindVLAN, name: fmt.Sprintf("%s.%d", port.name, id), mac: port.mac, parent: port, vlan: uint16(id)})
	sub.mtu[0] = 0
	port.subs[uint16(id)] = sub
	return sub, success
}

func (v *vswitch) interfaceDump(m *interfaces.SwInterfaceDump) (all []*interfaces.SwInterfaceDetails) {
	index := uint32(m.SwIfIndex)
	for _, i := range v.sorted("") {
		if m.NameFilterValid {
			if !strings.Contains(strings.ToLower(i.name), strings.ToLower(cString(m.NameFilter))) {
				continue
			}
		} else if index != unset && index != 0 && index != i.index {
			continue
		}
		all = append(all, i.details())
	}
	return all
}

// devTypes are the names of the drivers.
func devType(k kind) string {
	switch k {
	case kindLocal:
		return "local"
	case kindVhost:
		return "vhost"
	case kindTap:
		return "virtio"
	default:
		return "memif"
	}
}

func (i *iface) details() *interfaces.SwInterfaceDetails {
	port := i.hardware()
	d := &interfaces.SwInterfaceDetails{
		SwIfIndex: interface_types.InterfaceIndex(i.index), SupSwIfIndex: port.index,
		Flags: i.flags(), LinkMtu: port.linkMTU, Mtu: append([]uint32(nil), i.mtu[:]...),
		VtrOp: i.rewrite.op, VtrTag1: i.rewrite.tags[0], VtrTag2: i.rewrite.tags[1],
		InterfaceName: i.name, InterfaceDevType: devType(port.kind), Tag: i.tag,
	}
	if i.rewrite.dot1q {
		d.VtrPushDot1q = 1
	}
	if i.kind == kindVLAN {
		d.Type, d.SubID, d.SubNumberOfTags, d.SubOuterVlanID = interface_types.IF_API_TYPE_SUB, uint32(i.vlan), 1, i.vlan
		d.SubIfFlags = interface_types.SUB_IF_API_FLAG_ONE_TAG | interface_types.SUB_IF_API_FLAG_EXACT_MATCH
	} else if i.kind != kindLocal && !i.isIP() {
		copy(d.L2Address[:], i.mac)
	}
	return d
}
