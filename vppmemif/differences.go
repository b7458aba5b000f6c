package vppmemif

import (
	"fmt"
	"net"

	"go.fd.io/govpp/binapi/memif"
)

// differences are errors, one for each property in which the view differs from an attachment
// that Attach has made.
func (p *attachment) differences() (errs []error) {
	c, st, v := p.config, p.state, p.view
	switch {
	case v.port == nil && len(v.numbers) == 0 && !st.Vhost:
		return []error{fmt.Errorf("socket %s is gone from VPP (has it been restarted?)", st.Socket)}
	case v.port == nil:
		return []error{fmt.Errorf("the %s on socket %s (id %d) is gone from VPP", st.kind(), st.Socket, st.ID)}
	}
	object := st.kind() + " " + v.port.name
	differs := func(what string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			errs = append(errs, fmt.Errorf("%s: %s is %s, was %s", object, what, h, w))
		}
	}
	differs("tag", v.port.tag(), st.Tag)
	differs("role", roleOf(v.port.server), c.Role)
	if v.port.memif != nil {
		differs("mode", modeOf(v.port.memif.Mode), c.Mode)
	}
	differs("admin state up", v.isUp(), true)
	if c.MTU != 0 {
		differs("mtu", v.mtu(), c.MTU)
	}
	if c.hasMAC() {
		differs("mac", v.mac(), c.mac())
	}
	if c.VLAN != 0 {
		differs("vlan", v.vlan(), c.VLAN)
	}
	switch {
	case c.BridgeDomain != nil && !v.joined:
		errs = append(errs, fmt.Errorf("%s is no longer in its bridge domain %s", object, st.DomainTag))
	case v.routes != nil:
		differs("vrf of IPv4", v.tables[0], c.VRF)
		differs("vrf of IPv6", v.tables[1], c.VRF)
	}
	for _, what := range p.missingL3() {
		errs = append(errs, fmt.Errorf("%s: %s is gone", object, what))
	}
	return errs
}

// missingL3 are the addresses and routes that VPP has lost; none where L3 is not read.
func (p *attachment) missingL3() (all []string) {
	if p.view.routes == nil {
		return nil
	}
	for _, a := range p.addresses {
		if !contains(p.view.addresses, a) {
			all = append(all, "address "+a)
		}
	}
	for i, r := range p.config.Routes {
		if !p.view.hasRoute(i) {
			all = append(all, "route "+r.String())
		}
	}
	return all
}

// hasMAC reports whether the configuration gives the interface an address. In mode
// ip a memif has none.
func (c *Config) hasMAC() bool { return c.MAC != "" && (c.vhost || c.Mode == "ethernet") }

// mac is the configuration's address in the usual form.
func (c *Config) mac() string {
	hw, err := net.ParseMAC(c.MAC)
	if err != nil {
		return c.MAC
	}
	return hw.String()
}

func roleOf(server bool) string {
	if server {
		return "server"
	}
	return "client"
}

func modeOf(m memif.MemifMode) string {
	switch m {
	case memif.MEMIF_MODE_API_ETHERNET:
		return "ethernet"
	case memif.MEMIF_MODE_API_IP:
		return "ip"
	}
	return m.String()
}
