// Package ovsdpdk attaches pods to the node's OVS-DPDK by vhost-user ports.
//
// It speaks OVSDB (RFC 7047) to ovsdb-server and executes nothing. An
// attachment is one Port with one Interface of type dpdkvhostuserclient (the
// vswitch connects to the pod's socket) or dpdkvhostuser (the vswitch
// listens), inserted into a netdev bridge in one transaction
// (ovs-vswitchd.conf.db(5)). Every row has external_ids plexus-*: its owner's
// marks, and the state by which it is removed. Rows of others are never touched.
// ovs-vswitchd acts on the rows later, and Attach waits for that. The ports of a
// pod are inserted and removed together, and cost one reconfiguration.
//
// Configurations of type ovsdpdk have the keys of Config.
package ovsdpdk

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Defaults.
const (
	defaultOVSDB     = "unix:/run/openvswitch/db.sock"
	defaultSocketDir = "/run/plexus/vhost"
)

// defaultSocketDirs are the folders that a network may name on every node: plexus'
// own, and those of userspace-cni and its examples.
var defaultSocketDirs = []string{defaultSocketDir, "/usr/local/var/run/openvswitch", "/run/openvswitch", "/var/lib/cni/usrspcni"}

// Config is the configuration of type ovsdpdk.
type Config struct {
	OVSDB        string `json:"ovsdb"`        // unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT, or several of one OVSDB with commas between
	Bridge       string `json:"bridge"`       // a netdev bridge
	CreateBridge bool   `json:"createBridge"` // make it when it is missing, remove it with its last port
	Vhost        Vhost  `json:"vhost"`
	VLAN         *int   `json:"vlan"`  // access VLAN, or the native one beside trunk
	Trunk        Trunks `json:"trunk"` // VLANs that pass tagged
	MTU          int    `json:"mtu"`   // bytes, 0: the vswitch's choice
	MAC          string `json:"mac"`

	LogFile  string `json:"logFile"`  // accepted for ovs-cni's sake; plexus logs
	LogLevel string `json:"logLevel"` // likewise

	// Addresses that the runtime and the pod put into any configuration; the rest of both
	// objects is for others.
	requests struct {
		RuntimeConfig struct{ MAC string }
		Args          struct{ CNI struct{ MAC string } }
	}
	dialect *delegates.Dialect
}

// Vhost is the socket: its place, and the side that listens.
type Vhost struct {
	Mode        string `json:"mode"`        // of the vswitch's side: client (default) or server
	SocketDir   string `json:"socketDir"`   // folder; each sandbox has one of its own below
	SocketFile  string `json:"socketFile"`  // name in that folder
	Group       string `json:"group"`       // group of folder and socket
	Permissions string `json:"permissions"` // of the folder, octal; default 0750, with a group 0770
}

// Trunks is a list of VLANs: numbers, or objects as ovs-cni has them, {"id":
// 7} or {"minID": 10, "maxID": 20}.
type Trunks []int

// UnmarshalJSON reads both forms.
func (t *Trunks) UnmarshalJSON(data []byte) error {
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil {
		return errors.New(`key "trunk": want a list of VLANs`)
	}
	if items == nil { // null
		*t = nil
		return nil
	}
	var members [maxVLAN + 1]bool
	for _, item := range items {
		first, last, ok := vlanRange(item)
		if !ok {
			return fmt.Errorf("key \"trunk\": %.60s: want a VLAN, {\"id\": VLAN} or {\"minID\": VLAN, \"maxID\": VLAN} within 0 to %d", item, maxVLAN)
		}
		for id := first; id <= last; id++ {
			members[id] = true
		}
	}
	ids := Trunks{}
	for id, on := range members {
		if on {
			ids = append(ids, id)
		}
	}
	*t = ids
	return nil
}

func vlanRange(item json.RawMessage) (first, last int, ok bool) {
	var id *int
	var r struct{ ID, MinID, MaxID *int }
	switch {
	case json.Unmarshal(item, &id) == nil && id != nil:
		first, last = *id, *id
	case json.Unmarshal(item, &r) != nil:
		return 0, 0, false
	case r.ID != nil && r.MinID == nil && r.MaxID == nil:
		first, last = *r.ID, *r.ID
	case r.ID == nil && r.MinID != nil && r.MaxID != nil:
		first, last = *r.MinID, *r.MaxID
	default:
		return 0, 0, false
	}
	return first, last, 0 <= first && first <= last && last <= maxVLAN
}

const (
	maxVLAN = 4095 // ovs-vswitchd.conf.db(5), Port: tag, trunks
	minMTU  = 68   // RFC 791
	maxMTU  = 9702 // OVS' lib/netdev-dpdk.c: NETDEV_DPDK_MAX_PKT_LEN less headers with two tags
)

// The modes of the vswitch's side of the socket.
const (
	modeClient = "client"
	modeServer = "server"
)

// parseAs reads a configuration, fills in defaults and checks the values.
func parseAs(network string, data []byte, dialect *delegates.Dialect) (*Config, []string, error) {
	c := &Config{dialect: dialect}
	object := dialect.Object(network, "ovsdpdk")
	warnings, err := conf.Decode(object, data, c, conf.RefuseSlips)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(data, &c.requests); err != nil {
		return nil, nil, fmt.Errorf("%s: runtimeConfig.mac, args.cni.mac: %w", object, err)
	}
	c.OVSDB = cmp.Or(c.OVSDB, defaultOVSDB)
	c.Vhost.Mode = cmp.Or(c.Vhost.Mode, modeClient)
	c.Vhost.SocketDir = cmp.Or(c.Vhost.SocketDir, defaultSocketDir)
	if err := c.check(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", object, err)
	}
	c.Vhost.SocketDir = filepath.Clean(c.Vhost.SocketDir)
	return c, warnings, nil
}

// within refuses an address or a folder that the node does not allow.
func (c *Config) within(b conf.Bounds) error {
	err := b.Endpoint(c.dialect.Key("ovsdb"), c.OVSDB, defaultOVSDB)
	return conf.Refuse(errors.Join(err, b.SocketDir(c.dialect.Key("vhost.socketDir"), c.Vhost.SocketDir, defaultSocketDirs...)))
}

// check refuses values that cannot be, and writes MAC addresses in one form.
func (c *Config) check() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("key %q: %s", c.dialect.Key(key), fmt.Sprintf(format, args...)))
	}
	if err := checkAddress(c.OVSDB); err != nil {
		bad("ovsdb", "%v", err)
	}
	if c.Bridge == "" {
		bad("bridge", "it is missing: name a bridge of the node's OVS with datapath_type netdev")
	} else if err := conf.CheckIfName(c.Bridge); err != nil {
		bad("bridge", "%v", err)
	}
	if c.Vhost.Mode != modeClient && c.Vhost.Mode != modeServer {
		bad("vhost.mode", "%.40q, allowed are client, server (of the vswitch's side)", c.Vhost.Mode)
	}
	if d := c.Vhost.SocketDir; !filepath.IsAbs(d) || filepath.Clean(d) != strings.TrimSuffix(d, "/") {
		bad("vhost.socketDir", "%.200q, want an absolute path without \"..\"", d)
	}
	if err := shareddir.CheckFileName(c.Vhost.SocketFile); err != nil {
		bad("vhost.socketFile", "%v", err)
	}
	if p := c.Vhost.Permissions; p != "" {
		if _, err := shareddir.ParsePermissions(p); err != nil {
			bad("vhost.permissions", "%v", err)
		}
	}
	if c.VLAN != nil && (*c.VLAN < 0 || *c.VLAN > maxVLAN) {
		bad("vlan", "%d, want 0 to %d", *c.VLAN, maxVLAN)
	}
	if c.Trunk != nil && len(c.Trunk) == 0 {
		if c.VLAN == nil {
			bad("trunk", "an empty list would let every VLAN pass: name VLANs, or set \"vlan\"")
		}
		c.Trunk = nil // with vlan: no other VLAN passes, which is an access port
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		bad("mtu", "%d, want %d to %d", c.MTU, minMTU, maxMTU)
	}
	for _, m := range []struct {
		key   string
		value *string
	}{{"mac", &c.MAC}, {"args.cni.mac", &c.requests.Args.CNI.MAC}, {"runtimeConfig.mac", &c.requests.RuntimeConfig.MAC}} {
		if *m.value == "" {
			continue
		}
		hw, err := conf.UnicastMAC(*m.value)
		if err != nil {
			bad(m.key, "%v", err)
			continue
		}
		*m.value = hw.String()
	}
	return errors.Join(errs...)
}

// mac is the address that the runtime requests, else args, else the configuration.
func (c *Config) mac() string {
	return cmp.Or(c.requests.RuntimeConfig.MAC, c.requests.Args.CNI.MAC, c.MAC)
}
