package vppmemif

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
)

// vtrPush1 is a VLAN tag rewrite (l2_vtr.h): frames from the pod get a tag, frames to it
// lose one.
const vtrPush1 = 1

// place makes the differences between interfaces and their configurations good.
func (s *session) place(ctx context.Context, all []*attachment) error {
	for _, p := range all {
		for _, d := range p.differences() {
			if err := p.step(ctx, d.doing); err != nil {
				return err
			}
			s.send(request{doing: p.prefix + d.doing + d.hint, message: d.message, done: func(api.Message) {
				if p.view.port != nil && d.made != "" { // a new interface has lost nothing
					p.made = append(p.made, d.made)
				}
			}})
		}
	}
	return s.flush(ctx)
}

// difference is a property in which an interface differs from its configuration.
type difference struct {
	message api.Message // makes it as it has to be
	doing   string
	made    string // for people, of Restore
	lost    string // for people, of Check; "" where VPP has it
	hint    string // behind doing, in an error
}

// differences are those of an interface, in the order in which VPP accepts the requests.
func (p *attachment) differences() (all []difference) {
	c, st, have, index := p.config, p.state, p.view.port, p.index
	if have == nil {
		have = &port{SwInterfaceDetails: &interfaces.SwInterfaceDetails{Mtu: make([]uint32, 1)}}
	}
	differ := func(message api.Message, doing, made, lost string) {
		all = append(all, difference{message: message, doing: doing, made: made, lost: lost})
	}
	if have.Tag != st.Tag && (p.view.port != nil || !st.Vhost) { // a new vhost-user interface has it from the start
		differ(&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: index, Tag: st.Tag},
			"tag "+st.Tag, "tag "+st.Tag, was("tag", have.Tag, st.Tag))
	}
	if mtu := uint32(c.MTU); mtu != 0 && have.Mtu[0] != mtu { // of all protocols
		made := fmt.Sprintf("mtu %d", mtu)
		differ(&interfaces.SwInterfaceSetMtu{SwIfIndex: index, Mtu: []uint32{mtu, 0, 0, 0}}, "set "+made, made, was("mtu", have.Mtu[0], mtu))
	}
	if p.view.port != nil && c.hasMAC() && have.L2Address != c.mac { // a new interface has it from the start
		made := "mac " + c.mac.String()
		differ(&interfaces.SwInterfaceSetMacAddress{SwIfIndex: index, MacAddress: c.mac}, "set "+made, made, was("mac", have.L2Address, c.mac))
	}
	if p.joins() {
		made := fmt.Sprintf("bridge domain %d", p.domain)
		differ(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: index, BdID: p.domain, Enable: true},
			"join "+made, "membership of "+made, "it is no longer in its bridge domain "+st.DomainTag)
	}
	if d, ok := p.differenceOfTag(have); ok {
		all = append(all, d)
	}
	if c.BridgeDomain == nil {
		all = append(all, p.differencesL3()...)
	}
	if !isUp(have.SwInterfaceDetails) {
		differ(&interfaces.SwInterfaceSetFlags{SwIfIndex: index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP},
			"set up", "admin state up", was("admin state up", false, true))
	}
	return all
}

// differenceOfTag is that of the tag rewrite. Frames of pods are untagged in their domains, but
// for a record of a former version, which put the pods of all VLANs into one domain.
func (p *attachment) differenceOfTag(have *port) (difference, bool) {
	vlan, m := uint32(0), &l2.L2InterfaceVlanTagRewrite{SwIfIndex: p.index}
	if p.config.VLAN != 0 && !isDomainOfVLAN(p.state.DomainTag) {
		vlan = uint32(p.config.VLAN)
		m.VtrOp, m.PushDot1q, m.Tag1 = vtrPush1, 1, vlan
	}
	same := have.VtrOp == m.VtrOp && have.vlan() == vlan
	if p.config.BridgeDomain == nil || same && (vlan == 0 || !p.joins()) {
		return difference{}, false
	}
	d := difference{message: m, doing: fmt.Sprintf("rewrite to vlan %d", vlan), made: fmt.Sprintf("vlan %d", vlan)}
	switch {
	case have.VtrOp != 0 && have.VtrOp != vtrPush1:
		d.lost = was("tag rewrite", fmt.Sprintf("operation %d", have.VtrOp), m.VtrOp)
	case !same:
		d.lost = was("vlan", have.vlan(), vlan)
	}
	return d, true
}

func was(what string, is, was any) string { return fmt.Sprintf("%s is %v, was %v", what, is, was) }

// differencesL3 are those of vrf, addresses and routes. An interface with an address cannot
// change the table of that family (VPP's fib_api.c, -105): the addresses of another table go
// first.
func (p *attachment) differencesL3() (all []difference) {
	vrf, index, addresses := p.config.VRF, p.index, slices.Clone(p.view.addresses)
	for i, family := range families {
		table, isOf := p.view.tables[i], func(a netip.Prefix) bool { return a.Addr().Is6() == family.six }
		if table == vrf {
			continue
		}
		for _, a := range addresses {
			if isOf(a) {
				all = append(all, difference{message: changeAddress(index, a, false), doing: fmt.Sprintf("delete address %s of another vrf", a)})
			}
		}
		addresses = slices.DeleteFunc(addresses, isOf)
		made := fmt.Sprintf("vrf %d", vrf)
		all = append(all, difference{&interfaces.SwInterfaceSetTable{SwIfIndex: index, IsIPv6: family.six, VrfID: vrf},
			"join " + made, made, was("vrf of "+family.name, table, vrf), " (is there such a table, for both families?)"})
	}
	for _, a := range p.addresses {
		if slices.Contains(addresses, a) {
			continue
		}
		made, lost := "address "+a.String(), ""
		if !slices.Contains(p.view.addresses, a) {
			lost = made + " is gone"
		}
		all = append(all, difference{message: changeAddress(index, a, true), doing: "add " + made, made: made, lost: lost})
	}
	for _, r := range p.config.routes {
		if !p.view.routes[r] {
			made := fmt.Sprintf("route %s", r.Dst)
			lost := fmt.Sprintf("route %s is gone", r)
			all = append(all, difference{message: changeRoute(vrf, r, index, true), doing: "add " + made, made: made, lost: lost})
		}
	}
	return all
}

// families are those of the Internet protocol, in the order of view.tables.
var families = [2]struct {
	name string
	six  bool
}{{"IPv4", false}, {"IPv6", true}}

// vswitchAddresses are the addresses of the vswitch's side: the configuration's, and the
// gateways of the pod's addresses where it is to have them.
func (c *Config) vswitchAddresses(ofPod []*types100.IPConfig) []netip.Prefix {
	all := slices.Clone(c.addresses)
	for _, ip := range ofPod {
		if gateway, ok := netip.AddrFromSlice(ip.Gateway); ok && c.Gateways {
			ones, _ := ip.Address.Mask.Size()
			all = append(all, netip.PrefixFrom(gateway.Unmap(), ones))
		}
	}
	return all
}

func changeAddress(index interface_types.InterfaceIndex, a netip.Prefix, add bool) *interfaces.SwInterfaceAddDelAddress {
	return &interfaces.SwInterfaceAddDelAddress{SwIfIndex: index, IsAdd: add, Prefix: ip_types.AddressWithPrefix(binaryPrefix(a))}
}

func changeRoute(vrf uint32, r route, index interface_types.InterfaceIndex, add bool) *ip.IPRouteAddDel {
	return &ip.IPRouteAddDel{IsAdd: add, IsMultipath: true, Route: ip.IPRoute{
		TableID: vrf, Prefix: binaryPrefix(r.Dst), NPaths: 1, Paths: []fib_types.FibPath{pathOf(vrf, r, index)},
	}}
}

// pathOf is a route's path through an interface.
func pathOf(vrf uint32, r route, index interface_types.InterfaceIndex) fib_types.FibPath {
	path := fib_types.FibPath{SwIfIndex: uint32(index), TableID: vrf, Weight: 1, Proto: fib_types.FIB_API_PATH_NH_PROTO_IP4}
	if r.Dst.Addr().Is6() {
		path.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	if r.GW.IsValid() {
		path.Nh.Address = ip_types.NewAddress(r.GW.AsSlice()).Un
	}
	return path
}

func binaryPrefix(p netip.Prefix) ip_types.Prefix {
	return ip_types.NewPrefix(net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
}
