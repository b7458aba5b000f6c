package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// network is one parsed configuration.
type network struct {
	delegates.BaseNetwork
	*Config
	d *Delegate
}

// networkOf is the network of an attachment, nil for none.
func networkOf(a *delegates.Attachment) *network {
	n, _ := a.Network.(*network)
	return n
}

// Endpoint is the address of the OVSDB.
func (n *network) Endpoint() string { return n.OVSDB }

// Ready says whether ADD would work.
func (n *network) Ready(ctx context.Context) error { return n.survey(ctx, nil) }

// Prepare decides on names and paths and sees whether the vswitch will do.
func (n *network) Prepare(ctx context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	if err := n.within(a.Bounds); err != nil {
		return nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	s, err := n.decide(a)
	if err != nil {
		return nil, err
	}
	if err := n.survey(ctx, s); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// decide chooses names and paths. It looks at the folder's place, nothing else.
func (n *network) decide(a *delegates.Attachment) (*state, error) {
	s := &state{OVSDB: n.OVSDB, Bridge: n.Bridge, Port: portName(a), Mode: n.Vhost.Mode}
	s.File = n.Vhost.SocketFile
	if s.File == "" {
		s.File = socketName(a.Sandbox, a.IfName)
	}
	var err error
	if s.Folder, err = shareddir.Choose(n.wish(), a, s.File, s.Port); err != nil {
		return nil, err
	}
	s.Socket = s.Path(s.File)
	if n.userspace != nil {
		s.Use.Config = shareddir.ConfigFile(a.Sandbox, a.IfName)
	}
	return s, nil
}

// wish is what the configuration says of the folder.
func (c *Config) wish() shareddir.Options {
	keys := map[string]string{"group": c.key("vhost.group"), "permissions": c.key("vhost.permissions"), "file": c.key("vhost.socketFile")}
	return shareddir.Options{Base: c.Vhost.SocketDir, Group: c.Vhost.Group, Permissions: c.Vhost.Permissions, Key: func(name string) string { return keys[name] }}
}

// Describe gives the device-info of the attachment and, for userspace-cni's
// configurations with a kubeconfig, the annotations by which that plugin
// reaches the container.
func (n *network) Describe(a *delegates.Attachment) (delegates.Description, error) {
	s, err := decodeState(a.State, a.Sandbox)
	if err != nil {
		return delegates.Description{}, err
	}
	annotations, err := n.userspace.Annotations(a, s.File)
	return delegates.Description{
		DeviceInfo: &conf.DeviceInfo{
			Type: conf.DeviceVhostUser, Version: conf.DeviceInfoVersion,
			VhostUser: &conf.VhostDevice{Mode: opposite(s.Mode), Path: s.Socket},
		},
		Annotations: annotations,
	}, err
}
