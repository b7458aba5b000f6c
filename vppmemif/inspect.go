package vppmemif

import (
	"context"
	"fmt"
	"strings"

	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/delegates"
)

// Inspect is delegates.Network. The facts are those of VPP's "show interface", "show memif"
// and "show bridge-domain". The fact "interface" is "missing" without one.
func (n *network) Inspect(ctx context.Context, a *delegates.Attachment) (map[string]string, error) {
	_, p, done, err := n.observe(ctx, a)
	defer done()
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
		"interface":   port.InterfaceName,
		"sw_if_index": fmt.Sprint(port.SwIfIndex),
		"admin":       either(isUp(port.SwInterfaceDetails), "up", "down"),
		"link":        either(port.isLinkUp(), "up", "down"),
		"role":        roleOf(port.server),
		"socket":      port.socket,
		"tag":         port.Tag,
		"mtu":         fmt.Sprint(port.Mtu[0]),
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
		set("ring size", !port.server, m.RingSize) // the client's; VPP shows 1 and 0 of its own
		set("buffer size", !port.server, m.BufferSize)
	}
	set("mac", ethernet, port.L2Address)
	set("vlan", port.vlan() != 0, port.vlan())
	set("uplink", v.uplinked, p.state.Uplink)
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
	for _, r := range p.config.routes {
		if v.routes[r] {
			routes = append(routes, r.String())
		}
	}
	set("addresses", len(addresses) > 0, strings.Join(addresses, ", "))
	set("routes", len(routes) > 0, strings.Join(routes, ", "))
	return facts
}

// either is yes or no.
func either(which bool, yes, no string) string {
	if which {
		return yes
	}
	return no
}

func roleOf(server bool) string { return either(server, "server", "client") }

func modeOf(m memif.MemifMode) string {
	switch m {
	case memif.MEMIF_MODE_API_ETHERNET:
		return "ethernet"
	case memif.MEMIF_MODE_API_IP:
		return "ip"
	}
	return m.String()
}
