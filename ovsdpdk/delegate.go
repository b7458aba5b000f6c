package ovsdpdk

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Delegate attaches pods to OVS-DPDK.
type Delegate struct {
	log    *slog.Logger
	db     *databases
	health sync.Map          // of watched OVSDBs, by address
	grants *shareddir.Grants // of pods' sockets to the vswitch
}

var (
	_ delegates.Delegate = (*Delegate)(nil)
	_ delegates.Network  = (*network)(nil)
)

// New makes the delegate of type ovsdpdk.
func New(log *slog.Logger) *Delegate {
	return &Delegate{log: log, db: newDatabases(), grants: shareddir.NewGrants(log)}
}

// Parse reads a configuration. It looks at nothing else.
func (d *Delegate) Parse(name string, config []byte) (delegates.Network, []string, error) {
	return d.ParseAs(name, config, nil)
}

// ParseAs is Parse of a configuration that the user wrote in a dialect.
func (d *Delegate) ParseAs(name string, config []byte, dialect *delegates.Dialect) (delegates.Network, []string, error) {
	c, warnings, err := parseAs(name, config, dialect)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	return &network{Config: c, d: d}, warnings, nil
}

// Close ends the connections to OVSDB. Requests under way fail.
func (d *Delegate) Close() {
	d.grants.Close()
	d.db.pool.Close()
}

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

// Ready says whether ADD would work, as far as no pod's volume matters.
func (n *network) Ready(ctx context.Context) error {
	if err := n.survey(ctx, nil); err != nil {
		return err
	}
	user, err := n.connectingUser(ctx)
	if err != nil {
		return err
	}
	return shareddir.CheckGroup(n.folderOptions(user))
}

// folderOptions is what the configuration says of the folder.
func (n *network) folderOptions(user *shareddir.User) shareddir.Options {
	keys := map[string]string{"group": "vhost.group", "permissions": "vhost.permissions", "file": "vhost.socketFile"}
	return shareddir.Options{
		Base: n.Vhost.SocketDir, Group: n.Vhost.Group, Permissions: n.Vhost.Permissions, User: user, Unseen: n.dialect != nil,
		Key: func(name string) string { return n.dialect.Key(keys[name]) },
	}
}

// Prepare decides on names and paths and sees whether the vswitch will do.
func (n *network) Prepare(ctx context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	if err := n.within(a.Bounds); err != nil {
		return nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	s, err := n.decide(ctx, a)
	if err != nil {
		return nil, err
	}
	if err := n.survey(ctx, s); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// decide chooses names and paths. It looks at the folder's place, and at whom the vswitch runs
// as that connects to the pod's socket.
func (n *network) decide(ctx context.Context, a *delegates.Attachment) (*state, error) {
	s := &state{OVSDB: n.OVSDB, Bridge: n.Bridge, Port: portName(a), Mode: n.Vhost.Mode}
	var inVolume string
	inVolume, s.Use.Config = shareddir.Names(a, conf.DeviceVhostUser, n.dialect)
	s.File = cmp.Or(n.Vhost.SocketFile, inVolume, socketName(a.Sandbox, a.IfName))
	device, seen := a.Device.Offered(conf.DeviceVhostUser)
	s.Seen = seen
	if device == "" {
		var err error
		if device, err = n.socketOf(a); err != nil {
			return nil, err
		}
	}
	if device != "" && seen == "" {
		s.Device, s.File, s.Use.Config, device = true, filepath.Base(device), "", filepath.Dir(device)
	}
	user, err := n.connectingUser(ctx)
	if err != nil {
		return nil, err
	}
	options := n.folderOptions(user)
	options.Device = device
	folder, err := shareddir.Choose(options, a, s.File, s.Port)
	if err != nil {
		return nil, err
	}
	s.Folder = folder
	s.Socket = s.Path(s.File)
	return s, nil
}

// Describe gives the device-info of the attachment, and the dialect's annotations.
func (n *network) Describe(a *delegates.Attachment) (delegates.Description, error) {
	s, err := decodeState(a.State, a.Sandbox)
	if err != nil {
		return delegates.Description{}, err
	}
	description := delegates.Description{}
	if !s.Device { // else the device plugin's own stays
		description.DeviceInfo = s.device()
	}
	if n.dialect != nil {
		description.Annotations, err = n.dialect.Annotations(a, s.File)
	}
	return description, err
}

// socketOf is the path of the socket that a device plugin's device of type vhost-user has, "" for
// none. The node's configuration has to allow its folder.
func (n *network) socketOf(a *delegates.Attachment) (string, error) {
	if a.Device == nil || a.Device.Type != conf.DeviceVhostUser || a.Device.VhostUser == nil {
		return "", nil
	}
	d, key := a.Device.VhostUser, n.dialect.Key("vhost.mode")
	refuse := func(format string, args ...any) (string, error) {
		return "", conf.Refuse(fmt.Errorf("network %s: its device plugin's device of type vhost-user: %w", a.Name, fmt.Errorf(format, args...)))
	}
	if !filepath.IsAbs(d.Path) || filepath.Clean(d.Path) != d.Path || d.Path == "/" || filepath.Dir(d.Path) == "/" {
		return refuse("path %.200q, want an absolute path of a socket in a folder", d.Path)
	}
	if err := shareddir.CheckFileName(filepath.Base(d.Path)); err != nil {
		return refuse("path: %w", err)
	}
	if err := a.Bounds.SocketDir("vhost-user.path", filepath.Dir(d.Path)); err != nil {
		return refuse("%w", err)
	}
	if d.Mode != "" && d.Mode == n.Vhost.Mode {
		return refuse("its side is %s, and so is the vswitch's: set %q to the other", d.Mode, key)
	}
	if n.Vhost.SocketFile != "" {
		return refuse("it has the socket %s: leave out %q", d.Path, n.dialect.Key("vhost.socketFile"))
	}
	return d.Path, nil
}

// device is the pod's side of the socket.
func (s *state) device() *conf.DeviceInfo {
	device := &conf.VhostDevice{Mode: modeClient, Path: s.Place(s.File)}
	if s.Mode == modeClient {
		device.Mode = modeServer
	}
	return s.Show(&conf.DeviceInfo{Type: conf.DeviceVhostUser, Version: conf.DeviceInfoVersion, VhostUser: device})
}
