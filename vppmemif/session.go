package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"

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
func (d *Delegate) open(ctx context.Context, socket string) (*session, error) {
	s := &session{pool: d.pool, socket: socket}
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
		refusal, at, err := s.conn.exchange(ctx, replyTimeout, all...)
		switch {
		case err == nil:
			return refusal
		case ctx.Err() != nil: // VPP may be well, and others may go on
			s.pool.Retire(s.socket, s.conn)
			return fmt.Errorf("%s: VPP at %s: %w", all[at].doing, s.socket, ctx.Err())
		}
		again := first && errors.Is(err, errUnsent)
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
	if cause := context.Cause(s.conn.done); errors.As(cause, &silent) { // to another request
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

// answer is VPP's answer to a request, as it comes in.
type answer struct {
	isDump  bool
	last    string // name of the message that ends it
	replies []api.Message
	err     error         // of a message that is none of it, or cannot be decoded
	whole   chan struct{} // closed when nothing more comes
}

// add takes the next message of the answer, and reports whether it is the last. err is that
// of a message that cannot be decoded.
func (a *answer) add(reply api.Message, err error) (whole bool) {
	end := reply.GetMessageName() == a.last
	if err == nil && !end && !a.isDump {
		err = fmt.Errorf("VPP answered with %s", reply.GetMessageName())
	}
	a.replies, a.err = append(a.replies, reply), err
	if whole = end || err != nil; whole {
		close(a.whole)
	}
	return whole
}

// exchange sends requests, all in one write, and reads the answers, each of which may take as
// long as limit. refusal is the first one, at is the request that failed.
func (c *connection) exchange(ctx context.Context, limit time.Duration, all ...request) (refusal error, at int, err error) {
	answers := make([]answer, len(all))
	c.mu.Lock()
	first := c.last + 1
	for i, r := range all {
		c.last++
		answers[i] = r.answer()
		c.waiting[c.last] = &answers[i]
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range all {
			delete(c.waiting, first+uint32(i))
		}
	}()
	var requests []byte
	for at, r := range all {
		requests, err = c.frame(requests, r.message, first+uint32(at))
		if err == nil && answers[at].isDump {
			requests, err = c.frame(requests, &memclnt.ControlPing{}, first+uint32(at))
		}
		if err != nil {
			return nil, at, err
		}
	}
	if c.done.Err() != nil {
		return nil, 0, errUnsent
	}
	if err := c.write(requests, limit); err != nil {
		return nil, 0, err
	}
	for at := range answers {
		a := &answers[at]
		select {
		case <-a.whole:
		case <-ctx.Done():
			return nil, at, ctx.Err()
		case <-c.done.Done():
			return nil, at, net.ErrClosed
		case <-time.After(limit):
			return nil, at, endpoint.SilentError{Limit: limit}
		}
		if a.err != nil {
			return nil, at, a.err
		}
		if refused := all[at].use(a.replies); refusal == nil {
			refusal = refused
		}
	}
	return refusal, 0, nil
}

// answer is the answer to a request before it comes. That to a dump ends with that to a ping
// behind it.
func (r *request) answer() answer {
	a := answer{last: r.message.GetMessageName() + "_reply", whole: make(chan struct{})}
	if a.isDump = strings.HasSuffix(r.message.GetMessageName(), "_dump"); a.isDump {
		a.last = (&memclnt.ControlPingReply{}).GetMessageName()
	}
	return a
}

// use gives an answer to its use, or returns VPP's refusal.
func (r *request) use(replies []api.Message) error {
	for _, reply := range replies {
		refusal := refusalOf(reply)
		switch {
		case refusal != nil && r.refused != nil:
			return r.refused(refusal)
		case refusal != nil:
			return fmt.Errorf("%s: %w", r.doing, refusal)
		case r.done != nil:
			r.done(reply)
		}
	}
	return nil
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
