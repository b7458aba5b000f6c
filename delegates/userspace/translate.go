package userspace

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/plexus-cni/plexus/delegates"
)

// userspace-cni's defaults.
const (
	ovsBridge    = "br0"
	ovsSocketDir = "/usr/local/var/run/openvswitch"
	vppSocketDir = "/var/run/vpp"
)

// maxBridgeID is the highest number of a bridge domain (VPP's l2_bd.h, L2_BD_ID_MAX).
const maxBridgeID = 1<<24 - 1

type object = map[string]any

// bad is the error of a key's value.
func bad(key, format string, args ...any) error {
	return fmt.Errorf("key %q: %s", key, fmt.Sprintf(format, args...))
}

// translate writes a configuration in the keys of an engine's backend, and gives the dialect
// the names that the user knows them by. The backend checks values that it has in the same
// form.
func (u *Config) translate(engine string, dialect *delegates.Dialect) (object, error) {
	if u.Host.Engine != engine {
		return nil, bad("host.engine", "%.40q, allowed is %s", u.Host.Engine, engine)
	}
	switch u.Container.Engine {
	case "", EngineOVS, EngineVPP:
	default:
		return nil, bad("container.engine", "%.40q, allowed are %s, %s", u.Container.Engine, EngineOVS, EngineVPP)
	}
	if engine == EngineOVS {
		return u.ovsdpdk(dialect)
	}
	return u.vppmemif(dialect)
}

// withRequests adds the addresses that the runtime and the pod put into a configuration. Their
// keys are the same in each.
func withRequests(keys object, config []byte) ([]byte, error) {
	var original map[string]json.RawMessage
	if err := json.Unmarshal(config, &original); err != nil {
		return nil, err
	}
	for _, name := range []string{"runtimeConfig", "args"} {
		if value, ok := original[name]; ok {
			keys[name] = value
		}
	}
	return json.Marshal(keys)
}

func (u *Config) ovsdpdk(dialect *delegates.Dialect) (object, error) {
	h := &u.Host
	if h.IfType != "vhostuser" {
		return nil, bad("host.iftype", "%.40q, with engine ovs-dpdk it is vhostuser", h.IfType)
	}
	if h.NetType != "" && h.NetType != "bridge" {
		return nil, bad("host.netType", "%.40q, with engine ovs-dpdk it is bridge", h.NetType)
	}
	dialect.Keys = map[string]string{
		"bridge": "host.bridge.bridgeName", "vlan": "host.bridge.vlanId", "vhost.mode": "host.vhost.mode",
		"vhost.socketDir": "sharedDir", "vhost.socketFile": "host.vhost.socketfile", "vhost.group": "host.vhost.group",
	}
	keys := object{
		"bridge": cmp.Or(h.Bridge.Name, ovsBridge), "createBridge": true,
		"vhost": object{
			"mode":      cmp.Or(h.Vhost.Mode, "server"), // anything but client is server there
			"socketDir": cmp.Or(u.SharedDir, ovsSocketDir), "socketFile": h.Vhost.SocketFile, "group": h.Vhost.Group,
		},
	}
	if h.Bridge.VLAN != 0 {
		keys["vlan"] = h.Bridge.VLAN
	}
	return keys, nil
}

// vppmemif: netType bridge is a bridge domain, by number or by name; interface is L3, where the
// vswitch has the gateways that ipam gives.
func (u *Config) vppmemif(dialect *delegates.Dialect) (object, error) {
	h := &u.Host
	dialect.Keys = map[string]string{
		"mode": "host.memif.mode", "socket.dir": "sharedDir", "socket.group": "host.vhost.group", "role": "host.vhost.mode",
		"bridgeDomain": "host.bridge.bridgeName", "bridgeDomain.id": "host.bridge.bridgeName", "bridgeDomain.name": "host.bridge.bridgeName",
		"vlan": "host.bridge.vlanId",
	}
	socket := object{"dir": cmp.Or(u.SharedDir, vppSocketDir)}
	keys := object{"socket": socket}
	switch h.IfType {
	case "memif":
		roles := map[string]string{"master": "server", "slave": "client"}
		if roles[h.Memif.Role] == "" {
			return nil, bad("host.memif.role", "%.40q, allowed are master, slave", h.Memif.Role)
		}
		keys["role"], keys["mode"], socket["file"] = roles[h.Memif.Role], h.Memif.Mode, h.Memif.SocketFile
		dialect.Keys["socket.file"] = "host.memif.socketfile"
	case "vhostuser":
		keys["role"], keys["vhostUser"], socket["file"], socket["group"] = h.Vhost.Mode, true, h.Vhost.SocketFile, h.Vhost.Group
		dialect.Keys["socket.file"] = "host.vhost.socketfile"
	default:
		return nil, bad("host.iftype", "%.40q, with engine vpp allowed are memif, vhostuser", h.IfType)
	}
	switch h.NetType {
	case "bridge":
		domain := object{"name": h.Bridge.Name}
		if id, err := strconv.ParseUint(h.Bridge.Name, 10, 32); err == nil {
			domain = object{"id": id}
		} else if h.Bridge.Name == "" {
			if h.Bridge.ID < 1 || h.Bridge.ID > maxBridgeID {
				return nil, bad("host.bridge.bridgeName", "it is missing, and bridgeId is not within 1 to %d", maxBridgeID)
			}
			domain = object{"id": h.Bridge.ID}
		}
		keys["bridgeDomain"], keys["vlan"] = domain, h.Bridge.VLAN
	case "interface":
		keys["gateways"] = true
	case "none":
	default:
		return nil, bad("host.netType", "%.40q, allowed are bridge, interface, none", h.NetType)
	}
	return keys, nil
}
