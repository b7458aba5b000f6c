package vppmemif

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/endpoint"
)

// govpp reads these settings without a lock: they are set before the first connection. Its
// logs would go to standard error, where a runtime reads. It drops an answer that finds
// 100 others unread, after this time.
func init() {
	core.SetLogLevel(logrus.FatalLevel)
	core.ReplyChannelTimeout = replyTimeout
}

// vpps are the connections to VPPs, by API socket.
type vpps struct {
	pool    *endpoint.Pool[*connection]
	mu      sync.Mutex
	watched map[string]*connection // kept from one Watch to the next
}

func newVPPs() *vpps {
	return &vpps{pool: &endpoint.Pool[*connection]{
		Dial:        connect,
		Unavailable: func(socket string, cause error) error { return unavailable(socket, cause) },
	}}
}

// connection is a client's connection to the API of a VPP.
type connection struct {
	*core.Connection
	transport *transport
}

// Ended reports whether VPP, or this process, has ended the connection.
func (c *connection) Ended() bool { return c.transport.done.Err() != nil }

// Close ends the connection with all requests that wait over it, and says goodbye.
func (c *connection) Close(cause error) {
	if errors.As(cause, &endpoint.SilentError{}) {
		c.transport.abandon(cause)
	}
	c.Disconnect()
}

// unavailable is the error of a VPP that does not answer.
func unavailable(socket string, cause error) *delegates.Unavailable {
	return &delegates.Unavailable{Endpoint: socket, Kind: "VPP", Err: cause, Hint: `is vpp running, and is "apiSocket" its API socket?`}
}

// connect connects and checks, once for each connection, that this VPP speaks the
// messages that plexus uses. A suspect VPP has to answer a ping, too.
func connect(ctx context.Context, socket string, suspect bool) (*connection, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, unavailable(socket, err)
	}
	if suspect {
		bounded, cancel := context.WithTimeout(ctx, endpoint.ShortWait)
		defer cancel()
		if err := conn.ping(bounded); err != nil {
			if bounded.Err() != nil {
				err = endpoint.SilentError{Limit: endpoint.ShortWait}
			}
			conn.Close(err)
			return nil, unavailable(socket, err)
		}
	}
	if err := conn.compatible(ctx, messages()...); err != nil {
		conn.Disconnect()
		return nil, err
	}
	return conn, nil
}

// dial connects. VPP lets five clients wait at its API socket (socksvr.c), and the kernel
// sends the next one away: it tries again. A client whose connection ends before VPP
// says a word tries again for a moment, too: a VPP that is dying lets clients wait that it
// will never serve, and nobody listens there when it is dead.
func dial(ctx context.Context, socket string) (*connection, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		t, err := openTransport(ctx, socket)
		if err == nil {
			conn, err := core.Connect(t)
			if err != nil {
				return nil, errors.Join(err, t.Disconnect())
			}
			return &connection{conn, t}, nil
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

// ping waits until VPP has answered a request without an effect.
func (c *connection) ping(ctx context.Context) error {
	bounded, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.transport.done, cancel)()
	if _, err := memclnt.NewServiceClient(c.Connection).ControlPing(bounded, &memclnt.ControlPing{}); err != nil {
		return errors.Join(err, context.Cause(c.transport.done))
	}
	return nil
}

// close says goodbye to every VPP. Without a goodbye VPP keeps what it has of a client
// until it finds out, and many such clients at once can keep it busy for good (25.06 to
// 26.06).
func (v *vpps) close() {
	v.mu.Lock()
	watched := v.watched
	v.watched = nil
	v.mu.Unlock()
	for _, conn := range watched {
		conn.Disconnect()
	}
	v.pool.Close()
}
