package vppmemif

import (
	"context"
	"fmt"
	"time"
)

// watchRetry is the time between two attempts at a VPP that does not answer.
const watchRetry = 250 * time.Millisecond

// Watch is delegates.Delegate. It waits on a client's connection of its own, over which it
// sends nothing: VPP keeps as much of a connection without an introduction, and only a
// client can say goodbye (see close). The connection to the VPP that answers again is kept
// for the next Watch, which so notices a VPP that comes and goes between the two.
func (d *Delegate) Watch(ctx context.Context, endpoint string) error {
	conn := d.vpps.takeWatched(endpoint)
	if conn == nil {
		conn, _ = connectAnswering(ctx, endpoint) // a VPP that is away at first is waited for
	}
	if conn != nil {
		select {
		case <-conn.transport.done.Done():
		case <-ctx.Done():
		}
		conn.Disconnect()
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("watch VPP at %s: %w", endpoint, err)
		}
		conn, err := connectAnswering(ctx, endpoint)
		if err == nil {
			d.vpps.keepWatched(endpoint, conn)
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
func connectAnswering(ctx context.Context, endpoint string) (*connection, error) {
	conn, err := dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	if err := conn.ping(ctx); err != nil {
		conn.Disconnect()
		return nil, err
	}
	return conn, nil
}

// takeWatched takes the connection that the last Watch of an endpoint has kept.
func (v *vpps) takeWatched(endpoint string) *connection {
	v.mu.Lock()
	defer v.mu.Unlock()
	conn := v.watched[endpoint]
	delete(v.watched, endpoint)
	return conn
}

// keepWatched keeps a connection for the next Watch, one for an endpoint.
func (v *vpps) keepWatched(endpoint string, conn *connection) {
	v.mu.Lock()
	former := v.watched[endpoint]
	if v.watched == nil {
		v.watched = map[string]*connection{}
	}
	v.watched[endpoint] = conn
	v.mu.Unlock()
	if former != nil {
		former.Disconnect()
	}
}
