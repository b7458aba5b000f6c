package ovsdpdk

import (
	"context"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/endpoint"
)

// watchPause is between two attempts to reach a server that is away.
const watchPause = 500 * time.Millisecond

// Watch keeps a connection to an OVSDB server. It returns nil when the connection has
// ended and there is another one, to a server whose vswitch is up. A server that does
// not answer at first is waited for, too. Watch does not notice a restart of
// ovs-vswitchd alone: it reads its ports from OVSDB.
func (d *Delegate) Watch(ctx context.Context, address string) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	for away := false; ; away = true {
		back, err := watchOnce(ctx, address, away)
		if back || ctx.Err() != nil {
			return ctx.Err()
		}
		d.log.Debug("OVSDB is away", "ovsdb", address, "why", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

// watchOnce connects, and waits until the server ends the connection or, when it was
// away before, until its vswitch is up.
func watchOnce(ctx context.Context, address string, away bool) (back bool, err error) {
	c, err := dial(ctx, endpoint.Wait, address)
	if err != nil {
		return false, err
	}
	defer c.Close(endpoint.ErrClosed)
	if away {
		return vswitchUp(ctx, c)
	}
	select {
	case <-c.ended.Done():
		return false, context.Cause(c.ended)
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// vswitchUp waits until ovs-vswitchd has written to OVSDB that DPDK works, which it has
// not in a new database. The wait is OVSDB's, without limit.
func vswitchUp(ctx context.Context, c *conn) (bool, error) {
	up := wait("Open_vSwitch", anyRow(), 0, ovsdb.WaitConditionEqual, ovsdb.Row{"dpdk_initialized": true})
	up.Timeout = nil
	_, err := c.transact(ctx, []ovsdb.Operation{up})
	return err == nil, err
}
