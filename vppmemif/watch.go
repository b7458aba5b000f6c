package vppmemif

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// watchRetry is the time between two looks for a VPP that does not answer.
const watchRetry = 250 * time.Millisecond

// Place is the API socket that a configuration names.
func (d *Delegate) Place(config json.RawMessage) (string, error) {
	c, _, err := d.parse("", config)
	if err != nil {
		return "", err
	}
	return c.APISocket, nil
}

// Watch returns nil when VPP has gone and answers again. It waits on a connection
// of its own on which nothing is sent. That is a client's: VPP keeps the same of
// one that does not introduce itself, and only a client can say goodbye (see
// close). The connection to the VPP that answers again is kept for the next Watch,
// so that none that comes and goes between the two is missed.
func (d *Delegate) Watch(ctx context.Context, place string) error {
	conn := d.vpp.takeWatched(place)
	if conn == nil {
		conn, _ = answering(ctx, place) // whoever is away at first is waited for
	}
	if conn != nil {
		select {
		case <-conn.ended.Done():
		case <-ctx.Done():
		}
		conn.Disconnect()
	}
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("watch VPP at %s: %w", place, err)
		}
		conn, err := answering(ctx, place)
		if err == nil {
			d.vpp.keepWatched(place, conn)
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchRetry):
		}
	}
}

// answering connects and has VPP answer a ping. It takes the time that VPP takes:
// one that hangs would have to deal with each client that has given up on it.
func answering(ctx context.Context, place string) (*link, error) {
	conn, err := dial(ctx, place)
	if err != nil {
		return nil, err
	}
	if err := conn.ping(ctx); err != nil {
		conn.Disconnect()
		return nil, err
	}
	return conn, nil
}

// takeWatched takes the connection that the last Watch of a place has kept.
func (v *vpps) takeWatched(place string) *link {
	v.mu.Lock()
	defer v.mu.Unlock()
	conn := v.watched[place]
	delete(v.watched, place)
	return conn
}

// keepWatched keeps a connection for the next Watch, one for a place.
func (v *vpps) keepWatched(place string, conn *link) {
	v.mu.Lock()
	former := v.watched[place]
	if v.watched == nil {
		v.watched = map[string]*link{}
	}
	v.watched[place] = conn
	v.mu.Unlock()
	if former != nil {
		former.Disconnect()
	}
}
