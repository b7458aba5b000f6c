package vppmemif

import (
	"context"
	"fmt"
	"time"

	"github.com/plexus-cni/plexus/endpoint"
)

// watchRetry is the time between two attempts at a VPP that does not answer.
const watchRetry = 250 * time.Millisecond

// Watch is delegates.Delegate. It waits on a client's connection of its own, over which it
// sends nothing: VPP keeps as much of a connection without an introduction, and only a
// client can say goodbye (see Close). The connection to the VPP that answers again is kept
// for the next Watch, which so notices a VPP that comes and goes between the two.
func (d *Delegate) Watch(ctx context.Context, socket string) error {
	var conn *connection
	if kept, ok := d.watched.LoadAndDelete(socket); ok {
		conn = kept.(*connection)
	} else {
		conn, _ = connectAnswering(ctx, socket) // a VPP that is away at first is waited for
	}
	if conn != nil {
		select {
		case <-conn.done.Done():
		case <-ctx.Done():
		}
		conn.Close(endpoint.ErrClosed)
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("watch VPP at %s: %w", socket, err)
		}
		if conn, err := connectAnswering(ctx, socket); err == nil {
			if former, ok := d.watched.Swap(socket, conn); ok {
				former.(*connection).Close(endpoint.ErrClosed)
			}
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
}

// connectAnswering connects and has VPP answer a ping. It waits as long as that takes: a
// VPP that hangs would have to deal with each client that has given up on it.
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
