package standin

import (
	"maps"
	"slices"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
)

// maxBridge is the highest id of a bridge domain.
const maxBridge = 1<<24 - 1

// bridge is a bridge domain.
type bridge struct {
	id                                               uint32
	tag                                              string
	flood, uuFlood, unicast, learn, arpTerm, arpUfwd bool
	macAge                                           uint8 // minutes
	members                                          []*iface
	learned                                          map[[6]byte]*iface
}

func (v *vswitch) registerBridges(t *table) {
	one(t, func(m *l2.BridgeDomainAddDelV2) *l2.BridgeDomainAddDelV2Reply {
		if m.BdID == unset && m.IsAdd {
			for m.BdID = 1; v.bridges[m.BdID] != nil; m.BdID++ {
			}
		}
		return &l2.BridgeDomainAddDelV2Reply{Retval: v.bridgeAddDel(m), BdID: m.BdID}
	})
	dump(t, v.bridgeDump)
	one(t, func(m *l2.BridgeFlags) *l2.BridgeFlagsReply { return &l2.BridgeFlagsReply{Retval: v.bridgeFlags(m)} })
	one(t, func(m *l2.SwInterfaceSetL2Bridge) *l2.SwInterfaceSetL2BridgeReply {
		return &l2.SwInterfaceSetL2BridgeReply{Retval: v.with(m.RxSwIfIndex, func(i *iface) int32 { return v.setBridge(i, m) })}
	})
	one(t, func(m *l2.L2InterfaceVlanTagRewrite) *l2.L2InterfaceVlanTagRewriteReply {
		return &l2.L2InterfaceVlanTagRewriteReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if m.VtrOp > maxRewrite {
				return int32(api.INVALID_VALUE)
			}
			if i.kind == kindLocal || i.isIP() {
				return int32(api.INVALID_INTERFACE)
			}
			r := rewrite{op: m.VtrOp, dot1q: m.PushDot1q != 0, tags: [2]uint32{m.Tag1, m.Tag2}}
			if pop, _ := r.shape(); pop > i.ownTags() {
				i.rewrite = rewrite{}
				return int32(api.INVALID_VLAN_TAG_COUNT)
			}
			i.rewrite = r
			return success
		})}
	})
}

func (v *vswitch) bridgeAddDel(m *l2.BridgeDomainAddDelV2) int32 {
	b := v.bridges[m.BdID]
	switch {
	case m.IsAdd && (b != nil || m.BdID == 0):
		return int32(api.BD_ALREADY_EXISTS)
	case m.IsAdd && m.BdID > maxBridge:
		return int32(api.BD_ID_EXCEED_MAX)
	case m.IsAdd:
		v.bridges[m.BdID] = &bridge{id: m.BdID, tag: cut(cString(m.BdTag)), flood: m.Flood, uuFlood: m.UuFlood, unicast: m.Forward,
			learn: m.Learn, arpTerm: m.ArpTerm, arpUfwd: m.ArpUfwd, macAge: m.MacAge, learned: map[[6]byte]*iface{}}
	case m.BdID == 0:
		return int32(api.BD_NOT_MODIFIABLE)
	case b == nil:
		return int32(api.NO_SUCH_ENTRY)
	case len(b.members) > 0:
		return int32(api.BD_IN_USE)
	default:
		delete(v.bridges, m.BdID)
	}
	return success
}

// bridgeFlags sets or clears properties of a bridge domain; the bitmap of the reply stays 0.
func (v *vswitch) bridgeFlags(m *l2.BridgeFlags) int32 {
	b := v.bridges[m.BdID]
	switch {
	case m.BdID == 0:
		return int32(api.BD_NOT_MODIFIABLE)
	case b == nil:
		return int32(api.NO_SUCH_ENTRY)
	}
	for flag, property := range map[l2.BdFlags]*bool{
		l2.BRIDGE_API_FLAG_LEARN: &b.learn, l2.BRIDGE_API_FLAG_FWD: &b.unicast, l2.BRIDGE_API_FLAG_FLOOD: &b.flood,
		l2.BRIDGE_API_FLAG_UU_FLOOD: &b.uuFlood, l2.BRIDGE_API_FLAG_ARP_TERM: &b.arpTerm,
	} {
		if m.Flags&flag != 0 {
			*property = m.IsSet
		}
	}
	return success
}

func (v *vswitch) bridgeDump(m *l2.BridgeDomainDump) (all []*l2.BridgeDomainDetails) {
	if uint32(m.SwIfIndex) != unset {
		return nil // VPP has never implemented it
	}
	for _, id := range slices.Sorted(maps.Keys(v.bridges)) {
		if m.BdID != unset && m.BdID != id {
			continue
		}
		b := v.bridges[id]
		d := &l2.BridgeDomainDetails{BdID: id, Flood: b.flood, UuFlood: b.uuFlood, Forward: b.unicast, Learn: b.learn,
			ArpTerm: b.arpTerm, ArpUfwd: b.arpUfwd, MacAge: b.macAge, BdTag: b.tag,
			BviSwIfIndex: interface_types.InterfaceIndex(unset), UuFwdSwIfIndex: interface_types.InterfaceIndex(unset)}
		for _, i := range b.members {
			d.SwIfDetails = append(d.SwIfDetails, l2.BridgeDomainSwIf{SwIfIndex: interface_types.InterfaceIndex(i.index), Shg: i.shg})
		}
		d.NSwIfs = uint32(len(d.SwIfDetails))
		all = append(all, d)
	}
	return all
}

// setBridge moves an interface into a bridge domain or back to layer 3. A bridge
// domain that is missing is made, as VPP does, with everything on but ARP
// termination.
func (v *vswitch) setBridge(i *iface, m *l2.SwInterfaceSetL2Bridge) int32 {
	switch {
	case m.PortType > l2.L2_API_PORT_TYPE_UU_FWD:
		return int32(api.INVALID_VALUE)
	case m.Enable && m.BdID > maxBridge:
		return int32(api.BD_ID_EXCEED_MAX)
	}
	v.leave(i)
	if !m.Enable {
		return success
	}
	b := v.bridges[m.BdID]
	if b == nil {
		b = &bridge{id: m.BdID, flood: true, uuFlood: true, unicast: true, learn: true, arpUfwd: true, learned: map[[6]byte]*iface{}}
		v.bridges[m.BdID] = b
	}
	i.bridge, i.shg = b, m.Shg
	b.members = append(b.members, i)
	return success
}

// leave takes an interface out of its bridge domain, with what was learned.
func (v *vswitch) leave(i *iface) {
	b := i.bridge
	if b == nil {
		return
	}
	i.bridge, i.shg = nil, 0
	b.members = slices.DeleteFunc(b.members, func(m *iface) bool { return m == i })
	maps.DeleteFunc(b.learned, func(_ [6]byte, m *iface) bool { return m == i })
}
