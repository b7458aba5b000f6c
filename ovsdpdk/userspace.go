package ovsdpdk

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// userspaceConfig is a userspace-cni configuration, every key of it
// (userspace-cni docs/configuration; its Go types in pkg/types).
type userspaceConfig struct {
	Name       string        `json:"name"`
	Kubeconfig string        `json:"kubeconfig"`
	SharedDir  string        `json:"sharedDir"`
	LogFile    string        `json:"logFile"`
	LogLevel   string        `json:"logLevel"`
	Host       userspaceSide `json:"host"`
	Container  userspaceSide `json:"container"`
}

// userspaceSide is the host's or the container's half. The form and the empty
// objects are those that containers written for userspace-cni read.
type userspaceSide struct {
	Engine  string          `json:"engine,omitempty"`
	IfType  string          `json:"iftype,omitempty"`
	NetType string          `json:"netType,omitempty"`
	Memif   userspaceMemif  `json:"memif"`
	Vhost   userspaceVhost  `json:"vhost"`
	Bridge  userspaceBridge `json:"bridge"`
}

type userspaceMemif struct {
	Role       string `json:"role,omitempty"`
	Mode       string `json:"mode,omitempty"`
	SocketFile string `json:"socketfile,omitempty"`
}

type userspaceVhost struct {
	Mode       string `json:"mode,omitempty"`
	Group      string `json:"group,omitempty"`
	SocketFile string `json:"socketfile,omitempty"`
}

type userspaceBridge struct {
	Name string `json:"bridgeName,omitempty"`
	ID   int    `json:"bridgeId,omitempty"`
	VLAN int    `json:"vlanId,omitempty"`
}

// userspace-cni's defaults for ovs-dpdk.
const (
	userspaceBridgeName = "br0"
	userspaceSocketDir  = "/usr/local/var/run/openvswitch"
	userspaceMappedDir  = "/var/lib/cni/usrspcni"
)

// Annotations by which userspace-cni hands its configuration to the pod.
const (
	configurationAnnotation = "userspace/configuration-data"
	mappedDirAnnotation     = "userspace/mapped-dir"
)

// parseUserspace reads a configuration of type userspace as one of ovsdpdk.
func parseUserspace(network string, data []byte) (*Config, []string, error) {
	u := &userspaceConfig{}
	object := fmt.Sprintf("network %s: userspace", network)
	warnings, err := conf.Decode(object, data, u, conf.RefuseSlips)
	if err != nil {
		return nil, nil, err
	}
	bad := func(key, format string, args ...any) error {
		return fmt.Errorf("%s: key %q: %s", object, key, fmt.Sprintf(format, args...))
	}
	h := u.Host
	switch h.Engine {
	case "ovs-dpdk":
	case "vpp":
		return nil, nil, bad("host.engine", "vpp is not built into this plexus; allowed is ovs-dpdk")
	default:
		return nil, nil, bad("host.engine", "%.40q, allowed is ovs-dpdk", h.Engine)
	}
	if h.IfType != "vhostuser" {
		return nil, nil, bad("host.iftype", "%.40q, with engine ovs-dpdk it is vhostuser", h.IfType)
	}
	if h.NetType != "" && h.NetType != "bridge" {
		return nil, nil, bad("host.netType", "%.40q, with engine ovs-dpdk it is bridge", h.NetType)
	}
	switch u.Container.Engine {
	case "", "ovs-dpdk", "vpp":
	default:
		return nil, nil, bad("container.engine", "%.40q, allowed are ovs-dpdk, vpp", u.Container.Engine)
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

// configurationData is what the container reads, from an annotation or from
// the file beside the socket.
type configurationData struct {
	ContainerID string        `json:"containerId"`
	IfName      string        `json:"ifName"`
	Name        string        `json:"name"`
	Config      userspaceSide `json:"config"`
	IPResult    types.Result  `json:"ipResult"` // of CNI 0.4.0, which readers of 1.0.0 read as well
}

// configuration fills the container's half from the host's where it is silent.
func (u *userspaceConfig) configuration(a conf.Attachment, s *state, ipam *types100.Result) ([]byte, error) {
	side := u.Container
	if side.IfType == "" {
		side.IfType = u.Host.IfType
	}
	if side.NetType == "" {
		side.NetType = "interface"
	}
	if side.IfType == "vhostuser" {
		if side.Vhost.Mode == "" {
			side.Vhost.Mode = opposite(s.Mode)
		}
		side.Vhost.SocketFile = s.File
	}
	result := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns}},
	}
	if ipam != nil {
		for _, ip := range ipam.IPs {
			result.IPs = append(result.IPs, &types100.IPConfig{Address: ip.Address})
		}
		result.Routes, result.DNS = ipam.Routes, ipam.DNS
	}
	old, err := result.GetAsVersion("0.4.0")
	if err != nil {
		return nil, err
	}
	return json.Marshal(configurationData{a.Sandbox, a.IfName, u.Name, side, old})
}

// configurationFile is the name of the file beside the socket.
func configurationFile(a conf.Attachment) string {
	return fmt.Sprintf("%s%s-%s.json", shareddir.ConfigPrefix, shareddir.Short(a.Sandbox), a.IfName)
}

func opposite(mode string) string {
	if mode == modeClient {
		return modeServer
	}
	return modeClient
}
