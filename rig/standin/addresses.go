package standin

import (
	"net/netip"
	"slices"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
)

func (v *vswitch) registerAddresses(t *table) {
	one(t, func(m *interfaces.SwInterfaceAddDelAddress) *interfaces.SwInterfaceAddDelAddressReply {
		return &interfaces.SwInterfaceAddDelAddressReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if m.DelAll {
				i.addresses = nil
				return success
			}
			p := fromPrefix(ip_types.Prefix(m.Prefix))
			if m.IsAdd {
				return v.addAddress(i, p)
			}
			at := slices.Index(i.addresses, p)
			if at < 0 {
				return int32(api.ADDRESS_NOT_FOUND_FOR_INTERFACE)
			}
			i.addresses = slices.Delete(i.addresses, at, at+1)
			return success
		})}
	})
	dump(t, func(m *ip.IPAddressDump) (all []*ip.IPAddressDetails) {
		i := v.interfaces[uint32(m.SwIfIndex)]
		if i == nil {
			return nil
		}
		for _, p := range i.addresses {
			if p.Addr().Is6() == m.IsIPv6 {
				all = append(all, &ip.IPAddressDetails{SwIfIndex: m.SwIfIndex, Prefix: ip_types.AddressWithPrefix(toPrefix(p))})
			}
		}
		return all
	})
	one(t, func(m *interfaces.SwInterfaceSetTable) *interfaces.SwInterfaceSetTableReply {
		return &interfaces.SwInterfaceSetTableReply{Retval: v.with(m.SwIfIndex, func(i *iface) int32 {
			if v.tables[tableKey{m.VrfID, m.IsIPv6}] == nil {
				return int32(api.NO_SUCH_FIB)
			}
			for _, p := range i.addresses {
				if p.Addr().Is6() == m.IsIPv6 {
					return int32(api.ADDRESS_FOUND_FOR_INTERFACE)
				}
			}
			i.tables[family(m.IsIPv6)] = m.VrfID
			v.collect()
			return success
		})}
	})
	one(t, func(m *interfaces.SwInterfaceGetTable) *interfaces.SwInterfaceGetTableReply {
		reply := &interfaces.SwInterfaceGetTableReply{VrfID: unset}
		reply.Retval = v.with(m.SwIfIndex, func(i *iface) int32 {
			reply.VrfID = i.tables[family(m.IsIPv6)]
			return success
		})
		return reply
	})
}

// family is the index of an address family.
func family(ipv6 bool) int {
	if ipv6 {
		return 1
	}
	return 0
}

// addAddress adds an address unless its network meets one of the same table:
// only equal networks of one interface may.
func (v *vswitch) addAddress(i *iface, p netip.Prefix) int32 {
	if !p.IsValid() {
		return int32(api.ADDRESS_LENGTH_MISMATCH)
	}
	f := family(p.Addr().Is6())
	for _, other := range v.interfaces {
		if other.tables[f] != i.tables[f] {
			continue
		}
		for _, q := range other.addresses {
			if !p.Overlaps(q) || (other == i && p.Bits() == q.Bits() && p != q) {
				continue
			}
			if f == 1 {
				return int32(api.DUPLICATE_IF_ADDRESS)
			}
			return int32(api.ADDRESS_IN_USE)
		}
	}
	i.addresses = append(i.addresses, p)
	return success
}

// fromAddress is an address of the API.
func fromAddress(a ip_types.Address) netip.Addr {
	if a.Af == ip_types.ADDRESS_IP6 {
		return netip.AddrFrom16(a.Un.GetIP6())
	}
	return netip.AddrFrom4(a.Un.GetIP4())
}

// fromPrefix is a prefix of the API, the host part included.
func fromPrefix(p ip_types.Prefix) netip.Prefix {
	return netip.PrefixFrom(fromAddress(p.Address), int(p.Len))
}

func toAddress(a netip.Addr) (out ip_types.Address) {
	if a.Is6() {
		out.Af = ip_types.ADDRESS_IP6
		out.Un.SetIP6(a.As16())
	} else {
		out.Un.SetIP4(a.As4())
	}
	return out
}

func toPrefix(p netip.Prefix) ip_types.Prefix {
	return ip_types.Prefix{Address: toAddress(p.Addr()), Len: uint8(p.Bits())}
}
