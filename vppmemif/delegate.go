package vppmemif

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// Delegate attaches pods to VPP.
type Delegate struct {
	log   *slog.Logger
	parse func(network string, data []byte) (*Config, []string, error)
	vpp   *vpps
}

// New makes the delegate of type vppmemif.
func New(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: conf.Remembered(parse), vpp: newVPPs()}
}

// NewUserspace makes the delegate of type userspace, engine vpp.
func NewUserspace(log *slog.Logger) *Delegate {
	return &Delegate{log: log, parse: conf.Remembered(parseUserspace), vpp: newVPPs()}
}

// Close ends the connections.
func (d *Delegate) Close() { d.vpp.close() }

// state is all that Del needs: names, none of VPP's numbers.
type state struct {
	API           string  `json:"api"`
	Tag           string  `json:"tag"`
	Role          string  `json:"role"` // of the vswitch's side
	ID            uint32  `json:"id"`   // on the socket
	Socket        string  `json:"socket"`
	Abstract      string  `json:"abstract,omitempty"` // name of an abstract socket; there is no folder then
	Vhost         bool    `json:"vhost,omitempty"`    // a vhost-user interface instead of a memif
	Alone         bool    `json:"alone,omitempty"`    // the socket's name is the attachment's own, nobody else's
	shareddir.Use         // of a socket in a folder
	DomainTag     string  `json:"domainTag,omitempty"`
	Domain        uint32  `json:"domain,omitempty"` // id asked for, or the first to try
	VRF           uint32  `json:"vrf,omitempty"`
	Routes        []Route `json:"routes,omitempty"` // VPP keeps them when their interface goes
}

// name is the interface in words.
func (s *state) name() string {
	if s.Vhost {
		return "vhost-user on socket " + s.Socket
	}
	return fmt.Sprintf("memif %d on socket %s", s.ID, s.Socket)
}

func (s *state) kind() string {
	if s.Vhost {
		return "vhost"
	}
	return "memif"
}

// Prepare decides on names and sees whether VPP will do.
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
	v, err := d.vpp.open(ctx, s.API)
	if err != nil {
		return nil, err
	}
	if s.Vhost {
		if err := compatible(ctx, v.conn, vhostMessages()...); err != nil {
			return nil, err
		}
	}
	if err := v.socketFree(ctx, s); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// decide chooses names. It looks at the folder's place, nothing else.
func decide(c *Config, a conf.Attachment) (*state, error) {
	s := &state{API: c.APISocket, Tag: tag(a.Owner, a.Sandbox, a.IfName), Role: c.Role, ID: c.ID, Vhost: c.vhost, VRF: c.VRF, Routes: c.Routes}
	if b := c.BridgeDomain; b != nil {
		s.Domain, s.DomainTag = b.ID, domainTag(a.Owner, b)
		if b.ID == 0 {
			s.Domain = domainID(b.Name)
		}
	}
	s.Alone = c.Socket.File == ""
	if c.Socket.Abstract {
		s.Abstract = unique(a)
		if c.Socket.File != "" {
			s.Abstract = c.Socket.File
		}
		s.Socket = "abstract:" + s.Abstract + ",netns_name=" + a.Netns
		if len(s.Socket) > maxSocket {
			return nil, fmt.Errorf("socket %s has %d bytes, at most %d are allowed: shorten %q", s.Socket, len(s.Socket), maxSocket, "socket.file")
		}
		return s, nil
	}
	s.File = c.Socket.File
	if s.File == "" {
		s.File = socketName(s.kind(), a.Sandbox, a.IfName)
	}
	if c.userspace != nil {
		s.Config = shareddir.ConfigFile(a.Sandbox, a.IfName)
	}
	w := shareddir.Wish{Base: c.Socket.Dir, Group: c.Socket.Group, Permissions: c.Socket.Permissions, MaxPath: maxSocket, Key: func(name string) string { return c.key("socket." + name) }}
	var err error
	if s.Folder, err = shareddir.Choose(w, a, s.File, unique(a)); err != nil {
		return nil, err
	}
	s.Socket = s.Path(s.File)
	return s, nil
}

// Add says what there will be. Settle makes it.
func (d *Delegate) Add(_ context.Context, a conf.Attachment, raw json.RawMessage) (*types100.Result, error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return nil, err
	}
	s, err := decodeState(raw, a)
	if err != nil {
		return nil, err
	}
	return result(c, a, s), nil
}

// Settle makes folders and interfaces of a pod and connects them, all of one VPP together.
func (d *Delegate) Settle(ctx context.Context, all []conf.Prepared) error {
	var apis []string
	users := map[string]*wiring{} // of sockets
	ofAPI := map[string][]*wiring{}
	for _, p := range all {
		c, _, err := d.parse(p.Network, p.Conf)
		if err != nil {
			return err
		}
		s, err := decodeState(p.State, p.Attachment)
		if err != nil {
			return err
		}
		w := &wiring{c: c, a: p.Attachment, st: s, have: &found{}, who: fmt.Sprintf("%s (network %s): ", p.IfName, p.Network)}
		if other := users[s.Socket]; other != nil {
			return fmt.Errorf("%ssocket %s is used by the pod's %s: choose another %q, or none", w.who, s.Socket, other.a.IfName, "socket.file")
		}
		users[s.Socket] = w
		if ofAPI[s.API] == nil {
			apis = append(apis, s.API)
		}
		ofAPI[s.API] = append(ofAPI[s.API], w)
	}
	for _, api := range apis {
		v, err := d.vpp.open(ctx, api)
		if err != nil {
			return err
		}
		for _, w := range ofAPI[api] {
			w.session = v
		}
		if err := v.wire(ctx, ofAPI[api]); err != nil {
			return err
		}
	}
	return nil
}

// result is the attachment in CNI's terms: the interface is the socket.
func result(c *Config, a conf.Attachment, s *state) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Mtu: c.MTU, Sandbox: a.Netns, SocketPath: s.path()}},
	}
	if a.IPAM != nil {
		r.IPs, r.Routes, r.DNS = a.IPAM.IPs, a.IPAM.Routes, a.IPAM.DNS
		for _, ip := range r.IPs {
			ip.Interface = types100.Int(0)
		}
	}
	return r
}

// path is the socket as results and device-info have it.
func (s *state) path() string {
	if s.Abstract != "" {
		return "@" + s.Abstract // unix(7): how abstract names are written
	}
	return s.Place(s.File)
}

// Check compares VPP and the folder with what Add made.
func (d *Delegate) Check(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return err
	}
	s, err := decodeState(raw, a)
	if err != nil {
		return err
	}
	v, err := d.vpp.open(ctx, s.API)
	if err != nil {
		return err
	}
	have, err := v.look(ctx, c, a, s)
	if err == nil {
		err = errors.Join(have.differences(c, a, s)...)
	}
	if s.Abstract == "" {
		err = errors.Join(err, s.Folder.Check(s.Role == "server", s.File))
	}
	return err
}

// Del removes interface, socket, a domain of ours that is empty then, and the
// files. A VPP that does not run has nothing to remove.
func (d *Delegate) Del(ctx context.Context, a conf.Attachment, raw json.RawMessage) error {
	if raw != nil {
		s, err := decodeState(raw, a)
		if err != nil {
			return err
		}
		return d.remove(ctx, a.IfName, s, true)
	}
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil || c.within(a.Bounds) != nil {
		return nil // Add refuses it, so it never was
	}
	v, err := d.vpp.open(ctx, c.APISocket)
	if err == nil {
		err = d.sweepAt(ctx, v, a.Owner, []string{c.Socket.Dir}, func(sandbox, ifName string) bool {
			return ifName != a.IfName || !strings.HasPrefix(a.Sandbox, sandbox) || len(sandbox) < min(tagSandbox, len(a.Sandbox))
		})
	}
	if err != nil && !notRunning(err) {
		return err
	}
	s, err := decide(c, a) // there may be a folder, and no interface yet
	if err != nil {
		return nil // likewise
	}
	if !s.Own && !s.Alone {
		s.File = "" // without a record nothing says that a socket of that name is the attachment's
	}
	return d.remove(ctx, a.IfName, s, false)
}

// remove undoes one attachment. recorded says that the journal has the state.
func (d *Delegate) remove(ctx context.Context, ifName string, s *state, recorded bool) error {
	// The socket is surely the attachment's when folder or name are made from its own.
	own := recorded || s.Own || s.Alone
	if err := conf.Step(ctx, "%s: delete %s %s", ifName, s.kind(), s.Tag); err != nil {
		return err
	}
	var others []shareddir.Use
	v, err := d.vpp.open(ctx, s.API)
	if err == nil {
		others, err = v.detach(ctx, s, own)
	}
	if err != nil && !notRunning(err) {
		return err
	}
	if s.Abstract != "" {
		return nil
	}
	if err := conf.Step(ctx, "%s: remove files from %s", ifName, s.Dir); err != nil {
		return err
	}
	return s.Clear(shareddir.Clearing{Log: d.log, Others: others, Recorded: recorded})
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
	v, err := d.vpp.open(ctx, c.APISocket)
	if err != nil {
		return err
	}
	return v.ping(ctx)
}

// Describe gives the device-info of the attachment, from the pod's side.
func (d *Delegate) Describe(a conf.Attachment, raw json.RawMessage) (conf.Description, error) {
	c, _, err := d.parse(a.Network, a.Conf)
	if err != nil {
		return conf.Description{}, err
	}
	s, err := decodeState(raw, a)
	if err != nil {
		return conf.Description{}, err
	}
	said := conf.Description{DeviceInfo: deviceInfo(c, s)}
	said.Annotations, err = c.userspace.Annotations(a, s.File)
	return said, err
}

// deviceInfo is the socket as the pod sees it: its side is the other one.
func deviceInfo(c *Config, s *state) *conf.DeviceInfo {
	info := &conf.DeviceInfo{Type: conf.DeviceMemif, Version: conf.DeviceInfoVersion}
	if s.Vhost {
		info.Type, info.VhostUser = conf.DeviceVhostUser, &conf.VhostDevice{Mode: "client", Path: s.path()}
		if s.Role == "client" {
			info.VhostUser.Mode = "server"
		}
		return info
	}
	info.Memif = &conf.MemifDevice{Role: "slave", Path: s.path(), Mode: c.Mode} // the specification has the former names
	if s.Role == "client" {
		info.Memif.Role = "master"
	}
	return info
}

// decodeState reads a recorded state and refuses one that could not be that of
// the attachment: it says what is removed.
func decodeState(raw json.RawMessage, a conf.Attachment) (*state, error) {
	s := &state{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("recorded state: %w", err)
	}
	place := s.Abstract != "" && strings.HasPrefix(s.Socket, "abstract:"+s.Abstract+",")
	if s.Abstract == "" {
		place = s.Valid(a.Sandbox, unique(a), formerUnique(a)) && s.Socket == s.Path(s.File)
	}
	domain := s.DomainTag == "" || strings.HasPrefix(s.DomainTag, ownerTag(a.Owner)+domainMark)
	if !filepath.IsAbs(s.API) || s.Tag != tag(a.Owner, a.Sandbox, a.IfName) || !place || !domain {
		return nil, fmt.Errorf("recorded state is not one of this attachment: %.200s", raw)
	}
	return s, nil
}

// unique names an attachment in few letters. It can be derived from the attachment's tag.
func unique(a conf.Attachment) string { return uniqueOf(a.Owner, a.Sandbox, a.IfName) }

func uniqueOf(owner, sandbox, ifName string) string {
	return "memif-" + digest(owner, sandbox[:min(tagSandbox, len(sandbox))], ifName)
}

// formerUnique is what records of a former plexus have.
func formerUnique(a conf.Attachment) string { return "memif-" + digest(a.Owner, a.Sandbox, a.IfName) }

// socketName is the name that a socket gets where the configuration gives none.
func socketName(kind, sandbox, ifName string) string {
	return fmt.Sprintf("%s-%s-%s.sock", kind, shareddir.Short(sandbox), ifName)
}

// The marks of ownership are tags of at most 63 bytes: the plexus that acts, by
// a digest, and the beginning of the container ID, which is a random number.
const (
	tagPrefix  = "plexus/"
	tagSandbox = shareddir.MarkedID // bytes of the container ID in a tag
	domainMark = "bd/"
)

func ownerTag(owner string) string { return tagPrefix + digest(owner)[:6] + "/" }

func tag(owner, sandbox, ifName string) string {
	return ownerTag(owner) + sandbox[:min(tagSandbox, len(sandbox))] + "/" + ifName
}

// parseTag reads a tag of owner's.
func parseTag(owner, tag string) (sandbox, ifName string, ok bool) {
	rest, ours := strings.CutPrefix(tag, ownerTag(owner))
	sandbox, ifName, ok = strings.Cut(rest, "/")
	return sandbox, ifName, ours && ok && sandbox != "" && ifName != ""
}

func domainTag(owner string, b *BridgeDomain) string {
	if b.Name == "" {
		return fmt.Sprintf("%s%sid/%d", ownerTag(owner), domainMark, b.ID)
	}
	return ownerTag(owner) + domainMark + "name/" + b.Name
}

// domainID is the id that a name gets, far from those that people choose.
func domainID(name string) uint32 {
	sum := sha256.Sum256([]byte(name))
	return 1<<23 + (uint32(sum[0])<<16|uint32(sum[1])<<8|uint32(sum[2]))&(1<<23-1)
}

func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:6])
}
