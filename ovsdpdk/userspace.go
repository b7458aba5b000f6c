package ovsdpdk

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
)

// userspace-cni's defaults for ovs-dpdk.
const (
	userspaceBridgeName = "br0"
	userspaceSocketDir  = "/usr/local/var/run/openvswitch"
)

// parseUserspace reads a configuration of type userspace as one of ovsdpdk.
func parseUserspace(network string, data []byte) (*Config, []string, error) {
	u, warnings, bad, err := conf.ParseUserspace(network, conf.EngineOVS, data)
	if err != nil {
		return nil, nil, err
	}
	object := fmt.Sprintf("network %s: userspace", network)
	h := &u.Host
	if h.IfType != "vhostuser" {
		return nil, nil, bad("host.iftype", "%.40q, with engine ovs-dpdk it is vhostuser", h.IfType)
	}
	if h.NetType != "" && h.NetType != "bridge" {
		return nil, nil, bad("host.netType", "%.40q, with engine ovs-dpdk it is bridge", h.NetType)
	}
	c := &Config{
		Bridge:       h.Bridge.Name,
		CreateBridge: true,
		Vhost:        Vhost{Mode: h.Vhost.Mode, SocketDir: u.SharedDir, SocketFile: h.Vhost.SocketFile, Group: h.Vhost.Group},
		userspace:    u,
	}
	c.names = map[string]string{
		"bridge": "host.bridge.bridgeName", "vlan": "host.bridge.vlanId", "vhost.mode": "host.vhost.mode",
		"vhost.socketDir": "sharedDir", "vhost.socketFile": "host.vhost.socketfile", "vhost.group": "host.vhost.group",
	}
	if err := json.Unmarshal(data, &c.asked); err != nil {
		return nil, nil, fmt.Errorf("%s: runtimeConfig.mac, args.cni.mac: %w", object, err)
	}
	if c.Bridge == "" {
		c.Bridge = userspaceBridgeName
	}
	if c.Vhost.Mode == "" {
		c.Vhost.Mode = modeServer // anything but client is server there
	}
	if c.Vhost.SocketDir == "" {
		c.Vhost.SocketDir = userspaceSocketDir
	}
	if h.Bridge.VLAN != 0 {
		c.VLAN = &h.Bridge.VLAN
	}
	if err := c.check(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", object, err)
	}
	c.Vhost.SocketDir = filepath.Clean(c.Vhost.SocketDir)
	return c, warnings, nil
}

func opposite(mode string) string {
	if mode == modeClient {
		return modeServer
	}
	return modeClient
}
