package ovsdpdk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// Delegate attaches pods to OVS-DPDK.
type Delegate struct {
	log   *slog.Logger
	parse func(network string, data []byte) (*Config, []string, error)
	db    *databases
}

// New makes the delegate of type ovsdpdk.
func New(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: conf.Remembered(parse), db: newDatabases()}
}

// NewUserspace makes the delegate of type userspace, engine ovs-dpdk.
func NewUserspace(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: conf.Remembered(parseUserspace), db: newDatabases()}
}

// Close ends the connections to OVSDB. Requests under way fail.
func (d *Delegate) Close() { d.db.close() }

// state is all that Del needs. It is decided before anything is changed, and
// stands in the journal and in the external_ids of the interface.
type state struct {
	OVSDB  string `json:"ovsdb"`
	Bridge string `json:"bridge"`
	Port   string `json:"port"` // name of port and interface
	Mode   string `json:"mode"` // of the vswitch's side
	shareddir.Use
	Socket string `json:"socket"` // path that the vswitch is given, or that the pod sees
}

// Prepare decides on names and paths and sees whether the vswitch will do.
func (d *Delegate) Prepare(ctx context.Context, a conf.Attachment) (json.RawMessage, error) {
	c, warnings, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return nil, conf.Refuse(err)
	}
	for _, w := range warnings {
		d.log.Warn(w)
	}
	if err := c.within(a.Bounds); err != nil {
		return nil, fmt.Errorf("network %s: %w", a.Network, err)
	}
	s, err := decide(c, a)
	if err != nil {
		return nil, err
	}
	if err := d.survey(ctx, c, s); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// decide chooses names and paths. It looks at the folder's place, nothing else.
func decide(c *Config, a conf.Attachment) (*state, error) {
	s := &state{OVSDB: c.OVSDB, Bridge: c.Bridge, Port: portName(a), Mode: c.Vhost.Mode}
	s.File = c.Vhost.SocketFile
	if s.File == "" {
		s.File = socketName(a.Sandbox, a.IfName)
	}
	var err error
	if s.Folder, err = shareddir.Choose(c.wish(), a, s.File, s.Port); err != nil {
		return nil, err
	}
	s.Socket = s.Path(s.File)
	if c.userspace != nil {
		s.Config = shareddir.ConfigFile(a.Sandbox, a.IfName)
	}
	return s, nil
}

func (c *Config) wish() shareddir.Wish {
	names := map[string]string{"group": "vhost.group", "permissions": "vhost.permissions", "file": "vhost.socketFile"}
	return shareddir.Wish{
		Base: c.Vhost.SocketDir, Group: c.Vhost.Group, Permissions: c.Vhost.Permissions,
		Key: func(name string) string { return c.key(names[name]) },
	}
}

// Add makes the folder ready for the socket. The port comes with Settle.
func (d *Delegate) Add(ctx context.Context, a conf.Attachment, raw json.RawMessage) (*types100.Result, error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(raw, a.Sandbox)
	if err != nil {
		return nil, err
	}
	if err := s.Provide(ctx, a, c.userspace); err != nil {
		return nil, err
	}
	return result(c, a, s), nil
}

// result is the attachment in CNI's terms. There is no kernel link: the
// interface is the socket.
func result(c *Config, a conf.Attachment, s *state) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Mac: c.mac(), Mtu: c.MTU, Sandbox: a.Netns, SocketPath: s.Socket}},
	}
	if a.IPAM != nil {
		r.IPs, r.Routes, r.DNS = a.IPAM.IPs, a.IPAM.Routes, a.IPAM.DNS
		for _, ip := range r.IPs {
			ip.Interface = types100.Int(0)
		}
	}
	return r
}

// port is one port of a pod on its way.
type port struct {
	conf.Attachment
	*state
	config *Config
	raw    json.RawMessage // the state as recorded
}

// Settle inserts the ports of a pod, all of one vswitch in one transaction, and
// waits for ovs-vswitchd to open them. In server mode the socket exists from
// then on and is linked to where the pod sees it.
func (d *Delegate) Settle(ctx context.Context, all []conf.Prepared) error {
	var addresses []string
	ports := map[string][]*port{}
	for _, p := range all {
		c, _, err := d.parse(p.Network, p.Conf)
		if err != nil {
			return err
		}
		s, err := decodeState(p.State, p.Sandbox)
		if err != nil {
			return err
		}
		if ports[s.OVSDB] == nil {
			addresses = append(addresses, s.OVSDB)
		}
		ports[s.OVSDB] = append(ports[s.OVSDB], &port{p.Attachment, s, c, p.State})
	}
	for _, address := range addresses {
		if err := d.open(ctx, address, ports[address]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Delegate) open(ctx context.Context, address string, ports []*port) error {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = p.IfName
	}
	if err := conf.Step(ctx, "%s: insert ports into OVSDB at %s", strings.Join(names, ", "), address); err != nil {
		return err
	}
	if err := d.insert(ctx, address, ports); err != nil {
		return err
	}
	if err := conf.Step(ctx, "%s: wait for ovs-vswitchd to open the ports", strings.Join(names, ", ")); err != nil {
		return err
	}
	if err := d.awaitPorts(ctx, address, ports); err != nil {
		return err
	}
	for _, p := range ports {
		if p.Mode != modeServer {
			continue
		}
		if err := conf.Step(ctx, "%s: link the socket to %s", p.IfName, p.Socket); err != nil {
			return err
		}
		if err := d.link(ctx, p); err != nil {
			return fmt.Errorf("%s (network %s): %w", p.IfName, p.Network, err)
		}
	}
	return nil
}

// Check compares the rows and the folder with what Add made.
func (d *Delegate) Check(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return err
	}
	s, err := decodeState(raw, a.Sandbox)
	if err != nil {
		return err
	}
	return errors.Join(d.compare(ctx, c, a, s, raw), s.Folder.Check(s.Mode == modeServer, s.File))
}

// Del removes the port, the bridge if plexus made it and this was its last
// port, and the files. Without state it goes by the marks on the rows.
func (d *Delegate) Del(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	m := marks{a.Owner, a.Sandbox, a.IfName}
	if raw != nil {
		s, err := decodeState(raw, a.Sandbox)
		if err != nil {
			return err
		}
		return d.remove(ctx, m, s, true)
	}
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil || c.within(a.Bounds) != nil {
		return nil // Add refuses it, so it never was
	}
	err = d.sweepAt(ctx, c.OVSDB, a.Owner, []string{c.Vhost.SocketDir}, func(sandbox, ifName string) bool { return sandbox != a.Sandbox || ifName != a.IfName })
	if err != nil {
		return err
	}
	s, err := decide(c, a) // there may be a folder, and no rows yet
	if err != nil {
		return nil // likewise
	}
	if !s.Own && c.Vhost.SocketFile != "" {
		s.File = "" // without a record nothing says that a socket of that name is the attachment's
	}
	return d.remove(ctx, m, s, false)
}

// remove undoes one attachment. recorded says that the journal has the state.
func (d *Delegate) remove(ctx context.Context, m marks, s *state, recorded bool) error {
	if err := conf.Step(ctx, "%s: delete port %s", m.ifName, s.Port); err != nil {
		return err
	}
	origin, err := d.linkedSocket(ctx, s)
	if err != nil {
		return err
	}
	if origin != nil {
		defer origin.Close()
	}
	others, err := d.delete(ctx, m, s)
	if err != nil {
		return err
	}
	if err := conf.Step(ctx, "%s: remove files from %s", m.ifName, s.Dir); err != nil {
		return err
	}
	return s.Clear(shareddir.Clearing{Log: d.log, Others: others, Recorded: recorded, Origin: origin})
}

// Validate checks a configuration without looking at the world.
func (d *Delegate) Validate(network string, config json.RawMessage) ([]string, error) {
	_, warnings, err := d.parse(network, config)
	return warnings, err
}

// Ready says whether ADD would work with a configuration.
func (d *Delegate) Ready(ctx context.Context, config json.RawMessage) error {
	c, _, err := d.parse("", config)
	if err != nil {
		return err
	}
	return d.survey(ctx, c, nil)
}

// Describe gives the device-info of the attachment and, for userspace-cni's
// configurations with a kubeconfig, the annotations by which that plugin
// reaches the container.
func (d *Delegate) Describe(a conf.Attachment, raw json.RawMessage) (conf.Description, error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return conf.Description{}, err
	}
	s, err := decodeState(raw, a.Sandbox)
	if err != nil {
		return conf.Description{}, err
	}
	said := conf.Description{DeviceInfo: &conf.DeviceInfo{
		Type: conf.DeviceVhostUser, Version: conf.DeviceInfoVersion,
		VhostUser: &conf.VhostDevice{Mode: opposite(s.Mode), Path: s.Socket},
	}}
	said.Annotations, err = c.userspace.Annotations(a, s.File)
	return said, err
}

// decodeState reads a recorded state and refuses one that could not be that of
// the sandbox: it says what is removed.
func decodeState(raw json.RawMessage, sandbox string) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("recorded state: %w", err)
	}
	if s.Port == "" || s.OVSDB == "" || !s.Valid(sandbox, s.Port) {
		return nil, fmt.Errorf("recorded state is not one of this sandbox: %.200s", raw)
	}
	return s, nil
}

// socketName is the name that a socket gets where the configuration gives none.
func socketName(sandbox, ifName string) string { return shareddir.Short(sandbox) + "-" + ifName }

// portName derives the name of port and interface: at most 15 bytes, the same
// for the same attachment.
func portName(a conf.Attachment) string {
	sum := sha256.Sum256([]byte(a.Owner + "\x00" + a.Sandbox + "\x00" + a.IfName))
	return "vhu" + hex.EncodeToString(sum[:6])
}
