package vppmemif

import (
	"context"
	"fmt"
	"strings"

	"github.com/plexus-cni/plexus/delegates"
)

// Inspect is delegates.Network. The facts are those of VPP's "show interface", "show memif"
// and "show bridge-domain". The fact "interface" is "missing" without one.
func (n *network) Inspect(ctx context.Context, a *delegates.Attachment) (map[string]string, error) {
	_, p, err := n.observe(ctx, a)
	if err != nil {
		return nil, err
	}
	return p.facts(), nil
}

func (p *attachment) facts() map[string]string {
	v, port := p.view, p.view.port
	if port == nil {
		return map[string]string{"interface": "missing", "socket": p.state.Socket}
	}
	facts := map[string]string{
		"interface":   port.name,
		"sw_if_index": fmt.Sprint(port.index),
		"admin":       upOrDown(v.isUp()),
		"link":        upOrDown(v.isLinkUp()),
		"role":        roleOf(port.server),
		"socket":      port.socket,
		"tag":         port.tag(),
		"mtu":         fmt.Sprint(v.mtu()),
	}
	set := func(key string, there bool, value any) {
		if there {
			facts[key] = fmt.Sprint(value)
		}
	}
	ethernet := port.memif == nil
	if m := port.memif; m != nil {
		ethernet = modeOf(m.Mode) == "ethernet"
		facts["mode"], facts["id"] = modeOf(m.Mode), fmt.Sprint(m.ID)
		facts["ring size"], facts["buffer size"] = fmt.Sprint(m.RingSize), fmt.Sprint(m.BufferSize)
	}
	set("mac", ethernet, v.mac())
	set("vlan", v.vlan() != 0, v.vlan())
	if d := v.domain; d != nil {
		set("bridge domain", true, d.BdID)
		set("bridge domain tag", d.BdTag != "", d.BdTag)
	}
	if v.routes == nil {
		return facts
	}
	set("vrf", true, v.tables[0])
	set("vrf of IPv6", v.tables[1] != v.tables[0], v.tables[1])
	var addresses, routes []string
	for _, a := range v.addresses {
		addresses = append(addresses, a.String())
	}
	for i, r := range p.config.Routes {
		if v.hasRoute(i) {
			routes = append(routes, r.String())
		}
	}
	set("addresses", len(addresses) > 0, strings.Join(addresses, ", "))
	set("routes", len(routes) > 0, strings.Join(routes, ", "))
	return facts
}

// upOrDown is a state in VPP's words.
func upOrDown(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
