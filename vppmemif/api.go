package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/binapi/vpe"
	"go.fd.io/govpp/core"
)

// Time limits towards VPP.
const (
	connectTimeout = 2 * time.Second
	replyTimeout   = 3 * time.Second
)

// The library writes its logs to standard error, where a runtime reads, and reads
// the level without a lock: it is set before the first connection.
func init() { core.SetLogLevel(logrus.FatalLevel) }

// messages are those that plexus sends and reads; only they have to be the
// ones that the running VPP speaks.
func messages() []api.Message {
	return []api.Message{
		&memif.MemifSocketFilenameAddDelV2{}, &memif.MemifSocketFilenameAddDelV2Reply{},
		&memif.MemifSocketFilenameDump{}, &memif.MemifSocketFilenameDetails{},
		&memif.MemifCreateV2{}, &memif.MemifCreateV2Reply{}, &memif.MemifDelete{}, &memif.MemifDeleteReply{},
		&memif.MemifDump{}, &memif.MemifDetails{},
		&interfaces.SwInterfaceSetFlags{}, &interfaces.SwInterfaceSetFlagsReply{},
		&interfaces.SwInterfaceSetMtu{}, &interfaces.SwInterfaceSetMtuReply{},
		&interfaces.SwInterfaceSetMacAddress{}, &interfaces.SwInterfaceSetMacAddressReply{},
		&interfaces.SwInterfaceTagAddDel{}, &interfaces.SwInterfaceTagAddDelReply{},
		&interfaces.SwInterfaceDump{}, &interfaces.SwInterfaceDetails{},
		&interfaces.SwInterfaceAddDelAddress{}, &interfaces.SwInterfaceAddDelAddressReply{},
		&interfaces.SwInterfaceSetTable{}, &interfaces.SwInterfaceSetTableReply{},
		&l2.BridgeDomainAddDelV2{}, &l2.BridgeDomainAddDelV2Reply{}, &l2.BridgeDomainDump{}, &l2.BridgeDomainDetails{},
		&l2.SwInterfaceSetL2Bridge{}, &l2.SwInterfaceSetL2BridgeReply{},
		&l2.L2InterfaceVlanTagRewrite{}, &l2.L2InterfaceVlanTagRewriteReply{},
		&memclnt.ControlPing{}, &memclnt.ControlPingReply{},
		&ip.IPRouteAddDel{}, &ip.IPRouteAddDelReply{},
	}
}

// lookMessages are those by which the L3 of an attachment is read.
func lookMessages() []api.Message {
	return []api.Message{
		&interfaces.SwInterfaceGetTable{}, &interfaces.SwInterfaceGetTableReply{},
		&ip.IPAddressDump{}, &ip.IPAddressDetails{}, &ip.IPRouteDump{}, &ip.IPRouteDetails{},
	}
}

// routeMessages are those by which routes are found that nobody has recorded.
func routeMessages() []api.Message {
	return []api.Message{&ip.IPTableDump{}, &ip.IPTableDetails{}, &ip.IPRouteDump{}, &ip.IPRouteDetails{}}
}

// vhostMessages are those of vhost-user, a plugin of VPP that memif does without.
func vhostMessages() []api.Message {
	return []api.Message{
		&vhost_user.CreateVhostUserIfV2{}, &vhost_user.CreateVhostUserIfV2Reply{},
		&vhost_user.DeleteVhostUserIf{}, &vhost_user.DeleteVhostUserIfReply{},
		&vhost_user.SwInterfaceVhostUserDump{}, &vhost_user.SwInterfaceVhostUserDetails{},
	}
}

// vpps are the connections to VPPs, by API socket.
type vpps struct {
	mu      sync.Mutex
	known   map[string]*vpp
	watched map[string]*link // kept from one Watch to the next
}

// vpp is the connection to one VPP. Requests share it; whoever finds it gone
// makes it anew.
type vpp struct {
	socket string
	busy   chan struct{} // holds one value while somebody looks at conn
	conn   *link
}

// link is a connection that tells when it has ended.
type link struct {
	*core.Connection
	ended context.Context
}

func (v *vpp) lock(ctx context.Context) error {
	select {
	case v.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *vpp) unlock() { <-v.busy }

func (v *vpps) at(socket string) *vpp {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known[socket] == nil {
		if v.known == nil {
			v.known = map[string]*vpp{}
		}
		v.known[socket] = &vpp{socket: socket, busy: make(chan struct{}, 1)}
	}
	return v.known[socket]
}

// unreachable is a VPP that does not answer.
type unreachable struct {
	socket string
	err    error
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("VPP at %s is unreachable: %v: is vpp running, and is \"apiSocket\" its API socket?", e.socket, e.err)
}
func (e *unreachable) Unwrap() error { return e.err }

// Temporary marks an error that may be gone when the runtime tries again.
func (e *unreachable) Temporary() bool { return true }

// connect connects and checks, once for each connection, that this VPP speaks
// the messages that plexus uses.
func (v *vpp) connect(ctx context.Context) (*link, error) {
	if err := v.lock(ctx); err != nil {
		return nil, fmt.Errorf("VPP at %s: %w", v.socket, err)
	}
	defer v.unlock()
	if v.conn != nil && v.conn.ended.Err() == nil {
		return v.conn, nil
	}
	if v.conn != nil {
		v.conn.Disconnect()
		v.conn = nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+replyTimeout)
	defer cancel()
	conn, err := dial(ctx, v.socket)
	if err != nil {
		return nil, &unreachable{v.socket, err}
	}
	if err := compatible(ctx, conn, messages()...); err != nil {
		conn.Disconnect()
		return nil, err
	}
	v.conn = conn
	return conn, nil
}

// dial connects. VPP lets five wait at its API socket (socksvr.c) and has the
// kernel send the next one away; that one tries again. So does for a moment one
// whose connection ends before VPP says a word: a VPP that is dying still lets wait
// whom it will never serve, and nobody listens there when it is dead.
func dial(ctx context.Context, socket string) (*link, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		w, err := openWire(ctx, socket)
		if err == nil {
			conn, err := core.Connect(w)
			if err != nil {
				return nil, errors.Join(err, w.Disconnect())
			}
			return &link{conn, w.ended}, nil
		}
		dying := wait < 50*time.Millisecond &&
			(errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF))
		if !errors.Is(err, syscall.EAGAIN) && !dying {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// compatible checks that VPP knows the messages, by names and CRCs.
func compatible(ctx context.Context, conn *link, messages ...api.Message) error {
	ch, err := conn.NewAPIChannel()
	if err != nil {
		return err
	}
	defer ch.Close()
	var differs *api.CompatibilityError
	if err := ch.CheckCompatiblity(messages...); errors.As(err, &differs) {
		version := "unknown"
		reply, err := vpe.NewServiceClient(conn).ShowVersion(ctx, &vpe.ShowVersion{})
		if err == nil {
			version = reply.Version
		}
		return fmt.Errorf("VPP %s does not speak the messages %v as plexus does: plexus works with VPP 24.10 to 26.06", version, differs.IncompatibleMessages)
	} else if err != nil {
		return err
	}
	return nil
}

// forget makes the next request connect anew.
func (v *vpp) forget(conn *link) {
	_ = v.lock(context.Background()) // nobody keeps it for longer than a connect
	defer v.unlock()
	if v.conn == conn {
		v.conn = nil
		conn.Disconnect()
	}
}

// close says goodbye to every VPP. One that is left without it keeps what it has
// of a client until it finds out, and many at once can keep it busy for good
// (25.06 to 26.06).
func (v *vpps) close() {
	v.mu.Lock()
	all, watched := v.known, v.watched
	v.known, v.watched = nil, nil
	v.mu.Unlock()
	for _, conn := range watched {
		conn.Disconnect()
	}
	for _, p := range all {
		_ = p.lock(context.Background()) // nobody keeps it for longer than a connect
		if p.conn != nil {
			p.conn.Disconnect()
			p.conn = nil
		}
		p.unlock()
	}
}

// session is a connection for the length of one verb.
type session struct {
	vpp  *vpp
	conn *link
	used bool // something has been sent
}

func (v *vpps) open(ctx context.Context, socket string) (*session, error) {
	p := v.at(socket)
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	return &session{vpp: p, conn: conn}, nil
}

// ping is a request without an effect.
func (s *session) ping(ctx context.Context) error {
	_, err := call(ctx, s, func(ctx context.Context) (*vpe.ShowVersionReply, error) {
		return vpe.NewServiceClient(s.conn).ShowVersion(ctx, &vpe.ShowVersion{})
	})
	return err
}

// call makes one request within replyTimeout, or until the connection ends. An
// answer with an error code is VPP's; any other error means that the connection
// is of no use any more. The first request of a session may find that VPP has
// been restarted since the last one and goes to the new VPP then; a later one may
// not, as it may carry numbers that the former VPP gave.
func call[R any](ctx context.Context, s *session, request func(context.Context) (R, error)) (R, error) {
	first := !s.used
	s.used = true
	bounded, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	defer context.AfterFunc(s.conn.ended, cancel)()
	reply, err := request(bounded)
	var answer api.VPPApiError
	if err == nil || errors.As(err, &answer) {
		return reply, err
	}
	if ctx.Err() != nil { // the connection is as good as before
		return reply, fmt.Errorf("VPP at %s: %w", s.vpp.socket, ctx.Err())
	}
	unsent := errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, core.ErrNotConnected)
	switch {
	case s.conn.ended.Err() != nil:
		err = fmt.Errorf("it has ended the connection: %w", context.Cause(s.conn.ended))
	case bounded.Err() != nil:
		err = fmt.Errorf("no answer within %s", replyTimeout)
	}
	s.vpp.forget(s.conn)
	if !first || !unsent {
		return reply, &unreachable{s.vpp.socket, err}
	}
	if s.conn, err = s.vpp.connect(ctx); err != nil {
		return reply, err
	}
	return call(ctx, s, request)
}

// begun is a request that VPP has, and whose answer is not read yet.
type begun struct {
	api.Stream
	cancel context.CancelFunc
	doing  string // what it does, for an error
	made   string // what it has made, for mended
}

func (b *begun) end() {
	b.cancel()
	_ = b.Close()
}

// begin sends requests without waiting for VPP, which does what it is sent over a
// connection one after the other.
func (s *session) begin(ctx context.Context, requests ...api.Message) (*begun, error) {
	own, cancel := context.WithCancel(ctx)
	stream, err := call(ctx, s, func(context.Context) (api.Stream, error) {
		stream, err := s.conn.NewStream(own)
		if err != nil {
			return nil, err
		}
		for _, request := range requests {
			if err := stream.SendMsg(request); err != nil {
				return nil, errors.Join(err, stream.Close())
			}
		}
		return stream, nil
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return &begun{Stream: stream, cancel: cancel}, nil
}

// finish reads what follows to a request until done says so, or has an error.
func (s *session) finish(ctx context.Context, b *begun, done func(api.Message) (bool, error)) error {
	_, err := call(ctx, s, func(bounded context.Context) (bool, error) {
		defer context.AfterFunc(bounded, b.cancel)()
		for {
			reply, err := b.RecvMsg()
			if err != nil {
				return false, err
			}
			if end, err := done(reply); end || err != nil {
				return end, err
			}
		}
	})
	return err
}

// answer is the only one to a request.
func answer[R api.Message](ctx context.Context, s *session, b *begun) (reply R, err error) {
	err = s.finish(ctx, b, func(m api.Message) (bool, error) {
		var ok bool
		if reply, ok = m.(R); !ok {
			return true, fmt.Errorf("VPP answered with %s", m.GetMessageName())
		}
		return true, refusal(m)
	})
	return reply, err
}

// refusal is the error code of a reply, all of which have one called retval.
func refusal(reply api.Message) error {
	retval := reflect.Indirect(reflect.ValueOf(reply)).FieldByName("Retval")
	if !retval.IsValid() || !retval.CanInt() {
		return fmt.Errorf("VPP answered with %s", reply.GetMessageName())
	}
	return api.RetvalToVPPApiError(int32(retval.Int()))
}

// list reads a dump to its end.
func list[D any, C interface{ Recv() (D, error) }](ctx context.Context, s *session, request func(context.Context) (C, error)) ([]D, error) {
	return call(ctx, s, func(ctx context.Context) ([]D, error) {
		stream, err := request(ctx)
		if err != nil {
			return nil, err
		}
		var all []D
		for {
			d, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return all, nil
			}
			if err != nil {
				return nil, err
			}
			all = append(all, d)
		}
	})
}

// answered reports whether VPP answered with one of the codes.
func answered(err error, codes ...api.VPPApiError) bool {
	var answer api.VPPApiError
	if !errors.As(err, &answer) {
		return false
	}
	for _, code := range codes {
		if answer == code {
			return true
		}
	}
	return false
}

// Codes as VPP answers them to the messages that plexus sends, measured.
const (
	codeNoInterface = api.INVALID_SW_IF_INDEX // -2
	codeNone        = api.NO_SUCH_ENTRY       // -6: bridge domain missing
	codeNoFIB       = api.NO_SUCH_FIB         // -3: table missing
	codeNoPath      = api.NO_MATCHING_INTERFACE
	codeListen      = api.SYSCALL_ERROR_4   // -14: the socket cannot be listened on; its id is of no use then
	codeBDExists    = api.BD_ALREADY_EXISTS // -119
	codeBDUsed      = api.BD_IN_USE         // -120
)
