package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"syscall"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/endpoint"
)

// replyTimeout is how long VPP may take to answer a request.
const replyTimeout = 3 * time.Second

// session is a conversation with one VPP for the length of one verb. send queues requests,
// flush sends them and reads the answers. VPP acts on the requests of a connection in
// order: one wait is enough for all.
type session struct {
	pool   *endpoint.Pool[*connection]
	socket string // of VPP's API
	conn   *connection
	queue  []request
	used   bool // a request has been sent
}

// request is a message for VPP, and the use of its answer.
type request struct {
	doing   string // before an error
	message api.Message
	done    func(reply api.Message) // gets the answer, each one of a dump; may be nil
	refused func(err error) error   // gets a refusal and returns the error of flush; nil: doing and the refusal
}

// open begins a session.
func (v *vpps) open(ctx context.Context, socket string) (*session, error) {
	s := &session{pool: v.pool, socket: socket}
	return s, s.connect(ctx)
}

func (s *session) connect(ctx context.Context) (err error) {
	s.conn, err = s.pool.Get(ctx, s.socket)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("VPP at %s: %w", s.socket, ctx.Err())
	}
	return err
}

// send queues a request for the next flush.
func (s *session) send(r request) { s.queue = append(s.queue, r) }

// list queues a dump. The next flush appends its details to all.
func list[D api.Message](s *session, what string, dump api.Message, all *[]D) {
	s.send(request{doing: "list " + what, message: dump, done: func(reply api.Message) {
		if d, ok := reply.(D); ok {
			*all = append(*all, d)
		}
	}})
}

// flush sends the queue and reads the answers. VPP acts on every request, also behind one
// that it refuses. The error is the first refusal, or that of a VPP that does not answer.
//
// A connection over which a request has no answer is of no use any more: a late answer must
// not be taken for that of another request. The first request of a session may find that
// VPP has been restarted since the last one, and goes to the new VPP then. A later one may
// not: it may have numbers that the former VPP gave.
func (s *session) flush(ctx context.Context) error {
	all := s.queue
	s.queue = nil
	for len(all) > 0 {
		first := !s.used
		s.used = true
		refusal, at, err := s.conn.exchange(ctx, all)
		switch {
		case err == nil:
			return refusal
		case ctx.Err() != nil: // VPP may be well, and others may go on
			s.pool.Retire(s.socket, s.conn)
			return fmt.Errorf("%s: VPP at %s: %w", all[at].doing, s.socket, ctx.Err())
		}
		again := first && at == 0 && isUnsent(err)
		err = s.fail(err)
		if !again {
			return fmt.Errorf("%s: %w", all[at].doing, unavailable(s.socket, err))
		}
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fail closes the connection after a request that has failed, and says why it has.
func (s *session) fail(err error) error {
	var silent endpoint.SilentError
	if cause := context.Cause(s.conn.transport.done); errors.As(cause, &silent) { // to another request
		err = silent
	} else if cause != nil {
		err = fmt.Errorf("it has ended the connection: %w", cause)
	}
	if errors.As(err, &silent) {
		s.pool.Silent(s.socket, s.conn, silent.Limit)
	} else {
		s.pool.Drop(s.socket, s.conn, err)
	}
	return err
}

// isUnsent reports whether a request has not reached VPP.
func isUnsent(err error) bool {
	return errors.Is(err, core.ErrNotConnected) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// exchange sends requests and reads the answers. Each request has a stream of its own, by
// which govpp finds its answer. refusal is the first one, at is the request that failed.
func (c *connection) exchange(ctx context.Context, all []request) (refusal error, at int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.transport.done, func() { cancel(nil) })()
	streams := make([]api.Stream, len(all))
	for at, r := range all {
		if streams[at], err = c.NewStream(ctx); err != nil {
			return nil, at, err
		}
		defer streams[at].Close()
		if err = streams[at].SendMsg(r.message); err == nil && r.isDump() {
			err = streams[at].SendMsg(&memclnt.ControlPing{})
		}
		if err != nil {
			return nil, at, err
		}
	}
	silence := time.AfterFunc(replyTimeout, func() { cancel(endpoint.SilentError{Limit: replyTimeout}) })
	defer silence.Stop()
	for at, r := range all {
		refused, err := r.read(streams[at])
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, at, context.Cause(ctx)
		case err != nil:
			return nil, at, err
		case refusal == nil:
			refusal = refused
		}
		silence.Reset(replyTimeout)
	}
	return refusal, 0, nil
}

// isDump reports whether the answers to a request end with that to a ping behind it.
func (r *request) isDump() bool { return strings.HasSuffix(r.message.GetMessageName(), "_dump") }

// read reads the answer to a request, all of them to a dump.
func (r *request) read(stream api.Stream) (refusal, err error) {
	last := r.message.GetMessageName() + "_reply"
	if r.isDump() {
		last = (&memclnt.ControlPingReply{}).GetMessageName()
	}
	for {
		reply, err := stream.RecvMsg()
		if err != nil {
			return nil, err
		}
		end := reply.GetMessageName() == last
		if !end && !r.isDump() {
			return nil, fmt.Errorf("VPP answered with %s", reply.GetMessageName())
		}
		if refusal := refusalOf(reply); refusal != nil {
			if r.refused != nil {
				return r.refused(refusal), nil
			}
			return fmt.Errorf("%s: %w", r.doing, refusal), nil
		}
		if r.done != nil {
			r.done(reply)
		}
		if end {
			return nil, nil
		}
	}
}

// refusalOf is the error code of a reply. The replies that plexus reads call it retval; a
// detail has none.
func refusalOf(reply api.Message) error {
	retval := reflect.Indirect(reflect.ValueOf(reply)).FieldByName("Retval")
	if !retval.IsValid() || !retval.CanInt() {
		return nil
	}
	return api.RetvalToVPPApiError(int32(retval.Int()))
}
