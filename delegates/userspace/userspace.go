package userspace

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Config is a userspace-cni configuration, every key of it (its Go types in
// pkg/types). A backend reads it as one of its own.
type Config struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	SharedDir  string `json:"sharedDir"`
	LogFile    string `json:"logFile"`
	LogLevel   string `json:"logLevel"`
	Host       Side   `json:"host"`
	Container  Side   `json:"container"`
}

// Side is the host's or the container's half. Containers written for
// userspace-cni read this form, with its empty objects.
type Side struct {
	Engine  string `json:"engine,omitempty"`
	IfType  string `json:"iftype,omitempty"`
	NetType string `json:"netType,omitempty"`
	Memif   Memif  `json:"memif"`
	Vhost   Vhost  `json:"vhost"`
	Bridge  Bridge `json:"bridge"`
}

// Memif is a memif of one side.
type Memif struct {
	Role       string `json:"role,omitempty"` // master or slave
	Mode       string `json:"mode,omitempty"` // ethernet, ip or inject-punt
	SocketFile string `json:"socketfile,omitempty"`
}

// Vhost is a vhost-user port of one side.
type Vhost struct {
	Mode       string `json:"mode,omitempty"` // client or server
	Group      string `json:"group,omitempty"`
	SocketFile string `json:"socketfile,omitempty"`
}

// Bridge is the bridge, or bridge domain, of one side.
type Bridge struct {
	Name string `json:"bridgeName,omitempty"`
	ID   int    `json:"bridgeId,omitempty"`
	VLAN int    `json:"vlanId,omitempty"`
}

// Engines of userspace-cni.
const (
	EngineVPP = "vpp"
	EngineOVS = "ovs-dpdk"
)

// Annotations by which userspace-cni hands its configuration to the pod, and
// where it looks for the sockets when the pod mounts no volume shared-dir.
const (
	userspaceConfigAnnotation = "userspace/configuration-data"
	userspaceDirAnnotation    = "userspace/mapped-dir"
	userspaceMappedDir        = "/var/lib/cni/usrspcni"
)

// Engine is the engine that a configuration of type userspace names.
func Engine(data []byte) (string, error) {
	var u struct {
		Host struct {
			Engine string `json:"engine"`
		} `json:"host"`
	}
	if err := json.Unmarshal(data, &u); err != nil {
		return "", fmt.Errorf("userspace: %w", conf.ExplainJSON(err, data))
	}
	switch u.Host.Engine {
	case EngineVPP, EngineOVS:
		return u.Host.Engine, nil
	}
	return "", fmt.Errorf("userspace: key %q: %.40q, allowed are %s, %s", "host.engine", u.Host.Engine, EngineOVS, EngineVPP)
}

// Parse reads a configuration of type userspace for one engine. The
// returned function makes an error about one of its keys.
func Parse(network, engine string, data []byte) (u *Config, warnings []string, bad func(key, format string, args ...any) error, err error) {
	u = &Config{}
	object := fmt.Sprintf("network %s: userspace", network)
	bad = func(key, format string, args ...any) error {
		return fmt.Errorf("%s: key %q: %s", object, key, fmt.Sprintf(format, args...))
	}
	if warnings, err = conf.Decode(object, data, u, conf.RefuseSlips); err != nil {
		return nil, nil, bad, err
	}
	if u.Host.Engine != engine {
		return nil, nil, bad, bad("host.engine", "%.40q, allowed is %s", u.Host.Engine, engine)
	}
	switch u.Container.Engine {
	case "", EngineOVS, EngineVPP:
	default:
		return nil, nil, bad, bad("container.engine", "%.40q, allowed are %s, %s", u.Container.Engine, EngineOVS, EngineVPP)
	}
	return u, warnings, bad, nil
}

// userspaceData is the document that the container reads, from an annotation or from the file
// beside the socket.
type userspaceData struct {
	ContainerID string       `json:"containerId"`
	IfName      string       `json:"ifName"`
	Name        string       `json:"name"`
	Config      Side         `json:"config"`
	IPResult    types.Result `json:"ipResult"` // of CNI 0.4.0, which readers of 1.0.0 read as well
}

// ConfigurationData fills empty fields of the container's half from the host's. socketFile is the name of the socket.
func (u *Config) ConfigurationData(a *delegates.Attachment, socketFile string, ipam *types100.Result) ([]byte, error) {
	side := u.Container
	if side.IfType == "" {
		side.IfType = u.Host.IfType
	}
	if side.NetType == "" {
		side.NetType = "interface"
	}
	other := func(value, first, second string) string {
		if value == first {
			return second
		}
		return first
	}
	switch side.IfType {
	case "vhostuser":
		if side.Vhost.Mode == "" {
			side.Vhost.Mode = other(u.Host.Vhost.Mode, "client", "server")
		}
		side.Vhost.SocketFile = socketFile
	case "memif":
		if side.Memif.Role == "" {
			side.Memif.Role = other(u.Host.Memif.Role, "master", "slave")
		}
		if side.Memif.Mode == "" {
			side.Memif.Mode = u.Host.Memif.Mode
		}
		side.Memif.SocketFile = socketFile
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
	return json.Marshal(userspaceData{a.Sandbox, a.IfName, u.Name, side, old})
}

// Annotations are the annotations of userspace-cni for the container, which it writes with a
// kubeconfig; nil without one. They have the addresses of the attachment's result.
func (u *Config) Annotations(a *delegates.Attachment, socketFile string) (map[string]string, error) {
	if u == nil || u.Kubeconfig == "" {
		return nil, nil
	}
	data, err := u.ConfigurationData(a, socketFile, a.Result)
	if err != nil {
		return nil, err
	}
	mapped := userspaceMappedDir
	if a.Pod != nil && a.Pod.SharedDirMount != "" {
		mapped = a.Pod.SharedDirMount
	}
	return map[string]string{userspaceConfigAnnotation: "[" + string(data) + "]", userspaceDirAnnotation: mapped}, nil
}
