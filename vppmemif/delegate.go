package vppmemif

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/binapi/vpe"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/endpoint"
)

var (
	_ delegates.Delegate = (*Delegate)(nil)
	_ delegates.Network  = (*network)(nil)
)

// Delegate attaches pods to VPP.
type Delegate struct {
	log  *slog.Logger
	pool *endpoint.Pool[*connection] // by API socket
}

// New makes the delegate of type vppmemif.
func New(log *slog.Logger) *Delegate {
	return &Delegate{log: log, pool: &endpoint.Pool[*connection]{Dial: connect, Unavailable: unavailable}}
}

// Close is delegates.Delegate. It says goodbye to every VPP. Without a goodbye VPP keeps what
// it has of a client until it finds out, and many such clients at once can keep it busy for
// good (25.06 to 26.06).
func (d *Delegate) Close() {
	d.pool.Close()
}

// Parse is delegates.Delegate. A configuration that cannot be accepted is a conf.Refusal.
func (d *Delegate) Parse(name string, config []byte) (delegates.Network, []string, error) {
	return d.ParseAs(name, config, nil)
}

// ParseAs is Parse of a configuration that the user wrote in a dialect.
func (d *Delegate) ParseAs(name string, config []byte, dialect *delegates.Dialect) (delegates.Network, []string, error) {
	c, warnings, err := parseAs(name, config, dialect)
	if err != nil {
		return nil, nil, conf.Refuse(err)
	}
	return &network{config: c, delegate: d}, warnings, nil
}

// network is a configuration, and the delegate that has parsed it.
type network struct {
	delegates.BaseNetwork
	config   *Config
	delegate *Delegate
}

// configOf is the configuration of an attachment, nil without one.
func configOf(a *delegates.Attachment) *Config {
	if n, ok := a.Network.(*network); ok {
		return n.config
	}
	return nil
}

// Endpoint is delegates.Network: the API socket.
func (n *network) Endpoint() string { return n.config.APISocket }

// Hints is delegates.Network.
func (n *network) Hints() []string { return n.config.hints }

// Ready is delegates.Network.
func (n *network) Ready(ctx context.Context) error {
	s, err := n.delegate.open(ctx, n.config.APISocket)
	if err != nil {
		return err
	}
	s.send(request{doing: "ask for the version", message: &vpe.ShowVersion{}})
	return s.flush(ctx)
}

// Prepare is delegates.Network. It chooses names, and refuses a VPP or a socket that Attach
// could not use.
func (n *network) Prepare(ctx context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	if err := n.config.within(a.Bounds); err != nil {
		return nil, fmt.Errorf("network %s: %w", a.Name, err)
	}
	st, err := decide(n.config, a)
	if err != nil {
		return nil, err
	}
	s, err := n.delegate.open(ctx, st.API)
	if err != nil {
		return nil, err
	}
	if st.Vhost {
		if err := s.conn.compatible(ctx, vhostMessages()...); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(s.isFree(ctx, st), s.uplinkIsFree(ctx, n.config, st), s.findOrigin(ctx, n.config, st)); err != nil {
		return nil, err
	}
	return json.Marshal(st)
}

// isFree refuses a socket with an interface in this VPP, and a place where VPP could not
// listen.
func (s *session) isFree(ctx context.Context, st *state) error {
	if !st.Alone {
		snap, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		for _, p := range snap.ports {
			if p.socket == st.Socket {
				return isUsed(st, &p)
			}
		}
	}
	return st.isVacant()
}

func isUsed(st *state, p *port) error {
	return fmt.Errorf("socket %s is used by interface %s: choose another %q, or none", st.Socket, p.InterfaceName, "socket.file")
}

// isVacant refuses a place in a folder where VPP could not listen, or where another process
// does.
func (s *state) isVacant() error {
	if s.Abstract != "" {
		return nil
	}
	return s.Vacant(s.File, "socket.file", s.Role == "server")
}

// result is the attachment in CNI's terms: the interface is the socket. Addresses, routes
// and DNS are copies of the IPAM result.
func result(c *Config, a *delegates.Attachment, st *state) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Mtu: c.MTU, Sandbox: a.Netns, SocketPath: st.path()}},
	}
	if a.IPAM == nil {
		return r
	}
	for _, address := range a.IPAM.IPs {
		own := address.Copy()
		own.Interface = types100.Int(0)
		r.IPs = append(r.IPs, own)
	}
	for _, route := range a.IPAM.Routes {
		r.Routes = append(r.Routes, route.Copy())
	}
	r.DNS = *a.IPAM.DNS.Copy()
	return r
}

// addressesOf are the addresses that a result has of an attachment. Those of its other
// interfaces are of other plugins of the list. The result of a list of CNI 0.2.0 has no
// interfaces.
func addressesOf(r *types100.Result, st *state) []*types100.IPConfig {
	if r == nil {
		return nil
	}
	at := slices.IndexFunc(r.Interfaces, func(i *types100.Interface) bool { return i.SocketPath == st.path() })
	if at < 0 {
		return r.IPs
	}
	return slices.DeleteFunc(slices.Clone(r.IPs), func(ip *types100.IPConfig) bool { return ip.Interface != nil && *ip.Interface != at })
}

// observe opens a session and looks at a recorded attachment, until done.
func (n *network) observe(ctx context.Context, a *delegates.Attachment) (s *session, p *attachment, done func(), err error) {
	nothing := func() {}
	st, err := decodeState(a)
	if err != nil {
		return nil, nil, nothing, err
	}
	if s, err = n.delegate.open(ctx, st.API); err != nil {
		return nil, nil, nothing, err
	}
	p = &attachment{Attachment: a, config: n.config, state: st, addresses: n.config.vswitchAddresses(addressesOf(a.Result, st))}
	snap, done, err := s.observe(ctx, a)
	if err == nil {
		p.view, err = s.look(ctx, p, snap)
	}
	if err == nil && p.view.port != nil {
		p.index = p.view.port.SwIfIndex
	}
	if err == nil && p.view.joined {
		p.domain = p.view.domain.BdID
	}
	return s, p, done, err
}

// Check is delegates.Network. It compares VPP and the folder with the record.
func (n *network) Check(ctx context.Context, a *delegates.Attachment) error {
	_, p, done, err := n.observe(ctx, a)
	defer done()
	if p == nil {
		return err
	}
	if err == nil {
		err = errors.Join(p.lost()...)
	}
	if p.state.Abstract == "" {
		err = errors.Join(err, p.state.Folder.Check(p.state.Role == "server", p.state.File))
	}
	return err
}

// lost are errors, one for each property in which VPP differs from an attachment that Attach
// has made.
func (p *attachment) lost() (errs []error) {
	st, port := p.state, p.view.port
	switch {
	case port == nil && len(p.view.numbers) == 0 && !st.Vhost:
		return []error{fmt.Errorf("socket %s is gone from VPP (has it been restarted?)", st.Socket)}
	case port == nil:
		return []error{fmt.Errorf("the %s on socket %s (id %d) is gone from VPP", st.kind(), st.Socket, st.ID)}
	}
	var all []string
	if role := roleOf(port.server); role != p.config.Role {
		all = append(all, was("role", role, p.config.Role))
	}
	if m := port.memif; m != nil && modeOf(m.Mode) != p.config.Mode {
		all = append(all, was("mode", modeOf(m.Mode), p.config.Mode))
	}
	for _, d := range p.differences() {
		if d.lost != "" {
			all = append(all, d.lost)
		}
	}
	for _, address := range p.view.addresses {
		if p.config.BridgeDomain == nil && !slices.Contains(p.addresses, address) {
			all = append(all, fmt.Sprintf("it has the address %s, which the attachment has not", address))
		}
	}
	if p.view.joined {
		all = append(all, p.config.BridgeDomain.differs(p.view.domain)...)
	}
	if p.view.joined && p.needsUplink() {
		all = append(all, fmt.Sprintf("the uplink %s of its bridge domain is gone, or was changed", st.Uplink))
	}
	for _, lost := range all {
		errs = append(errs, fmt.Errorf("%s %s: %s", st.kind(), port.InterfaceName, lost))
	}
	return errs
}

// Describe is delegates.Network. Device-info is from the pod's side.
func (n *network) Describe(a *delegates.Attachment) (delegates.Description, error) {
	st, err := decodeState(a)
	if err != nil {
		return delegates.Description{}, err
	}
	description := delegates.Description{DeviceInfo: deviceInfo(n.config, st)}
	if dialect := n.config.dialect; dialect != nil {
		description.Annotations, err = dialect.Annotations(a, st.File)
	}
	return description, err
}

// deviceInfo is the socket as the pod sees it: its side is the other one. The specification
// has the former names of memif's roles.
func deviceInfo(c *Config, st *state) *conf.DeviceInfo {
	info, client := &conf.DeviceInfo{Version: conf.DeviceInfoVersion}, st.Role == "client"
	if st.Vhost {
		info.Type, info.VhostUser = conf.DeviceVhostUser, &conf.VhostDevice{Mode: either(client, "server", "client"), Path: st.path()}
	} else {
		info.Type, info.Memif = conf.DeviceMemif, &conf.MemifDevice{Role: either(client, "master", "slave"), Path: st.path(), Mode: c.Mode}
	}
	return st.Show(info)
}
