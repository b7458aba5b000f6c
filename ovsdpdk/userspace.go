package ovsdpdk

import (
	"cmp"
	"fmt"

	"github.com/plexus-cni/plexus/delegates/userspace"
)

// userspace-cni's defaults for ovs-dpdk.
const (
	userspaceBridgeName = "br0"
	userspaceSocketDir  = "/usr/local/var/run/openvswitch"
)

// parseUserspace reads a configuration of type userspace as one of ovsdpdk.
func parseUserspace(network string, data []byte) (*Config, []string, error) {
	u, warnings, bad, err := userspace.Parse(network, userspace.EngineOVS, data)
	if err != nil {
		return nil, nil, err
	}
	h := &u.Host
	if h.IfType != "vhostuser" {
		return nil, nil, bad("host.iftype", "%.40q, with engine ovs-dpdk it is vhostuser", h.IfType)
	}
	if h.NetType != "" && h.NetType != "bridge" {
		return nil, nil, bad("host.netType", "%.40q, with engine ovs-dpdk it is bridge", h.NetType)
	}
	c := &Config{
		Bridge:       cmp.Or(h.Bridge.Name, userspaceBridgeName),
		CreateBridge: true,
		Vhost: Vhost{
			Mode:      cmp.Or(h.Vhost.Mode, modeServer), // anything but client is server there
			SocketDir: cmp.Or(u.SharedDir, userspaceSocketDir), SocketFile: h.Vhost.SocketFile, Group: h.Vhost.Group,
		},
		userspace: u,
	}
	c.names = map[string]string{
		"bridge": "host.bridge.bridgeName", "vlan": "host.bridge.vlanId", "vhost.mode": "host.vhost.mode",
		"vhost.socketDir": "sharedDir", "vhost.socketFile": "host.vhost.socketfile", "vhost.group": "host.vhost.group",
	}
	if h.Bridge.VLAN != 0 {
		c.VLAN = &h.Bridge.VLAN
	}
	if err := c.complete(fmt.Sprintf("network %s: userspace", network), data); err != nil {
		return nil, nil, err
	}
	return c, warnings, nil
}

func opposite(mode string) string {
	if mode == modeClient {
		return modeServer
	}
	return modeClient
}
