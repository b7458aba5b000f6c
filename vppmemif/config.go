// Package vppmemif attaches pods to the node's VPP by memif, shared-memory
// packet interfaces.
//
// It drives VPP over its binary API with govpp. An attachment is a memif socket
// (memif_socket_filename_add_del_v2) with one interface on it (memif_create_v2). The
// interface has a tag, and is a member of a bridge domain (L2) or of a table with
// addresses and routes on the vswitch's side (L3). VPP forgets everything when it
// restarts, and its numbers repeat: plexus records none, and finds its objects by the
// socket's name and by the tag each time. It never touches objects of others.
//
// attach.go has the way of an attachment into VPP, remove.go the way back.
//
// Configurations of type vppmemif have the keys of Config.
package vppmemif

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"go.fd.io/govpp/binapi/ethernet_types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
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
	VLAN         int           `json:"vlan"` // of the domain: each VLAN of it is a domain of its own

	VRF       uint32   `json:"vrf"`
	Addresses []string `json:"addresses"` // of the vswitch's side, with prefix
	Routes    []Route  `json:"routes"`    // into the vrf, through this interface

	VhostUser bool `json:"vhostUser"` // a vhost-user interface instead of a memif
	Gateways  bool `json:"gateways"`  // the vswitch's side has the gateways that ipam gives

	// What check reads from the texts above.
	mac       ethernet_types.MacAddress
	addresses []netip.Prefix
	routes    []route

	dialect *delegates.Dialect
	hints   []string
}

// key is a key as the user has written it.
func (c *Config) key(name string) string { return c.dialect.Key(name) }

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
	Name           string `json:"name"`   // gets an id of its own, always the same
	Create         *bool  `json:"create"` // make it when it is missing; see mayMake
	Learn          *bool  `json:"learn"`
	Flood          *bool  `json:"flood"`
	ARPTermination bool   `json:"arpTermination"`
	Uplink         string `json:"uplink"` // VPP's interface on which the domain's frames carry the vlan
}

// Route is a route of the vswitch's side.
type Route struct {
	Dst string `json:"dst"`
	GW  string `json:"gw"`
}

// route is a Route whose texts are read.
type route struct {
	Dst netip.Prefix `json:"dst"`
	GW  netip.Addr   `json:"gw"` // zero for none
}

func (r route) String() string {
	if !r.GW.IsValid() {
		return r.Dst.String()
	}
	return fmt.Sprintf("%s via %s", r.Dst, r.GW)
}

// Where things are when the configuration does not say.
const (
	defaultAPISocket = "/run/vpp/api.sock"
	defaultSocketDir = "/run/plexus/memif"
)

// defaultSocketDirs are the folders that a network may name on every node: plexus'
// own, and those of userspace-cni and its examples.
var defaultSocketDirs = []string{defaultSocketDir, "/var/run/vpp", "/var/lib/cni/usrspcni"}

// Bounds, from VPP's sources and .api files.
const (
	maxBridgeDomain = 1<<24 - 1 // l2_bd.h, L2_BD_ID_MAX
	maxRingSize     = 1 << 14   // memif.h, MEMIF_MAX_LOG2_RING_SIZE
	maxSecret       = 23        // memif.api, string secret[24]
	maxSocket       = 106       // vppinfra/socket.c, the name with its zero is at most 107
	maxTag          = 63        // interface.api, string tag[64]; a longer one is cut silently
	maxVLAN         = 4094
	maxName         = 58 // interface.api, string interface_name[64], less the number of a sub-interface
	minMTU, maxMTU  = 68, 9216
)

// hasMAC reports whether the configuration gives the interface an address. In mode
// ip a memif has none.
func (c *Config) hasMAC() bool { return c.MAC != "" && (c.VhostUser || c.Mode == "ethernet") }

func parseAs(network string, data []byte, dialect *delegates.Dialect) (*Config, []string, error) {
	c := &Config{dialect: dialect}
	object := dialect.Object(network, "vppmemif")
	warnings, err := conf.Decode(object, data, c, conf.RefuseSlips)
	if err != nil {
		return nil, nil, err
	}
	if c.Role == "" && !c.VhostUser && !c.Socket.Abstract {
		c.hints = append(c.hints, fmt.Sprintf("%s: key %q: it is missing, and the pod connects to VPP: DPDK (net_memif) does not connect again when VPP has been restarted; with %q VPP connects, and DPDK goes on; %q says that the pod is to connect",
			object, c.key("role"), "client", "server"))
	}
	if err := c.check(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", object, err)
	}
	if c.Socket.Dir == "" {
		c.Socket.Dir = defaultSocketDir
	}
	if b := c.BridgeDomain; b != nil && b.ID != 0 && c.VLAN != 0 && b.Uplink == "" {
		warnings = append(warnings, fmt.Sprintf("%s: key %q: %d of bridge domain %d is a domain of its own, which has pods alone: name the interface that carries the VLAN with %q",
			object, c.key("vlan"), c.VLAN, b.ID, c.key("bridgeDomain.uplink")))
	}
	if given := c.givenToClient(); c.Role == "server" && len(given) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s: keys %s: they have no effect, as the client of a memif decides them and VPP is the server: set them in the pod's program, or %q to client",
			object, strings.Join(given, ", "), c.key("role")))
	}
	if c.Socket.Abstract {
		warnings = append(warnings, fmt.Sprintf("%s: key %q: VPP (24.10 to 26.10) keeps the pod's network namespace open until VPP ends, with every link in it but veths: prefer a socket in a folder",
			object, c.key("socket.abstract")))
	}
	return c, warnings, nil
}

// givenToClient are the keys by which a client sizes its memif.
func (c *Config) givenToClient() (keys []string) {
	for _, one := range []struct {
		key   string
		given bool
	}{{"queues", c.Queues != Queues{}}, {"ringSize", c.RingSize != 0}, {"bufferSize", c.BufSize != 0}} {
		if one.given {
			keys = append(keys, fmt.Sprintf("%q", c.key(one.key)))
		}
	}
	return keys
}

// within refuses an address or a folder that the node does not allow. An abstract
// socket has no folder.
func (c *Config) within(b conf.Bounds) error {
	err := b.Endpoint(c.key("apiSocket"), c.APISocket, defaultAPISocket)
	if !c.Socket.Abstract {
		err = errors.Join(err, b.SocketDir(c.key("socket.dir"), c.Socket.Dir, defaultSocketDirs...))
	}
	if c.BridgeDomain != nil && c.BridgeDomain.Uplink != "" {
		err = errors.Join(err, b.Uplink(c.key("bridgeDomain.uplink"), c.BridgeDomain.Uplink))
	}
	return conf.Refuse(err)
}
