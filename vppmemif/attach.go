package vppmemif

import (
	"context"
	"crypto/sha256"
	"fmt"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/conf"
)

// newSocketID lets VPP choose the number of a socket (memif.api).
const newSocketID = ^uint32(0)

// socketFree refuses a socket that somebody else uses in this VPP, or a place
// where VPP could not listen.
func (s *session) socketFree(ctx context.Context, st *state) error {
	if !st.Alone {
		sockets, err := s.sockets(ctx)
		if err != nil {
			return err
		}
		all, err := s.ports(ctx, sockets)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.socket == st.Socket {
				return usedBy(st, &p)
			}
		}
	}
	return placeFree(st)
}

func usedBy(st *state, p *port) error {
	return fmt.Errorf("socket %s is used by interface %s: choose another %q, or none", st.Socket, p.name, "socket.file")
}

// placeFree refuses a place in a folder where VPP could not listen, or would
// take it from somebody.
func placeFree(st *state) error {
	if st.Abstract != "" {
		return nil
	}
	return st.Vacant(st.File, "socket.file", st.Role == "server")
}

// wiring is one attachment that is made, or made whole.
type wiring struct {
	*session
	c     *Config
	a     conf.Attachment
	st    *state
	who   string // before an error
	have  *found // what there is; Add has found nothing
	again bool   // it was there: numbers of its socket may be left, its folder is
	index interface_types.InterfaceIndex
	made  []string // for people, what was missing
	asked *begun   // for the number of its socket, of its interface then
	sent  []*begun // unanswered
	held  *held
}

func (w *wiring) step(ctx context.Context, format string, args ...any) error {
	return conf.Step(ctx, w.a.IfName+": "+format, args...)
}

// mended notes what was missing of an interface that was there; a new one has
// all that it needs.
func (w *wiring) mended(format string, args ...any) {
	if w.have.port != nil {
		w.made = append(w.made, fmt.Sprintf(format, args...))
	}
}

// ask makes the request that is waited for next. The one before is over.
func (w *wiring) ask(ctx context.Context, doing string, request api.Message) (err error) {
	w.forgetAsked()
	if w.asked, err = w.begin(ctx, request); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	w.asked.doing = doing
	return nil
}

func (w *wiring) forgetAsked() {
	if w.asked != nil {
		w.asked.end()
		w.asked = nil
	}
}

// send makes a request whose answer answers will read.
func (w *wiring) send(ctx context.Context, doing, made string, request api.Message) error {
	b, err := w.begin(ctx, request)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	b.doing, b.made = doing, made
	w.sent = append(w.sent, b)
	return nil
}

// answers waits for the answers to what was sent, and tells the first refusal.
func (w *wiring) answers(ctx context.Context) (first error) {
	w.forgetAsked()
	for _, b := range w.sent {
		if _, err := answer[api.Message](ctx, w.session, b); err == nil {
			w.mended("%s", b.made)
		} else if first == nil {
			first = fmt.Errorf("%s: %w", b.doing, err)
		}
		b.end()
	}
	w.sent = nil
	return first
}

// attach makes one attachment.
func (w *wiring) attach(ctx context.Context) error { return w.wire(ctx, []*wiring{w}) }

// wire makes sockets, interfaces on them and their places in the network, up at last,
// as far as they are not there. VPP does what it is sent one after the other, without being
// waited for: all attachments wait as often as one, for the numbers of the
// sockets, for those of the interfaces, and for all that is left.
func (s *session) wire(ctx context.Context, all []*wiring) (err error) {
	h := &held{session: s}
	for _, w := range all {
		w.held = h
	}
	defer func() {
		for _, w := range all {
			late := w.answers(ctx)
			if err == nil && late != nil {
				err = fmt.Errorf("%s%w", w.who, late)
			}
		}
		h.release()
	}()
	each := func(do func(*wiring, context.Context) error) error {
		for _, w := range all {
			if err := do(w, ctx); err != nil {
				return fmt.Errorf("%s%w", w.who, err)
			}
		}
		return nil
	}
	if err := each((*wiring).addSocket); err != nil {
		return err
	}
	if err := h.take(ctx, all); err != nil {
		return err
	}
	if err := each((*wiring).provide); err != nil {
		return err
	}
	if err := each((*wiring).create); err != nil {
		return err
	}
	return each((*wiring).place)
}

// provide makes the folder ready for the socket, before VPP uses it.
func (w *wiring) provide(ctx context.Context) error {
	if w.again || w.st.Abstract != "" {
		return nil
	}
	return w.st.Provide(ctx, w.a, w.c.userspace)
}

// place gives the interface its place in the network.
func (w *wiring) place(ctx context.Context) error {
	if err := w.created(ctx); err != nil {
		return err
	}
	if err := w.shape(ctx); err != nil {
		return err
	}
	enter := w.route
	if w.c.BridgeDomain != nil {
		enter = w.join
	}
	if err := enter(ctx); err != nil {
		return err
	}
	if w.have.up() {
		return nil
	}
	if err := w.step(ctx, "set up"); err != nil {
		return err
	}
	return w.send(ctx, "set up", "admin state up", &interfaces.SwInterfaceSetFlags{SwIfIndex: w.index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP})
}

// mark gives the interface the attachment's tag.
func (w *wiring) mark(ctx context.Context) error {
	if err := w.step(ctx, "tag %s", w.st.Tag); err != nil {
		return err
	}
	return w.send(ctx, "tag memif", "tag "+w.st.Tag, &interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: w.index, Tag: w.st.Tag})
}

// addSocket gives the socket of a memif a number of its own. A number that is left from
// before is not used again: after a listen failure VPP answers success on it and
// listens on nothing. Beside one of a name that is the attachment's alone it may
// stay until detach removes both.
func (w *wiring) addSocket(ctx context.Context) error {
	st := w.st
	if w.have.port != nil || st.Vhost {
		return nil
	}
	if err := w.step(ctx, "add socket %s", st.Socket); err != nil {
		return err
	}
	if !st.Alone || w.again {
		sockets, err := w.sockets(ctx)
		if err != nil {
			return err
		}
		for id, name := range sockets {
			if name != st.Socket {
				continue
			}
			if err := w.deleteSocket(ctx, id); err != nil {
				return fmt.Errorf("socket %s is in use: %w", st.Socket, err)
			}
		}
	}
	return w.ask(ctx, "add socket "+st.Socket, &memif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: newSocketID, SocketFilename: st.Socket})
}

func (s *session) deleteSocket(ctx context.Context, id uint32) error {
	_, err := call(ctx, s, func(ctx context.Context) (*memif.MemifSocketFilenameAddDelV2Reply, error) {
		return memif.NewServiceClient(s.conn).MemifSocketFilenameAddDelV2(ctx, &memif.MemifSocketFilenameAddDelV2{SocketID: id})
	})
	return err
}

// create asks for the interface.
func (w *wiring) create(ctx context.Context) error {
	switch {
	case w.have.port != nil:
		return nil
	case w.st.Vhost:
		return w.createVhost(ctx)
	}
	reply, err := answer[*memif.MemifSocketFilenameAddDelV2Reply](ctx, w.session, w.asked)
	if err != nil {
		return fmt.Errorf("%s: %w", w.asked.doing, err)
	}
	if err := w.step(ctx, "create memif"); err != nil {
		return err
	}
	c := w.c
	m := &memif.MemifCreateV2{
		Role: memif.MEMIF_ROLE_API_MASTER, Mode: memif.MEMIF_MODE_API_ETHERNET, ID: c.ID, SocketID: reply.SocketID, Secret: c.Secret,
		RxQueues: c.Queues.RX, TxQueues: c.Queues.TX, RingSize: c.RingSize, BufferSize: c.BufSize,
	}
	if c.Role == "client" {
		m.Role = memif.MEMIF_ROLE_API_SLAVE
	}
	if c.Mode == "ip" {
		m.Mode = memif.MEMIF_MODE_API_IP
	}
	mac, err := c.hwAddr(w.st)
	if err != nil {
		return err
	}
	if c.Mode == "ethernet" {
		m.HwAddr = mac
	}
	return w.ask(ctx, "create memif on "+w.st.Socket, m)
}

// created learns the number of the interface. A memif gets its tag then.
func (w *wiring) created(ctx context.Context) error {
	switch {
	case w.have.port != nil:
		w.index = w.have.port.index
		return nil
	case w.st.Vhost:
		if err := w.createdVhost(ctx); err != nil {
			return err
		}
		w.made = append(w.made, w.st.name())
		return nil
	}
	reply, err := answer[*memif.MemifCreateV2Reply](ctx, w.session, w.asked)
	if answered(err, codeListen) {
		return fmt.Errorf("VPP cannot use the socket %s: is its folder there, and may VPP write to it?: %w", w.st.Socket, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", w.asked.doing, err)
	}
	w.index = reply.SwIfIndex
	w.made = append(w.made, w.st.name())
	return w.mark(ctx)
}

// hwAddr is the address of the vswitch's side, zero where VPP may choose one at
// random. In L3 it may not: the pod remembers to which address it sends, and has
// to find it again after a restart of VPP. What the attachment's name gives is
// local and unicast, as VPP's own choice is.
func (c *Config) hwAddr(st *state) (mac ethernet_types.MacAddress, err error) {
	switch {
	case c.MAC != "":
		return ethernet_types.ParseMacAddress(c.MAC)
	case c.BridgeDomain != nil:
		return mac, nil
	}
	sum := sha256.Sum256([]byte(st.Tag))
	return ethernet_types.MacAddress{0x02, 0xfe, sum[0], sum[1], sum[2], sum[3]}, nil
}

// shape gives the interface its MTU, and its MAC address if it is no new one,
// which has it from the start.
func (w *wiring) shape(ctx context.Context) error {
	if mtu := w.c.MTU; mtu != 0 && w.have.mtu() != mtu {
		if err := w.step(ctx, "set mtu %d", mtu); err != nil {
			return err
		}
		err := w.send(ctx, fmt.Sprintf("set mtu %d", mtu), fmt.Sprintf("mtu %d", mtu), &interfaces.SwInterfaceSetMtu{SwIfIndex: w.index, Mtu: []uint32{uint32(mtu), 0, 0, 0}})
		if err != nil {
			return err
		}
	}
	if w.have.port == nil || !w.c.hasMAC() || w.have.mac() == w.c.mac() {
		return nil
	}
	if err := w.step(ctx, "set mac %s", w.c.MAC); err != nil {
		return err
	}
	mac, err := ethernet_types.ParseMacAddress(w.c.MAC)
	if err != nil {
		return err
	}
	return w.send(ctx, "set mac "+w.c.MAC, "mac "+w.c.MAC, &interfaces.SwInterfaceSetMacAddress{SwIfIndex: w.index, MacAddress: mac})
}
