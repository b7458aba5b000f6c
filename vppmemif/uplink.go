package vppmemif

import (
	"context"
	"fmt"
	"slices"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/conf"
)

// vtrPop1 is a VLAN tag rewrite (l2_vtr.h): frames from a sub-interface lose their tag,
// frames to it get it.
const vtrPop1 = 3

// An uplink carries one VLAN of a bridge domain off the node: a sub-interface of VPP that
// plexus makes with the domain, and that goes with it. It has the domain's tag.

// uplinkMessages are those that an uplink needs, and other attachments do without.
func uplinkMessages() []api.Message {
	return []api.Message{&interfaces.CreateVlanSubif{}, &interfaces.DeleteSubif{}}
}

// listInterfaces queues the dump of interfaces.
func (s *session) listInterfaces(all *[]*interfaces.SwInterfaceDetails) {
	list(s, "interfaces", &interfaces.SwInterfaceDump{SwIfIndex: allInterfaces}, all)
}

// listUplinks queues the dumps of the interfaces whose names contain those of uplinks.
func (s *session) listUplinks(names []string, all *[]*interfaces.SwInterfaceDetails) {
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		list(s, "interfaces", &interfaces.SwInterfaceDump{SwIfIndex: allInterfaces, NameFilterValid: true, NameFilter: name}, all)
	}
}

// findUplink is the sub-interface of a domain's uplink, nil without one. One without a tag is
// what an Attach that was cut short has left, if nobody has put it to use.
func findUplink(domainTag, name string, all []*interfaces.SwInterfaceDetails, domains []*l2.BridgeDomainDetails) *interfaces.SwInterfaceDetails {
	for _, i := range all {
		switch {
		case i.Type != interface_types.IF_API_TYPE_SUB:
		case i.Tag == domainTag:
			return i
		case i.Tag == "" && i.InterfaceName == name:
			if d := domainOf(domains, i.SwIfIndex); d == nil && !isUp(i) || d != nil && d.BdTag == domainTag {
				return i
			}
		}
	}
	return nil
}

// isUplink reports whether a sub-interface is in use as its domain's uplink.
func isUplink(sub *interfaces.SwInterfaceDetails, domain *l2.BridgeDomainDetails) bool {
	return sub != nil && domain != nil && sub.Tag == domain.BdTag && sub.VtrOp == vtrPop1 && isUp(sub) &&
		domainOf([]*l2.BridgeDomainDetails{domain}, sub.SwIfIndex) != nil
}

// uplinkIsFree refuses an uplink that VPP has not, and a VLAN of it that another has.
func (s *session) uplinkIsFree(ctx context.Context, c *Config, st *state) error {
	if st.Uplink == "" {
		return nil
	}
	if err := s.conn.compatible(ctx, uplinkMessages()...); err != nil {
		return err
	}
	var all []*interfaces.SwInterfaceDetails
	var domains []*l2.BridgeDomainDetails
	s.listUplinks([]string{c.BridgeDomain.Uplink}, &all)
	s.listDomains(&domains)
	if err := s.flush(ctx); err != nil {
		return err
	}
	_, _, err := c.uplink(st, all, domains)
	return err
}

// uplink is the interface that carries VLANs, and the domain's sub-interface on it, nil
// without one.
func (c *Config) uplink(st *state, all []*interfaces.SwInterfaceDetails, domains []*l2.BridgeDomainDetails) (on, sub *interfaces.SwInterfaceDetails, err error) {
	named := func(name string) *interfaces.SwInterfaceDetails {
		at := slices.IndexFunc(all, func(i *interfaces.SwInterfaceDetails) bool { return i.InterfaceName == name })
		if at < 0 {
			return nil
		}
		return all[at]
	}
	on, sub = named(c.BridgeDomain.Uplink), findUplink(st.DomainTag, st.Uplink, all, domains)
	switch {
	case on == nil:
		err = fmt.Errorf("key %q: VPP has no interface %s: see vppctl show interface", c.key("bridgeDomain.uplink"), c.BridgeDomain.Uplink)
	case sub == nil && named(st.Uplink) != nil:
		err = conf.Refuse(fmt.Errorf("key %q: VPP's interface %s is somebody else's: choose another vlan, or make it a member of a domain yourself and leave uplink out",
			c.key("bridgeDomain.uplink"), st.Uplink))
	}
	return on, sub, err
}

// makeUplinks makes the uplinks that domains of attachments lack. of are VPP's interfaces.
func (s *session) makeUplinks(ctx context.Context, all []*attachment, of []*interfaces.SwInterfaceDetails, domains []*l2.BridgeDomainDetails) error {
	made := map[string]bool{} // by tag of the domain
	for _, p := range all {
		st := p.state
		if !p.needsUplink() || made[st.DomainTag] {
			continue
		}
		made[st.DomainTag] = true
		on, sub, err := p.config.uplink(st, of, domains)
		if err != nil {
			return fmt.Errorf("%s%w", p.prefix, err)
		}
		at := slices.IndexFunc(domains, func(d *l2.BridgeDomainDetails) bool { return d.BdID == p.domain })
		if at >= 0 && isUplink(sub, domains[at]) {
			continue
		}
		if err := s.makeUplink(ctx, p, on, sub); err != nil {
			return err
		}
		p.made = append(p.made, "uplink "+st.Uplink)
	}
	return nil
}

// needsUplink reports whether the domain may lack its uplink.
func (p *attachment) needsUplink() bool { return p.state.Uplink != "" && !p.view.uplinked }

// makeUplink makes a sub-interface, unless there is one, and makes it a member of the domain.
func (s *session) makeUplink(ctx context.Context, p *attachment, on, sub *interfaces.SwInterfaceDetails) error {
	st := p.state
	if err := p.step(ctx, "make uplink "+st.Uplink); err != nil {
		return err
	}
	if sub == nil {
		sub = &interfaces.SwInterfaceDetails{}
		s.send(request{
			doing: p.prefix + "create sub-interface " + st.Uplink, message: &interfaces.CreateVlanSubif{SwIfIndex: on.SwIfIndex, VlanID: uint32(p.config.VLAN)},
			done: func(reply api.Message) { sub.SwIfIndex = reply.(*interfaces.CreateVlanSubifReply).SwIfIndex },
		})
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	index, doing := sub.SwIfIndex, p.prefix+"uplink "+st.Uplink+": "
	for _, r := range []request{
		{doing: doing + "tag " + st.DomainTag, message: &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: index, Tag: st.DomainTag}},
		{doing: fmt.Sprintf("%sjoin bridge domain %d", doing, p.domain), message: &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: index, BdID: p.domain, Enable: true}},
		{doing: fmt.Sprintf("%srewrite of vlan %d", doing, p.config.VLAN), message: &l2.L2InterfaceVlanTagRewrite{SwIfIndex: index, VtrOp: vtrPop1, PushDot1q: 1}},
		{doing: doing + "set up", message: &interfaces.SwInterfaceSetFlags{SwIfIndex: index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP},
			refused: func(err error) error { return fmt.Errorf("%sset up (is %s up?): %w", doing, on.InterfaceName, err) }},
	} {
		s.send(r)
	}
	return s.flush(ctx)
}
