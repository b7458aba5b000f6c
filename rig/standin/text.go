package standin

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.fd.io/govpp/binapi/fib_types"
	binmemif "go.fd.io/govpp/binapi/memif"
)

// text is the state, see Server.State.
func (v *vswitch) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for id, s := range v.sockets {
		state := "unused"
		switch {
		case s.listener != nil:
			state = "listening"
		case s.listens && (s.refs != 0 || len(s.ids) > 0):
			state = "deaf" // it failed to listen
		case len(s.ids) > 0:
			state = "for clients"
		}
		add("socket %s id=%d %s", s.file, id, state)
	}
	for _, i := range v.interfaces {
		add("%s", v.line(i))
	}
	for id, b := range v.bridges {
		var members []string
		for _, m := range b.members {
			members = append(members, m.label())
		}
		slices.Sort(members)
		add("bridge-domain %d tag=%q%s mac-age=%d members=%v", id, b.tag, flagsText(map[string]bool{
			"flood": b.flood, "uu-flood": b.uuFlood, "forward": b.unicast, "learn": b.learn, "arp-term": b.arpTerm, "arp-ufwd": b.arpUfwd,
		}), b.macAge, members)
	}
	for key, t := range v.tables {
		owner := ""
		if !t.owned && key.id != 0 {
			owner = " deleted"
		}
		if key.id != 0 {
			add("table %s %d name=%q%s", familyText(key.ipv6), key.id, t.name, owner)
		}
		for p, paths := range t.routes {
			var via []string
			for _, path := range paths {
				via = append(via, v.pathText(path))
			}
			slices.Sort(via)
			add("route %s %d %s via %v", familyText(key.ipv6), key.id, p, via)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// label names an interface without its index: by its tag, or by what it is.
func (i *iface) label() string {
	switch {
	case i.tag != "":
		return i.tag
	case i.memif != nil:
		return fmt.Sprintf("(memif %s %d)", i.memif.socket.file, i.memif.id)
	case i.vhost != nil:
		return fmt.Sprintf("(vhost-user %s)", i.vhost.SockFilename)
	case i.parent != nil:
		return fmt.Sprintf("(vlan %d of %s)", i.vlan, i.parent.label())
	default:
		return "(" + i.name + ")"
	}
}

func (v *vswitch) line(i *iface) string {
	var b strings.Builder
	fmt.Fprintf(&b, "interface %s kind=%s", i.label(), i.kind)
	switch {
	case i.memif != nil:
		role := "client"
		if i.memif.server {
			role = "server"
		}
		mode := "ethernet"
		if i.memif.mode == binmemif.MEMIF_MODE_API_IP {
			mode = "ip"
		}
		fmt.Fprintf(&b, " role=%s mode=%s id=%d socket=%s secret=%q", role, mode, i.memif.id, i.memif.socket.file, i.memif.secret)
	case i.vhost != nil:
		fmt.Fprintf(&b, " server=%t socket=%s", i.vhost.IsServer, i.vhost.SockFilename)
	case i.tap != nil:
		fmt.Fprintf(&b, " id=%d host=%s/%s", i.tap.ID, cString(i.tap.HostNamespace), cString(i.tap.HostIfName))
	case i.parent != nil:
		fmt.Fprintf(&b, " vlan=%d parent=%s", i.vlan, i.parent.label())
	}
	admin := "down"
	if i.up {
		admin = "up"
	}
	fmt.Fprintf(&b, " admin=%s mtu=%d/%d/%d/%d link-mtu=%d mac=%s table4=%d table6=%d addresses=%v",
		admin, i.mtu[0], i.mtu[1], i.mtu[2], i.mtu[3], i.linkMTU, i.mac, i.tables[0], i.tables[1], sortedAddresses(i.addresses))
	if i.bridge != nil {
		fmt.Fprintf(&b, " bridge-domain=%d shg=%d", i.bridge.id, i.shg)
	}
	if i.rewrite.op != rewriteNone {
		fmt.Fprintf(&b, " rewrite=%s", i.rewrite)
	}
	return b.String()
}

func sortedAddresses(all []netip.Prefix) []netip.Prefix {
	set := map[netip.Prefix]bool{}
	for _, p := range all {
		set[p] = true
	}
	return sortedPrefixes(set)
}

func (v *vswitch) pathText(p fib_types.FibPath) string {
	if p.Type != fib_types.FIB_API_PATH_TYPE_NORMAL {
		return strings.ToLower(strings.TrimPrefix(p.Type.String(), "FIB_API_PATH_TYPE_"))
	}
	hop := netip.AddrFrom4(p.Nh.Address.GetIP4())
	if p.Proto == fib_types.FIB_API_PATH_NH_PROTO_IP6 {
		hop = netip.AddrFrom16(p.Nh.Address.GetIP6())
	}
	text := hop.String()
	if i := v.interfaces[p.SwIfIndex]; i != nil {
		text += " dev " + i.label()
	} else if p.SwIfIndex != unset {
		text += " dev (deleted)"
	} else {
		text += fmt.Sprintf(" table %d", p.TableID)
	}
	if p.Weight != 1 || p.Preference != 0 {
		text += fmt.Sprintf(" weight %d preference %d", p.Weight, p.Preference)
	}
	return text
}

func familyText(ipv6 bool) string {
	if ipv6 {
		return "ip6"
	}
	return "ip4"
}

// flagsText lists the flags that are set.
func flagsText(flags map[string]bool) string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		if flags[name] {
			text += " " + name
		}
	}
	return text
}
