package vppmemif

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/shareddir"
)

// check refuses a configuration with values out of their ranges, or with keys that exclude
// each other. It fills in defaults.
func (c *Config) check() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("key %q: %s", c.key(key), fmt.Sprintf(format, args...)))
	}
	oneOf := func(key string, value *string, allowed ...string) {
		if *value == "" {
			*value = allowed[0]
		}
		for _, a := range allowed {
			if *value == a {
				return
			}
		}
		bad(key, "%.40q, allowed are %s", *value, strings.Join(allowed, ", "))
	}
	oneOf("role", &c.Role, "server", "client")
	oneOf("mode", &c.Mode, "ethernet", "ip")
	if c.APISocket == "" {
		c.APISocket = defaultAPISocket
	}
	if !filepath.IsAbs(c.APISocket) {
		bad("apiSocket", "%.200q, want an absolute path", c.APISocket)
	}
	c.checkSocket(bad)
	if len(c.Secret) > maxSecret {
		bad("secret", "%d bytes, at most %d are allowed", len(c.Secret), maxSecret)
	}
	if strings.Contains(c.Secret, "\x00") {
		bad("secret", "it has a zero byte")
	}
	if c.RingSize != 0 && (c.RingSize&(c.RingSize-1) != 0 || c.RingSize > maxRingSize) {
		bad("ringSize", "%d, want a power of 2 up to %d", c.RingSize, maxRingSize)
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		bad("mtu", "%d, want %d to %d", c.MTU, minMTU, maxMTU)
	}
	if c.MAC != "" {
		hw, err := net.ParseMAC(c.MAC)
		if err != nil || len(hw) != 6 || hw[0]&1 != 0 {
			bad("mac", "%.40q, want 6 bytes like 02:00:00:00:00:01, no multicast address", c.MAC)
		}
	}
	c.checkL2(bad)
	c.checkL3(bad)
	return errors.Join(errs...)
}

func (c *Config) checkSocket(bad func(key, format string, args ...any)) {
	if d := c.Socket.Dir; d != "" && (!filepath.IsAbs(d) || filepath.Clean(d) != strings.TrimSuffix(d, "/") || d == "/" || strings.Contains(d, "\x00")) {
		bad("socket.dir", "%.200q, want an absolute path below / without \"..\"", d)
	}
	if err := shareddir.CheckFileName(c.Socket.File); err != nil {
		bad("socket.file", "%v", err)
	} else if c.Socket.Abstract && strings.ContainsAny(c.Socket.File, ",=") {
		bad("socket.file", "%.80q: the name of an abstract socket has no ',' or '='", c.Socket.File)
	}
	if p := c.Socket.Permissions; p != "" {
		if mode, err := strconv.ParseUint(p, 8, 32); err != nil || mode > 0o777 {
			bad("socket.permissions", "%.20q, want octal digits up to 0777", p)
		}
	}
	if c.Socket.Abstract && (c.Socket.Dir != "" || c.Socket.Group != "" || c.Socket.Permissions != "") {
		bad("socket.abstract", "an abstract socket has no folder: leave out dir, group and permissions")
	}
	if c.Socket.Abstract && c.Role == "client" {
		bad("socket.abstract", "with role client VPP would hold the pod's network namespace for ever: let the pod be the client")
	}
}

func (c *Config) checkL2(bad func(key, format string, args ...any)) {
	b := c.BridgeDomain
	switch {
	case b == nil:
	case c.Mode == "ip":
		bad("bridgeDomain", "mode ip has no L2: leave it out, or use mode ethernet")
	case (b.ID == 0) == (b.Name == ""):
		bad("bridgeDomain", "want id or name, one of them")
	case b.ID > maxBridgeDomain:
		bad("bridgeDomain.id", "%d, want 1 to %d", b.ID, maxBridgeDomain)
	case len(b.Name) > 32 || !domainName.MatchString(b.Name) && b.Name != "":
		bad("bridgeDomain.name", "%.40q, want at most 32 letters, digits, '_', '.', '-'", b.Name)
	case len(c.Addresses) > 0 || len(c.Routes) > 0 || c.VRF != 0:
		bad("bridgeDomain", "a member of a bridge domain has no addresses, routes or vrf: use one or the other")
	}
	if c.VLAN < 0 || c.VLAN > maxVLAN {
		bad("vlan", "%d, want 1 to %d", c.VLAN, maxVLAN)
	} else if c.VLAN != 0 && b == nil {
		bad("vlan", "the tag is rewritten towards a bridge domain: set bridgeDomain")
	}
}

var domainName = regexp.MustCompile(`^[a-zA-Z0-9_.\-]+$`)

func (c *Config) checkL3(bad func(key, format string, args ...any)) {
	for i, a := range c.Addresses {
		if p, err := netip.ParsePrefix(a); err != nil || p.Addr().Is4In6() {
			bad(fmt.Sprintf("addresses[%d]", i), "%.60q, want an address with its prefix like 10.0.0.1/24", a)
		}
	}
	for i, r := range c.Routes {
		dst, err := netip.ParsePrefix(r.Dst)
		if err != nil || dst.Addr().Is4In6() {
			bad(fmt.Sprintf("routes[%d].dst", i), "%.60q, want a prefix like 10.1.0.0/16", r.Dst)
		}
		if r.GW == "" {
			continue
		}
		if a, err := netip.ParseAddr(r.GW); err != nil || a.Zone() != "" || a.Is4() != dst.Addr().Is4() || a.Is4In6() {
			bad(fmt.Sprintf("routes[%d].gw", i), "%.60q is no address of the family of dst", r.GW)
		}
	}
}
