package vppmemif

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// newSocketID lets VPP choose the number of a socket (memif.api).
const newSocketID = ^uint32(0)

// attachment is an attachment with its configuration, its state, and the view of VPP.
type attachment struct {
	*delegates.Attachment
	config    *Config
	state     *state
	addresses []netip.Prefix // of the vswitch's side
	view      *view
	prefix    string                         // of errors
	socket    uint32                         // VPP's number, as the next two
	index     interface_types.InterfaceIndex // of the interface
	domain    uint32                         // that the interface joins
	made      []string                       // for people: objects that VPP had lost
}

// step announces a change.
func (p *attachment) step(ctx context.Context, what string) error {
	if err := delegates.Step(ctx, "%s: %s", p.IfName, what); err != nil {
		return fmt.Errorf("%s%w", p.prefix, err)
	}
	return nil
}

// Attach is delegates.Delegate.
func (d *Delegate) Attach(ctx context.Context, all []*delegates.Attachment) error {
	byVPP := map[string][]*attachment{}
	users := map[string]string{} // of sockets
	for _, a := range all {
		c, prefix := configOf(a), fmt.Sprintf("%s (network %s): ", a.IfName, a.Name)
		if c == nil {
			return fmt.Errorf("%sits configuration is not accepted any more", prefix)
		}
		st, err := decodeState(a)
		if err != nil {
			return err
		}
		if other, ok := users[st.Socket]; ok {
			return fmt.Errorf("%ssocket %s is used by the pod's %s: choose another %q, or none", prefix, st.Socket, other, "socket.file")
		}
		users[st.Socket] = a.IfName
		byVPP[st.API] = append(byVPP[st.API], &attachment{
			Attachment: a, config: c, state: st, addresses: c.vswitchAddresses(addressesOf(a.IPAM, st)), view: &view{}, prefix: prefix,
		})
	}
	for _, api := range slices.Sorted(maps.Keys(byVPP)) {
		if err := d.attachTo(ctx, api, byVPP[api]); err != nil {
			return err
		}
	}
	return nil
}

// attachTo makes the attachments of one VPP.
func (d *Delegate) attachTo(ctx context.Context, api string, all []*attachment) error {
	s, err := d.open(ctx, api)
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := p.provide(ctx, p.IPAM); err != nil {
			return fmt.Errorf("%s%w", p.prefix, err)
		}
	}
	if slices.ContainsFunc(all, func(p *attachment) bool { return !p.state.Alone }) { // others may have had the socket before
		snap, err := s.snapshot(ctx)
		if err != nil {
			return err
		}
		for _, p := range all {
			p.view.numbers = snap.numbers[p.state.Socket]
		}
	}
	if err := s.attach(ctx, all); err != nil {
		return err
	}
	for _, p := range all {
		p.Result = result(p.config, p.Attachment, p.state)
	}
	return nil
}

// provide makes the folder ready for the socket. ipam is for the container's
// configuration.
func (p *attachment) provide(ctx context.Context, ipam *types100.Result) error {
	if p.state.Abstract != "" {
		return nil
	}
	var config []byte
	var err error
	switch dialect := p.config.dialect; {
	case dialect != nil:
		config, err = dialect.Document(p.Attachment, p.state.File, ipam)
	case p.state.Config != "":
		config, err = shareddir.NewInfo(p.Attachment, deviceInfo(p.config, p.state), "", p.config.MTU)
	}
	if err != nil {
		return err
	}
	return p.state.Provide(ctx, p.IfName, config)
}

// attach makes what the views of attachments lack at one VPP: sockets, interfaces on them,
// and places of these in the network. All attachments wait for VPP as often as one: for the
// numbers of sockets, for the indices of interfaces, and for the rest.
func (s *session) attach(ctx context.Context, all []*attachment) error {
	var tags, names []string // of bridge domains, of their uplinks
	for _, p := range all {
		if p.joins() || p.needsUplink() {
			tags = append(tags, p.state.DomainTag)
		}
		if p.needsUplink() {
			names = append(names, p.config.BridgeDomain.Uplink)
		}
	}
	var errs []error
	defer s.lockDomains(ctx, tags, func(_ string, err error) { errs = append(errs, err) })()
	if len(errs) > 0 {
		return errs[0]
	}
	if err := s.addSockets(ctx, all); err != nil {
		return err
	}
	var domains []*l2.BridgeDomainDetails
	if len(tags) > 0 {
		s.listDomains(&domains)
	}
	var uplinks []*interfaces.SwInterfaceDetails
	s.listUplinks(names, &uplinks)
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.create(ctx, all); err != nil {
		return err
	}
	if err := s.makeDomains(ctx, all, &domains); err != nil {
		return err
	}
	if err := s.makeUplinks(ctx, all, uplinks, domains); err != nil {
		return err
	}
	return s.place(ctx, all)
}

// addSockets queues a number for each socket without an interface. The next flush fills
// the numbers in. A number that is left from before is deleted: after a listen failure
// VPP answers success on it and listens on nothing.
func (s *session) addSockets(ctx context.Context, all []*attachment) error {
	for _, p := range all {
		socket := p.state.Socket
		if p.view.port != nil || p.state.Vhost {
			continue
		}
		if err := p.step(ctx, "add socket "+socket); err != nil {
			return err
		}
		for _, number := range p.view.numbers {
			s.send(request{doing: p.prefix + "socket " + socket + " is in use", message: &memif.MemifSocketFilenameAddDelV2{SocketID: number}})
		}
		s.send(request{
			doing:   p.prefix + "add socket " + socket,
			message: &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: newSocketID, SocketFilename: socket},
			done:    func(reply api.Message) { p.socket = reply.(*memif.MemifSocketFilenameAddDelV2Reply).SocketID },
		})
	}
	return nil
}

// create queues an interface for each attachment without one. The next flush fills the
// indices in.
func (s *session) create(ctx context.Context, all []*attachment) error {
	for _, p := range all {
		if p.view.port != nil {
			continue
		}
		if err := p.step(ctx, "create "+p.state.name()); err != nil {
			return err
		}
		r := p.createMemif()
		if p.state.Vhost {
			r = p.createVhost()
		}
		r.done = func(reply api.Message) {
			switch reply := reply.(type) {
			case *memif.MemifCreateV2Reply:
				p.index = reply.SwIfIndex
			case *vhost_user.CreateVhostUserIfV2Reply:
				p.index = reply.SwIfIndex
			}
			p.made = append(p.made, p.state.name())
		}
		s.send(r)
	}
	return nil
}

func (p *attachment) createMemif() request {
	c := p.config
	m := &memif.MemifCreateV2{
		Role: memif.MEMIF_ROLE_API_MASTER, Mode: memif.MEMIF_MODE_API_ETHERNET, ID: c.ID, SocketID: p.socket, Secret: c.Secret,
		RxQueues: c.Queues.RX, TxQueues: c.Queues.TX, RingSize: c.RingSize, BufferSize: c.BufSize, HwAddr: c.hwAddr(p.state),
	}
	if c.Role == "client" {
		// Without a copy VPP gives the other end its packet buffers, those of all interfaces (memif.c).
		m.Role, m.NoZeroCopy = memif.MEMIF_ROLE_API_SLAVE, true
	}
	if c.Mode == "ip" {
		m.Mode, m.HwAddr = memif.MEMIF_MODE_API_IP, ethernet_types.MacAddress{}
	}
	doing := p.prefix + "create memif on " + p.state.Socket
	return request{doing: doing, message: m, refused: func(err error) error {
		if isCode(err, codeListen) {
			return fmt.Errorf("%sVPP cannot use the socket %s: is its folder there, and may VPP write to it?: %w", p.prefix, p.state.Socket, err)
		}
		return fmt.Errorf("%s: %w", doing, err)
	}}
}

// createVhost makes an interface with its tag (vhost_user.api).
func (p *attachment) createVhost() request {
	st, mac := p.state, p.config.hwAddr(p.state)
	return request{
		doing: p.prefix + "create vhost-user interface on " + st.Socket + " (is its folder there, and may VPP write to it?)",
		message: &vhost_user.CreateVhostUserIfV2{
			IsServer: st.Role == "server", SockFilename: st.Socket, Tag: st.Tag, UseCustomMac: mac != ethernet_types.MacAddress{}, MacAddress: mac,
		},
	}
}

// hwAddr is the address of the vswitch's side, zero where VPP may choose one at random.
// In L3 it may not: the pod remembers to which address it sends, and has to find it again
// after a restart of VPP. The one made from the attachment's name is local and unicast,
// as VPP's own choice is.
func (c *Config) hwAddr(st *state) ethernet_types.MacAddress {
	if c.MAC != "" || c.BridgeDomain != nil {
		return c.mac
	}
	sum := sha256.Sum256([]byte(st.Tag))
	return ethernet_types.MacAddress{0x02, 0xfe, sum[0], sum[1], sum[2], sum[3]}
}
