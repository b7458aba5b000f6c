package vppmemif

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"go.fd.io/govpp/binapi/interface_types"

	"github.com/plexus-cni/plexus/conf"
)

// Inspect tells what VPP has of an attachment, as its "show interface", "show
// memif" and "show bridge-domain" do. Without an interface it is "missing".
func (d *Delegate) Inspect(ctx context.Context, a conf.Attachment, raw json.RawMessage) (map[string]string, error) {
	w, err := d.seen(ctx, a, raw)
	if err != nil {
		return nil, err
	}
	return w.have.words(w.c, w.st), nil
}

// words are what was found, for people.
func (f *found) words(c *Config, st *state) map[string]string {
	p := f.port
	if p == nil {
		return map[string]string{"interface": "missing", "socket": st.Socket}
	}
	said := map[string]string{
		"interface":   p.name,
		"sw_if_index": fmt.Sprint(p.index),
		"admin":       upOf(p.link.Flags, interface_types.IF_STATUS_API_FLAG_ADMIN_UP),
		"link":        upOf(p.link.Flags, interface_types.IF_STATUS_API_FLAG_LINK_UP),
		"role":        roleOf(p.server),
		"socket":      p.socket,
		"tag":         p.tag(),
		"mtu":         fmt.Sprint(f.mtu()),
	}
	say := func(key string, there bool, format string, args ...any) {
		if there {
			said[key] = fmt.Sprintf(format, args...)
		}
	}
	ethernet := p.memif == nil
	if m := p.memif; m != nil {
		ethernet = modeOf(m.Mode) == "ethernet"
		said["mode"], said["id"] = modeOf(m.Mode), fmt.Sprint(m.ID)
		said["ring size"], said["buffer size"] = fmt.Sprint(m.RingSize), fmt.Sprint(m.BufferSize)
	}
	say("mac", ethernet, "%s", f.mac())
	say("vlan", f.vlan() != 0, "%d", f.vlan())
	if f.domain != nil {
		say("bridge domain", true, "%d", f.domain.BdID)
		say("bridge domain tag", f.domain.BdTag != "", "%s", f.domain.BdTag)
	}
	if f.routes == nil {
		return said
	}
	say("vrf", true, "%d", f.tables[0])
	say("vrf of IPv6", f.tables[1] != f.tables[0], "%d", f.tables[1])
	var addresses, routes []string
	for _, a := range f.addresses {
		addresses = append(addresses, a.String())
	}
	for i, r := range c.Routes {
		if f.routed(i) {
			routes = append(routes, r.String())
		}
	}
	say("addresses", len(addresses) > 0, "%s", strings.Join(addresses, ", "))
	say("routes", len(routes) > 0, "%s", strings.Join(routes, ", "))
	return said
}

// upOf is a state in VPP's words.
func upOf(flags, flag interface_types.IfStatusFlags) string {
	if flags&flag != 0 {
		return "up"
	}
	return "down"
}
