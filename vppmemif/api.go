package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
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

	"github.com/plexus-cni/plexus/endpoint"
)

// replyTimeout is how long VPP may take to answer a request.
const replyTimeout = 3 * time.Second

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

// vpp is a VPP by its API socket.
type vpp struct {
	pool   *endpoint.Pool[*link]
	socket string
}

func (v *vpp) connect(ctx context.Context) (*link, error) {
	conn, err := v.pool.Get(ctx, v.socket)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("VPP at %s: %w", v.socket, ctx.Err())
	}
	return conn, err
}

// session is a connection for the length of one verb.
type session struct {
	vpp  *vpp
	conn *link
	used bool // something has been sent
}

func (v *vpps) open(ctx context.Context, socket string) (*session, error) {
	p := &vpp{v.pool, socket}
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
// is of no use any more: an answer that comes late must not be taken for that of
// another request. The first request of a session may find that VPP has
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
	if ctx.Err() != nil { // VPP may be well; others may go on
		s.vpp.pool.Retire(s.vpp.socket, s.conn)
		return reply, fmt.Errorf("VPP at %s: %w", s.vpp.socket, ctx.Err())
	}
	unsent := errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, core.ErrNotConnected)
	err = s.failed(bounded, err)
	if !first || !unsent {
		return reply, unavailable(s.vpp.socket, err)
	}
	if s.conn, err = s.vpp.connect(ctx); err != nil {
		return reply, err
	}
	return call(ctx, s, request)
}

// failed closes the connection after a request that has failed, and says why it has.
func (s *session) failed(bounded context.Context, err error) error {
	var silent endpoint.SilentError
	cause := context.Cause(s.conn.ended)
	switch {
	case errors.As(cause, &silent): // to another request
		err = silent
	case cause != nil:
		err = fmt.Errorf("it has ended the connection: %w", cause)
	case errors.Is(bounded.Err(), context.DeadlineExceeded):
		silent.Limit = replyTimeout
		err = silent
	}
	if silent.Limit > 0 {
		s.vpp.pool.Silent(s.vpp.socket, s.conn, silent.Limit)
	} else {
		s.vpp.pool.Drop(s.vpp.socket, s.conn, err)
	}
	return err
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
