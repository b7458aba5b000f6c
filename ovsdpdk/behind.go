package ovsdpdk

import (
	"fmt"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
)

// behind is how far an ovs-vswitchd had come that had not acted on all of OVSDB.
type behind struct {
	cur   int // its cur_cfg
	since time.Time
}

// configured selects how far ovs-vswitchd has come: it copies next_cfg to cur_cfg when it
// has acted on the rest (ovs-vswitchd.conf.db(5)). more are other columns.
func configured(more ...string) ovsdb.Operation {
	return selectRows("Open_vSwitch", anyRow(), append(more, "next_cfg", "cur_cfg")...)
}

// nextConfig has ovs-vswitchd say when it has acted on a transaction.
func nextConfig() ovsdb.Operation {
	return ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Open_vSwitch", Where: anyRow(),
		Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("next_cfg", ovsdb.MutateOperationAdd, 1)}}
}

// standstill takes what configured has found, and returns for how long ovs-vswitchd has
// been seen not to act on OVSDB. It is 0 for one that has acted on everything, and for
// one that has come further since the last look.
func (d *databases) standstill(address string, rows []ovsdb.Row) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(rows) != 1 {
		delete(d.behind, address)
		return 0
	}
	next, cur := ints(rows[0], "next_cfg"), ints(rows[0], "cur_cfg")
	if len(next) != 1 || len(cur) != 1 || cur[0] >= next[0] {
		delete(d.behind, address)
		return 0
	}
	b, known := d.behind[address]
	if !known || b.cur != cur[0] {
		if d.behind == nil {
			d.behind = map[string]behind{}
		}
		b = behind{cur[0], time.Now()}
		d.behind[address] = b
	}
	return time.Since(b.since)
}

// follows refuses an ovs-vswitchd that has stood still for as long as ADD waits for it:
// one more port would not be opened either.
func (d *databases) follows(address string, rows []ovsdb.Row) error {
	if still := d.standstill(address, rows); still >= settleTimeout {
		return stopped(address, fmt.Errorf("it has not acted on OVSDB for %s", still.Round(time.Second)))
	}
	return nil
}

// stopped is the error of an ovs-vswitchd that does not act on what OVSDB has.
func stopped(address string, cause error) *conf.Unavailable {
	return &conf.Unavailable{Endpoint: address, Kind: "ovs-vswitchd behind OVSDB", Err: cause, Hint: "is ovs-vswitchd running, or busy?"}
}
