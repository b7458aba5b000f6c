package vppmemif

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
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

// place queues the changes of interfaces. domains are the numbers of the bridge domains that
// they join.
func (s *session) place(ctx context.Context, all []*attachment, indices []interface_types.InterfaceIndex, domains []uint32) error {
	for i, p := range all {
		changes, err := p.changes(indices[i], domains[i])
		if err != nil {
			return fmt.Errorf("%s%w", p.prefix, err)
		}
		for _, c := range changes {
			if err := p.step(ctx, c.doing); err != nil {
				return err
			}
			s.send(request{doing: p.prefix + c.doing + c.hint, message: c.message, done: func(api.Message) { p.note(c.made) }})
		}
	}
	return nil
}

// note notes a loss of an interface that was there. A new one has lost nothing.
func (p *attachment) note(made string) {
	if p.view.port != nil && made != "" {
		p.made = append(p.made, made)
	}
}

// change is a difference between an interface and its configuration.
type change struct {
	message api.Message
	doing   string
	hint    string // behind doing, in an error
	made    string // for people
}

// changes are the differences, in the order in which VPP accepts the requests.
func (p *attachment) changes(index interface_types.InterfaceIndex, domain uint32) (all []change, err error) {
	c, v, tag := p.config, p.view, p.state.Tag
	if v.port == nil && !p.state.Vhost || v.port != nil && v.port.tag() != tag {
		all = append(all, change{&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: index, Tag: tag}, "tag " + tag, "", "tag " + tag})
	}
	if c.MTU != 0 && v.mtu() != c.MTU {
		all = append(all, change{&interfaces.SwInterfaceSetMtu{SwIfIndex: index, Mtu: []uint32{uint32(c.MTU), 0, 0, 0}},
			fmt.Sprintf("set mtu %d", c.MTU), "", fmt.Sprintf("mtu %d", c.MTU)})
	}
	if v.port != nil && c.hasMAC() && v.mac() != c.mac() { // a new interface has it from the start
		mac, err := ethernet_types.ParseMacAddress(c.MAC)
		if err != nil {
			return nil, err
		}
		all = append(all, change{&interfaces.SwInterfaceSetMacAddress{SwIfIndex: index, MacAddress: mac}, "set mac " + c.MAC, "", "mac " + c.MAC})
	}
	var way []change
	if c.BridgeDomain != nil {
		way = p.changesL2(index, domain)
	} else if way, err = p.changesL3(index); err != nil {
		return nil, err
	}
	all = append(all, way...)
	if !v.isUp() {
		all = append(all, change{&interfaces.SwInterfaceSetFlags{SwIfIndex: index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}, "set up", "", "admin state up"})
	}
	return all, nil
}

// changesL2 make the interface a member of its bridge domain, with the domain's VLAN tag.
func (p *attachment) changesL2(index interface_types.InterfaceIndex, domain uint32) (all []change) {
	if p.joins() {
		all = append(all, change{&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: index, BdID: domain, Enable: true},
			fmt.Sprintf("join bridge domain %d", domain), "", fmt.Sprintf("membership of bridge domain %d", domain)})
	}
	if vlan := p.config.VLAN; vlan != 0 && (p.joins() || p.view.vlan() != vlan) {
		all = append(all, change{&l2.L2InterfaceVlanTagRewrite{SwIfIndex: index, VtrOp: vtrPush1, PushDot1q: 1, Tag1: uint32(vlan)},
			fmt.Sprintf("rewrite to vlan %d", vlan), "", fmt.Sprintf("vlan %d", vlan)})
	}
	return all
}

// changesL3 put the interface into its vrf and give it addresses and routes. An interface
// with an address cannot change the table of that family (VPP's fib_api.c, -105): the
// addresses of another table go first.
func (p *attachment) changesL3(index interface_types.InterfaceIndex) (all []change, err error) {
	vrf, addresses := p.config.VRF, slices.Clone(p.view.addresses)
	for family, table := range p.view.tables {
		if table == vrf {
			continue
		}
		six := family == 1
		for _, a := range addresses {
			if a.Addr().Is6() != six {
				continue
			}
			m, err := changeAddress(index, a.String(), false)
			if err != nil {
				return nil, err
			}
			all = append(all, change{message: m, doing: fmt.Sprintf("delete address %s of another vrf", a)})
		}
		addresses = slices.DeleteFunc(addresses, func(a netip.Prefix) bool { return a.Addr().Is6() == six })
		all = append(all, change{&interfaces.SwInterfaceSetTable{SwIfIndex: index, IsIPv6: six, VrfID: vrf},
			fmt.Sprintf("join vrf %d", vrf), " (is there such a table, for both families?)", fmt.Sprintf("vrf %d", vrf)})
	}
	for _, a := range p.addresses {
		if contains(addresses, a) {
			continue
		}
		m, err := changeAddress(index, a, true)
		if err != nil {
			return nil, fmt.Errorf("add address %s: %w", a, err)
		}
		all = append(all, change{m, "add address " + a, "", "address " + a})
	}
	for i, r := range p.config.Routes {
		if p.view.hasRoute(i) {
			continue
		}
		m, err := changeRoute(vrf, r, index, true)
		if err != nil {
			return nil, fmt.Errorf("add route %s: %w", r.Dst, err)
		}
		all = append(all, change{m, "add route " + r.Dst, "", "route " + r.Dst})
	}
	return all, nil
}

// addresses are those of the vswitch's side: the configuration's, and the gateways of the
// pod's addresses where it is to have them.
func (c *Config) addresses(ofPod []*types100.IPConfig) []string {
	all := slices.Clone(c.Addresses)
	for _, ip := range ofPod {
		if c.gateways && ip.Gateway != nil {
			ones, _ := ip.Address.Mask.Size()
			all = append(all, fmt.Sprintf("%s/%d", ip.Gateway, ones))
		}
	}
	return all
}

// contains reports whether an address is among others, however it is written.
func contains(all []netip.Prefix, text string) bool {
	p, err := netip.ParsePrefix(text)
	return err == nil && slices.Contains(all, p)
}

func changeAddress(index interface_types.InterfaceIndex, text string, add bool) (*interfaces.SwInterfaceAddDelAddress, error) {
	prefix, err := ip_types.ParseAddressWithPrefix(text)
	return &interfaces.SwInterfaceAddDelAddress{SwIfIndex: index, IsAdd: add, Prefix: prefix}, err
}

func changeRoute(vrf uint32, r Route, index interface_types.InterfaceIndex, add bool) (*ip.IPRouteAddDel, error) {
	prefix, err := ip_types.ParsePrefix(r.Dst)
	if err != nil {
		return nil, err
	}
	path, err := pathOf(vrf, r, index)
	return &ip.IPRouteAddDel{
		IsAdd: add, IsMultipath: true, Route: ip.IPRoute{TableID: vrf, Prefix: prefix, NPaths: 1, Paths: []fib_types.FibPath{path}},
	}, err
}

// pathOf is a route's path through an interface.
func pathOf(vrf uint32, r Route, index interface_types.InterfaceIndex) (fib_types.FibPath, error) {
	path := fib_types.FibPath{SwIfIndex: uint32(index), TableID: vrf, Weight: 1, Proto: fib_types.FIB_API_PATH_NH_PROTO_IP4}
	dst, err := netip.ParsePrefix(r.Dst)
	if err != nil {
		return path, err
	}
	if dst.Addr().Is6() {
		path.Proto = fib_types.FIB_API_PATH_NH_PROTO_IP6
	}
	if r.GW != "" {
		gw, err := ip_types.ParseAddress(r.GW)
		if err != nil {
			return path, err
		}
		path.Nh.Address = gw.Un
	}
	return path, nil
}
