package vppmemif

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.fd.io/govpp/binapi/ethernet_types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// checker collects what is wrong with a configuration.
type checker struct {
	*Config
	errs []error
}

// need adds an error about a key unless it is well.
func (c *checker) need(well bool, key, format string, args ...any) {
	if !well {
		c.errs = append(c.errs, fmt.Errorf("key %q: %s", c.key(key), fmt.Sprintf(format, args...)))
	}
}

func (c *checker) oneOf(key string, value *string, allowed ...string) {
	*value = cmp.Or(*value, allowed[0])
	c.need(slices.Contains(allowed, *value), key, "%.40q, allowed are %s", *value, strings.Join(allowed, ", "))
}

// check refuses a configuration with values out of their ranges, or with keys that exclude
// each other. It fills in defaults, and reads addresses and routes.
func (config *Config) check() error {
	c := checker{Config: config}
	c.oneOf("role", &c.Role, "server", "client")
	c.oneOf("mode", &c.Mode, "ethernet", "ip")
	c.APISocket = cmp.Or(c.APISocket, defaultAPISocket)
	c.need(filepath.IsAbs(c.APISocket), "apiSocket", "%.200q, want an absolute path", c.APISocket)
	c.checkSocket()
	c.need(len(c.Secret) <= maxSecret, "secret", "%d bytes, at most %d are allowed", len(c.Secret), maxSecret)
	c.need(!strings.Contains(c.Secret, "\x00"), "secret", "it has a zero byte")
	c.need(c.RingSize&(c.RingSize-1) == 0 && c.RingSize <= maxRingSize, "ringSize", "%d, want a power of 2 up to %d", c.RingSize, maxRingSize)
	c.need(c.MTU == 0 || minMTU <= c.MTU && c.MTU <= maxMTU, "mtu", "%d, want %d to %d", c.MTU, minMTU, maxMTU)
	if c.MAC != "" {
		hw, err := conf.UnicastMAC(c.MAC)
		c.need(err == nil, "mac", "%v", err)
		c.mac = ethernet_types.NewMacAddress(hw)
	}
	memifOnly := c.Socket.Abstract || c.Mode == "ip" || c.ID != 0 || c.Secret != "" || c.Queues != Queues{} || c.RingSize != 0 || c.BufSize != 0
	c.need(!c.VhostUser || !memifOnly,
		"vhostUser", "a vhost-user interface has no abstract socket, mode ip, id, secret, queues, ringSize or bufferSize: leave them out")
	c.checkL2()
	c.checkL3()
	return errors.Join(c.errs...)
}

func (c *checker) checkSocket() {
	s := &c.Socket
	clean := filepath.IsAbs(s.Dir) && filepath.Clean(s.Dir) == strings.TrimSuffix(s.Dir, "/") && !strings.Contains(s.Dir, "\x00")
	c.need(s.Dir == "" || clean && s.Dir != "/", "socket.dir", "%.200q, want an absolute path below / without \"..\"", s.Dir)
	err := shareddir.CheckFileName(s.File)
	c.need(err == nil, "socket.file", "%v", err)
	c.need(err != nil || !s.Abstract || !strings.ContainsAny(s.File, ",="),
		"socket.file", "%.80q: the name of an abstract socket has no ',' or '='", s.File)
	_, err = shareddir.ParsePermissions(cmp.Or(s.Permissions, "0"))
	c.need(err == nil, "socket.permissions", "%v", err)
	if s.Abstract {
		c.need(s.Dir == "" && s.Group == "" && s.Permissions == "",
			"socket.abstract", "an abstract socket has no folder: leave out dir, group and permissions")
		c.need(c.Role != "client",
			"socket.abstract", "with role client VPP would hold the pod's network namespace for ever: let the pod be the client")
	}
}

func (c *checker) checkL2() {
	b := c.BridgeDomain
	bad := func(key, format string, args ...any) { c.need(false, key, format, args...) }
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
	case b.Create != nil && (b.ID == 0 || c.VLAN != 0):
		bad("bridgeDomain.create", "a domain with a name, and a VLAN of a domain, are plexus' and made when they are missing: leave it out")
	case b.Uplink != "" && c.VLAN == 0:
		bad("bridgeDomain.uplink", "it carries a VLAN: set vlan")
	case len(b.Uplink) > maxName || strings.ContainsAny(b.Uplink, " \x00"):
		bad("bridgeDomain.uplink", "%.80q, want the name of an interface of VPP", b.Uplink)
	case len(c.Addresses) > 0 || len(c.Routes) > 0 || c.VRF != 0 || c.Gateways:
		bad("bridgeDomain", "a member of a bridge domain has no addresses, gateways, routes or vrf: use one or the other")
	}
	inRange := 0 <= c.VLAN && c.VLAN <= maxVLAN
	c.need(inRange, "vlan", "%d, want 1 to %d", c.VLAN, maxVLAN)
	c.need(!inRange || c.VLAN == 0 || b != nil, "vlan", "it is a VLAN of a bridge domain: set bridgeDomain")
}

var domainName = regexp.MustCompile(`^[a-zA-Z0-9_.\-]+$`)

func (c *checker) checkL3() {
	for i, text := range c.Addresses {
		address, err := netip.ParsePrefix(text)
		c.need(err == nil && !address.Addr().Is4In6(),
			fmt.Sprintf("addresses[%d]", i), "%.60q, want an address with its prefix like 10.0.0.1/24", text)
		c.addresses = append(c.addresses, address)
	}
	for i, text := range c.Routes {
		dst, err := netip.ParsePrefix(text.Dst)
		c.need(err == nil && !dst.Addr().Is4In6(), fmt.Sprintf("routes[%d].dst", i), "%.60q, want a prefix like 10.1.0.0/16", text.Dst)
		gw, err := netip.ParseAddr(text.GW)
		c.need(text.GW == "" || err == nil && gw.Zone() == "" && gw.Is4() == dst.Addr().Is4() && !gw.Is4In6(),
			fmt.Sprintf("routes[%d].gw", i), "%.60q is no address of the family of dst", text.GW)
		c.routes = append(c.routes, route{dst, gw})
	}
}
