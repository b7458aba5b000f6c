package ovsdpdk

import (
	"context"
	"encoding/json"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/endpoint"
)

// watchPause is between two attempts to reach a server that is away.
const watchPause = 500 * time.Millisecond

// Place is the OVSDB of a configuration.
func (d *Delegate) Place(config json.RawMessage) (string, error) {
	c, _, err := d.parse("", config)
	if err != nil {
		return "", err
	}
	return c.OVSDB, nil
}

// Watch holds a connection to an OVSDB server and returns nil when it was lost
// and there is one again, to a server whose vswitch is up. A server that is not
// there at first was away too. A restart of ovs-vswitchd alone goes unnoticed:
// it reads from OVSDB what there was.
func (d *Delegate) Watch(ctx context.Context, place string) error {
	if err := checkAddress(place); err != nil {
		return err
	}
	for away := false; ; away = true {
		back, err := stay(ctx, place, away)
		if back || ctx.Err() != nil {
			return ctx.Err()
		}
		d.log.Debug("OVSDB is away", "ovsdb", place, "why", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchPause):
		}
	}
}

// stay connects and stays until the server goes, or, when it was away, until
// its vswitch is up.
func stay(ctx context.Context, place string, away bool) (back bool, err error) {
	c, err := dialWithin(ctx, endpoint.Wait, place)
	if err != nil {
		return false, err
	}
	defer c.end(endpoint.ErrClosed)
	if away {
		return vswitchUp(ctx, c)
	}
	select {
	case <-c.done:
		return false, c.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// vswitchUp waits until ovs-vswitchd has said that DPDK works: in a new
// database it has not. OVSDB does the waiting, without limit.
func vswitchUp(ctx context.Context, c *conn) (bool, error) {
	ops := []ovsdb.Operation{{Op: ovsdb.OperationWait, Table: "Open_vSwitch", Where: anyRow(), Columns: []string{"dpdk_initialized"},
		Until: string(ovsdb.WaitConditionEqual), Rows: []ovsdb.Row{{"dpdk_initialized": true}}}}
	results, err := c.transact(ctx, ops)
	if err != nil {
		return false, err
	}
	if refused := firstError(ops, results); refused != nil {
		return false, refused
	}
	return true, nil
}
