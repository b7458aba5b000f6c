package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/endpoint"
	"github.com/plexus-cni/plexus/shareddir"
)

// watchPause is between two attempts to reach a server that is away.
const watchPause = 250 * time.Millisecond

// watch is what is known of one vswitch. Its signs of life are a connection to OVSDB with a
// monitor, a connection to the control socket of ovs-vswitchd where that is beside OVSDB's,
// and cur_cfg, by which ovs-vswitchd says what it has acted on.
type watch struct {
	d       *Delegate
	address string
	report  func(error)

	mu       sync.Mutex
	conn     *conn // to OVSDB, nil while there is none
	silent   error // OVSDB, nil when it answers
	control  error // the control socket, nil where ovs-vswitchd answers or has none
	db       mirror
	behind   time.Time // since when cur_cfg has stood below next_cfg, zero when it does not
	takeover bool      // ovs-vswitchd may be a new one, and has not been seen to act on OVSDB
	round    int       // of the question for a takeover
	target   int       // cur_cfg of an ovs-vswitchd that has acted on OVSDB, 0 before the question
	closed   bool      // a port that was open is not, since the last report
	down     string    // the last report, "" when the vswitch works
}

// Watch is delegates.Delegate. An ovs-vswitchd that was restarted works again when it has
// acted on all of OVSDB: before that nobody knows which ports it could not open.
func (d *Delegate) Watch(ctx context.Context, address string, report func(error)) error {
	if err := checkAddress(address); err != nil {
		return err
	}
	w := &watch{d: d, address: address, report: report}
	defer d.health.Delete(address)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { w.followControl(ctx) })
	group.Go(func() { // how long ovs-vswitchd has been behind changes by itself
		for ctx.Err() == nil {
			pause(ctx, endpoint.Pulse)
			w.update(func() {})
		}
	})
	for {
		err := w.followOVSDB(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.update(func() {
			w.conn, w.silent = nil, err
			w.again()
		})
		pause(ctx, watchPause)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// again has ovs-vswitchd asked whether it acts on OVSDB.
func (w *watch) again() { w.takeover, w.target, w.round = true, 0, w.round+1 }

// followOVSDB monitors OVSDB until the connection ends.
func (w *watch) followOVSDB(ctx context.Context) error {
	w.mu.Lock()
	w.db = mirror{}
	w.mu.Unlock()
	c, err := dial(ctx, endpoint.Wait, w.address, func(_ string, params json.RawMessage) (err error) {
		w.update(func() { err = w.apply(params, false) })
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close(endpoint.ErrClosed)
	bounded, cancel := context.WithTimeout(ctx, transactTimeout)
	defer cancel()
	first, err := c.call(bounded, "monitor_cond", vswitchDB, nil, monitored())
	if err != nil {
		return err
	}
	w.update(func() {
		if err = w.apply(json.RawMessage(`[null,`+string(first)+`]`), true); err == nil {
			w.conn, w.silent = c, nil
		}
	})
	if err != nil {
		return err
	}
	go c.pulse("echo", func(err error) { w.update(func() { w.silent = err }) })
	select {
	case <-c.ended.Done():
		return context.Cause(c.ended)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply takes what the monitor says.
func (w *watch) apply(params json.RawMessage, first bool) error {
	before := w.db.cur
	closed, err := w.db.apply(params, first)
	w.closed = w.closed || closed
	switch {
	case w.db.cur >= w.db.next:
		w.behind = time.Time{}
	case w.behind.IsZero() || w.db.cur != before:
		w.behind = time.Now()
	}
	return err
}

// followControl keeps a connection to the control socket of ovs-vswitchd until ctx is done.
func (w *watch) followControl(ctx context.Context) {
	seen := false
	for first := true; ctx.Err() == nil; first = false {
		c, err := dialControl(w.address)
		if c == nil {
			if errors.Is(err, errNoVswitchd) {
				w.clearSockets()
			}
			if seen && err == nil {
				err = errNoVswitchd // it has removed its socket
			}
			w.update(func() {
				if w.control = err; first {
					w.again()
				}
			})
			pause(ctx, watchPause)
			continue
		}
		seen = true
		w.update(func() {
			if w.control = nil; !first {
				w.again()
			}
		})
		stop := context.AfterFunc(ctx, func() { c.Close(endpoint.ErrClosed) })
		c.pulse("version", func(err error) { w.update(func() { w.control = err }) })
		stop()
		w.update(func() { w.control = errNoVswitchd })
	}
}

// clearSockets removes the sockets of plexus' ports in server mode that a dead ovs-vswitchd has
// left. The next one has to find none: DPDK fails to listen at such a place ("Address already in
// use") and then closes the descriptor twice, which by then may be one of OVS' own; its main
// thread was seen to wait for ever in accept(2). ovs-vswitchd makes its control socket, at which
// nobody listens then, before it opens ports.
func (w *watch) clearSockets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	run := runFolder(w.address)
	for _, name := range w.db.servers {
		if err := shareddir.RemoveStale(run, filepath.Join(w.db.below, name)); err != nil {
			w.d.log.Warn("a socket of a dead ovs-vswitchd stays", "port", name, "why", err.Error())
		}
	}
}

// update changes what is known, and reports what follows from it.
func (w *watch) update(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	switch {
	case !w.takeover || w.conn == nil || w.control != nil || !w.db.present:
	case w.target == 0:
		w.target = -1
		go w.ask(w.conn, w.round)
	case w.target > 0 && w.db.cur >= w.target:
		w.takeover = false
	}
	why, down := w.why(), ""
	if why != nil {
		down = why.Error()
	}
	w.d.health.Store(w.address, health{why})
	if down != w.down || down == "" && w.closed {
		w.report(why)
	}
	w.down, w.closed = down, w.closed && down != ""
}

// ask has ovs-vswitchd count up cur_cfg, as ovs-vsctl does.
func (w *watch) ask(c *conn, round int) {
	ctx, cancel := context.WithTimeout(c.ended, transactTimeout)
	defer cancel()
	results, err := c.transact(ctx, []ovsdb.Operation{nextConfig(), configured()})
	w.update(func() {
		if w.round != round {
			return
		}
		w.target = 0
		if err == nil && len(results) > 1 && len(results[1].Rows) == 1 {
			for _, next := range ints(results[1].Rows[0], "next_cfg") {
				w.target = next
			}
		}
	})
}

// why is the reason why the vswitch does not work, nil when it does.
func (w *watch) why() error {
	switch {
	case w.silent != nil:
		return unavailable(w.address, w.silent)
	case w.conn == nil && w.down == "": // the first connection is being made
		return nil
	case w.control != nil:
		return vswitchdUnavailable(w.address, w.control)
	case w.conn != nil && !w.db.dpdk:
		return vswitchdUnavailable(w.address, errNoDPDK)
	case w.takeover && w.down != "":
		return vswitchdUnavailable(w.address, errors.New("it has not acted on OVSDB since it was started"))
	case !w.behind.IsZero() && time.Since(w.behind) >= openTimeout:
		return vswitchdUnavailable(w.address, errors.New("it has not acted on OVSDB for "+openTimeout.String()))
	}
	return nil
}
