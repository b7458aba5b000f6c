// Package userspace reads configurations of userspace-cni. It translates each into the keys
// of a backend, ovsdpdk or vppmemif, and has what a container written for userspace-cni
// reads.
package userspace

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Config is a userspace-cni configuration, every key of it (its Go types in
// pkg/types).
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

// Backend is a backend that reads translated configurations.
type Backend interface {
	delegates.Delegate
	// ParseAs is Parse of a configuration that the user wrote in a dialect.
	ParseAs(network string, config []byte, dialect *delegates.Dialect) (delegates.Network, []string, error)
}

// Delegate is the backend of one engine, for configurations of type userspace.
type Delegate struct {
	Backend
	engine string
}

// New makes the delegate of type userspace for an engine. The backend is in use under its own
// name as well.
func New(engine string, backend Backend) Delegate { return Delegate{backend, engine} }

// Parse translates a configuration for the backend. A configuration that cannot be accepted
// is a conf.Refusal.
func (d Delegate) Parse(network string, config []byte) (delegates.Network, []string, error) {
	u := &Config{}
	dialect := &delegates.Dialect{Plugin: "userspace", Document: u.document, Annotations: u.annotations}
	object := dialect.Object(network, "")
	warnings, err := conf.Decode(object, config, u, conf.RefuseSlips)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	keys, err := u.translate(d.engine, dialect)
	if err != nil {
		return nil, nil, conf.Refuse(fmt.Errorf("%s: %w", object, err))
	}
	translated, err := withRequests(keys, config)
	if err != nil {
		return nil, nil, err
	}
	n, more, err := d.ParseAs(network, translated, dialect)
	return n, append(warnings, more...), err
}

// Sweep does nothing: the backend under its own name sweeps the marks of both.
func (Delegate) Sweep(context.Context, string, []string, conf.Bounds, func(sandbox, ifName string) bool) []error {
	return nil
}

// Close does nothing: the backend is closed under its own name.
func (Delegate) Close() {}
