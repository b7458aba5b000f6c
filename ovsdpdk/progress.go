package ovsdpdk

import (
	"context"
	"fmt"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
)

// lag is where an ovs-vswitchd stands that has not acted on all of OVSDB.
type lag struct {
	cur   int // its cur_cfg
	since time.Time
}

// configured selects how far ovs-vswitchd has come: it copies next_cfg to cur_cfg when it
// has acted on the rest (ovs-vswitchd.conf.db(5)). more are other columns.
func configured(more ...string) ovsdb.Operation {
	return selectRows("Open_vSwitch", anyRow(), append(more, "next_cfg", "cur_cfg")...)
}

// nextConfig makes ovs-vswitchd report when it has acted on the transaction.
func nextConfig() ovsdb.Operation {
	return mutate("Open_vSwitch", anyRow(), "next_cfg", ovsdb.MutateOperationAdd, 1)
}

// standstill reads the answer to configured, and returns for how long ovs-vswitchd has
// been seen not to act on OVSDB. It is 0 for an ovs-vswitchd that has acted on
// everything, and for one that has come further since the last look.
func (d *databases) standstill(address string, rows []ovsdb.Row) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	var next, cur []int
	if len(rows) == 1 {
		next, cur = ints(rows[0], "next_cfg"), ints(rows[0], "cur_cfg")
	}
	if len(next) != 1 || len(cur) != 1 || cur[0] >= next[0] {
		delete(d.lags, address)
		return 0
	}
	l, known := d.lags[address]
	if !known || l.cur != cur[0] {
		l = lag{cur[0], time.Now()}
		d.lags[address] = l
	}
	return time.Since(l.since)
}

// requireProgress refuses an ovs-vswitchd that has stood still for as long as ADD waits
// for it: one more port would not be opened either.
func (d *databases) requireProgress(address string, rows []ovsdb.Row) error {
	if still := d.standstill(address, rows); still >= openTimeout {
		return vswitchdUnavailable(address, fmt.Errorf("it has not acted on OVSDB for %s", still.Round(time.Second)))
	}
	return nil
}

// vswitchdUnavailable is the error of an ovs-vswitchd that does not act on OVSDB.
func vswitchdUnavailable(address string, cause error) *delegates.Unavailable {
	return &delegates.Unavailable{Endpoint: address, Kind: "ovs-vswitchd behind OVSDB", Err: cause, Hint: "is ovs-vswitchd running, or busy?"}
}

// awaitConfig waits until ovs-vswitchd has acted on the transaction that gave
// Open_vSwitch its next_cfg, so that the bridge's own link is gone as well. DEL is right
// without it: a vswitchd that stands still keeps the first DEL waiting for goneTimeout,
// and no other.
func (d *Delegate) awaitConfig(ctx context.Context, address string, rows []ovsdb.Row) {
	next := ints(rows[0], "next_cfg")
	for {
		cur, still := ints(rows[0], "cur_cfg"), d.db.standstill(address, rows)
		if len(next) != 1 || len(cur) != 1 || cur[0] >= next[0] {
			return
		}
		if still >= goneTimeout {
			d.log.Warn("ovs-vswitchd has not removed the bridge's link yet", "ovsdb", address)
			return
		}
		results, err := d.db.transact(ctx, address,
			wait("Open_vSwitch", anyRow(), goneTimeout-still, ovsdb.WaitConditionNotEqual, ovsdb.Row{"cur_cfg": cur[0]}),
			configured())
		if err != nil || len(results[1].Rows) == 0 {
			d.log.Warn("ovs-vswitchd has not removed the bridge's link yet", "ovsdb", address, "why", err)
			return
		}
		rows = results[1].Rows
	}
}
