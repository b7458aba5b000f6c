package vppmemif

import (
	"context"
	"fmt"
	"time"

	"github.com/plexus-cni/plexus/endpoint"
)

// watchRetry is the time between two attempts at a VPP that does not answer.
const watchRetry = 250 * time.Millisecond

// Watch is delegates.Delegate. It pings VPP over a client's connection of its own: VPP keeps as
// much of a connection without an introduction, and only a client can say goodbye (see Close).
// A VPP that hangs is waited for: it would have to deal with each client that gives up on it.
func (d *Delegate) Watch(ctx context.Context, socket string, report func(error)) error {
	away := false
	down := func(err error) {
		away = true
		report(unavailable(socket, err))
	}
	for ctx.Err() == nil {
		var conn *connection
		_, err := endpoint.Late(endpoint.PulseLimit, down, func() (err error) {
			conn, err = connectAnswering(ctx, socket)
			return err
		})
		for err == nil {
			if away {
				report(nil)
			}
			if away = false; !pause(ctx, conn.done, endpoint.Pulse) {
				break
			}
			_, err = endpoint.Late(endpoint.PulseLimit, down, func() error { return conn.ping(ctx) })
		}
		if conn != nil {
			if err == nil {
				err = context.Cause(conn.done)
			}
			conn.Close(endpoint.ErrClosed)
		}
		if ctx.Err() == nil {
			down(err)
			pause(ctx, ctx, watchRetry)
		}
	}
	return fmt.Errorf("watch VPP at %s: %w", socket, ctx.Err())
}

// pause reports whether the time has passed before either context was done.
func pause(a, b context.Context, d time.Duration) bool {
	select {
	case <-a.Done():
		return false
	case <-b.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// connectAnswering connects and has VPP answer a ping. It waits as long as that takes.
func connectAnswering(ctx context.Context, socket string) (*connection, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	if err := conn.ping(ctx); err != nil {
		conn.Close(err)
		return nil, err
	}
	return conn, nil
}
