package vppmemif

import (
	"context"
	"errors"
	"io"
	"math"
	"syscall"
	"time"

	"go.fd.io/govpp/binapi/memclnt"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/endpoint"
)

// unavailable is the error of a VPP that does not answer.
func unavailable(socket string, cause error) error {
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
		conn.Close(err)
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
		conn, err := newConnection(ctx, socket)
		dying := wait < 50*time.Millisecond &&
			(errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF))
		if !errors.Is(err, syscall.EAGAIN) && !dying {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// ping waits, without a limit, until VPP has answered a request without an effect.
func (c *connection) ping(ctx context.Context) error {
	refusal, _, err := c.exchange(ctx, math.MaxInt64, request{doing: "ping", message: &memclnt.ControlPing{}})
	if err != nil {
		return errors.Join(err, context.Cause(c.done))
	}
	return refusal
}
