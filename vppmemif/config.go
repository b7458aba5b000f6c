// Package vppmemif attaches pods to the node's VPP by memif, shared-memory
// packet interfaces.
//
// It drives VPP over its binary API with govpp. An attachment is a memif socket
// (memif_socket_filename_add_del_v2) with one interface on it (memif_create_v2),
// tagged, and a member of a bridge domain (L2) or of a table with addresses and
// routes on the vswitch's side (L3). VPP forgets everything when it restarts
// and its numbers repeat, so none is remembered: what is ours is found by the
// socket's name and by the tag, each time. Objects of others are never touched.
//
// Configurations of type vppmemif have the keys of Config.
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

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// Config is the configuration of type vppmemif.
type Config struct {
	APISocket string `json:"apiSocket"` // of VPP's binary API
	Role      string `json:"role"`      // of the vswitch's side: server (default) listens, client connects
	Mode      string `json:"mode"`      // ethernet (default) or ip
	Socket    Socket `json:"socket"`
	ID        uint32 `json:"id"` // number of the interface on its socket, both sides agree on it
	Secret    string `json:"secret"`
	Queues    Queues `json:"queues"`
	RingSize  uint32 `json:"ringSize"`   // descriptors, a power of 2
	BufSize   uint16 `json:"bufferSize"` // bytes
	MTU       int    `json:"mtu"`        // bytes
	MAC       string `json:"mac"`        // of the vswitch's side

	BridgeDomain *BridgeDomain `json:"bridgeDomain"`
	VLAN         int           `json:"vlan"` // the pod's frames are untagged, the domain's carry this tag

	VRF       uint32   `json:"vrf"`
	Addresses []string `json:"addresses"` // of the vswitch's side, with prefix
	Routes    []Route  `json:"routes"`    // into the vrf, through this interface

	vhost     bool              // a vhost-user interface instead of a memif
	gateways  bool              // the vswitch's side has the gateways that ipam gives
	userspace *conf.Userspace   // when that is how it was written
	names     map[string]string // what it calls the keys, where that differs
}

// key is a key as the user has written it.
func (c *Config) key(name string) string {
	if other, ok := c.names[name]; ok {
		return other
	}
	return name
}

// Socket says where the socket is.
type Socket struct {
	Dir         string `json:"dir"`
	File        string `json:"file"`
	Abstract    bool   `json:"abstract"` // in the pod's network namespace; no folder is needed
	Group       string `json:"group"`
	Permissions string `json:"permissions"`
}

// Queues are counted from the vswitch's side.
type Queues struct {
	RX uint8 `json:"rx"`
	TX uint8 `json:"tx"`
}

// BridgeDomain is the L2 domain that the interface becomes a member of.
type BridgeDomain struct {
	ID             uint32 `json:"id"`
	Name           string `json:"name"` // gets an id of its own, always the same
	Learn          *bool  `json:"learn"`
	Flood          *bool  `json:"flood"`
	ARPTermination bool   `json:"arpTermination"`
}

// Route is a route of the vswitch's side.
type Route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

// Where things are when the configuration does not say.
const (
	defaultAPISocket = "/run/vpp/api.sock"
	defaultSocketDir = "/run/plexus/memif"
)

// defaultSocketDirs are the folders that a network may name on every node: plexus'
// own, and those of userspace-cni and its examples.
var defaultSocketDirs = []string{defaultSocketDir, userspaceSocketDir, "/var/lib/cni/usrspcni"}

// Bounds, from VPP's sources and .api files.
const (
	maxBridgeDomain = 1<<24 - 1 // l2_bd.h, L2_BD_ID_MAX
	maxRingSize     = 1 << 14   // memif.h, MEMIF_MAX_LOG2_RING_SIZE
	maxSecret       = 23        // memif.api, string secret[24]
	maxSocket       = 106       // vppinfra/socket.c, the name with its zero is at most 107
	maxTag          = 63        // interface.api, string tag[64]; a longer one is cut silently
	maxVLAN         = 4094
	minMTU, maxMTU  = 68, 9216
)

func parse(network string, data []byte) (*Config, []string, error) {
	c := &Config{}
	object := fmt.Sprintf("network %s: vppmemif", network)
	warnings, err := conf.Decode(object, data, c, conf.RefuseSlips)
	if err != nil {
		return nil, nil, err
	}
	if err := c.check(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", object, err)
	}
	if c.Socket.Dir == "" {
		c.Socket.Dir = defaultSocketDir
	}
	return c, warnings, nil
}

// within refuses an address or a folder that the node does not allow. An abstract
// socket has no folder.
func (c *Config) within(b conf.Bounds) error {
	err := b.Endpoint(c.key("apiSocket"), c.APISocket, defaultAPISocket)
	if !c.Socket.Abstract {
		err = errors.Join(err, b.SocketDir(c.key("socket.dir"), c.Socket.Dir, defaultSocketDirs...))
	}
	return conf.Refuse(err)
}

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
