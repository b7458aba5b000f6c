package vppmemif

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/plexus-cni/plexus/delegates/userspace"
)

// userspaceSocketDir is userspace-cni's default for vpp.
const userspaceSocketDir = "/var/run/vpp"

// parseUserspace reads a configuration of type userspace as one of vppmemif. Its
// netType bridge is a bridge domain, by number or by name; interface is L3,
// where the vswitch has the gateways that ipam gives.
func parseUserspace(network string, data []byte) (*Config, []string, error) {
	u, warnings, bad, err := userspace.Parse(network, userspace.EngineVPP, data)
	if err != nil {
		return nil, nil, err
	}
	h := &u.Host
	c := &Config{
		APISocket: defaultAPISocket,
		Socket:    Socket{Dir: u.SharedDir},
		userspace: u,
		names: map[string]string{
			"mode": "host.memif.mode", "socket.dir": "sharedDir", "socket.group": "host.vhost.group",
			"bridgeDomain": "host.bridge.bridgeName", "bridgeDomain.id": "host.bridge.bridgeName", "bridgeDomain.name": "host.bridge.bridgeName", "vlan": "host.bridge.vlanId",
		},
	}
	role, key := h.Memif.Role, "host.memif.role"
	roles := map[string]string{"master": "server", "slave": "client"}
	switch h.IfType {
	case "memif":
		c.Mode, c.Socket.File = h.Memif.Mode, h.Memif.SocketFile
		c.names["socket.file"] = "host.memif.socketfile"
	case "vhostuser":
		c.vhost, c.Socket.File, c.Socket.Group = true, h.Vhost.SocketFile, h.Vhost.Group
		c.names["socket.file"] = "host.vhost.socketfile"
		role, key = h.Vhost.Mode, "host.vhost.mode"
		roles = map[string]string{"server": "server", "client": "client", "": "server"}
	default:
		return nil, nil, bad("host.iftype", "%.40q, with engine vpp allowed are memif, vhostuser", h.IfType)
	}
	if c.Role = roles[role]; c.Role == "" {
		allowed := slices.DeleteFunc(slices.Sorted(maps.Keys(roles)), func(s string) bool { return s == "" })
		return nil, nil, bad(key, "%.40q, allowed are %s", role, strings.Join(allowed, ", "))
	}
	switch h.NetType {
	case "bridge":
		c.BridgeDomain, c.VLAN = &BridgeDomain{Name: h.Bridge.Name}, h.Bridge.VLAN
		id, err := strconv.ParseUint(h.Bridge.Name, 10, 32)
		switch {
		case h.Bridge.Name == "" && h.Bridge.ID > 0 && h.Bridge.ID <= maxBridgeDomain:
			c.BridgeDomain.ID = uint32(h.Bridge.ID)
		case h.Bridge.Name == "":
			return nil, nil, bad("host.bridge.bridgeName", "it is missing, and bridgeId is not within 1 to %d", maxBridgeDomain)
		case err == nil:
			c.BridgeDomain.ID, c.BridgeDomain.Name = uint32(id), ""
		}
	case "interface":
		c.gateways = true
	case "none":
	default:
		return nil, nil, bad("host.netType", "%.40q, allowed are bridge, interface, none", h.NetType)
	}
	if err := c.check(); err != nil {
		return nil, nil, fmt.Errorf("network %s: userspace: %w", network, err)
	}
	if c.Socket.Dir == "" {
		c.Socket.Dir = userspaceSocketDir
	}
	c.Socket.Dir = filepath.Clean(c.Socket.Dir)
	return c, warnings, nil
}
