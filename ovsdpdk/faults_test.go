package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// way is one way through the delegate, from Prepare to Detach.
type way struct {
	name     string
	delegate func(testing.TB) *Delegate
	listen   string // where the proxy has to listen, "" for anywhere
	volume   string // name of the pod's volume, "" for none
	config   func(r *rig) json.RawMessage
}

var ways = []way{
	{name: "client", delegate: newDelegate, config: func(r *rig) json.RawMessage { return r.config(map[string]any{"vlan": 7}) }},
	{name: "server", delegate: newDelegate, config: func(r *rig) json.RawMessage {
		return r.config(map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
	}},
	{name: "volume", delegate: newDelegate, volume: strings.Repeat("x", maxSocketPath), config: func(r *rig) json.RawMessage { return r.config(nil) }},
	{name: "userspace", delegate: newDelegate, listen: strings.TrimPrefix(defaultOVSDB, "unix:"), config: func(r *rig) json.RawMessage {
		return userspaceJSON(r.t, r.dir, map[string]any{"mode": "client"})
	}},
}

// calls are the delegate's verbs in order. Before Restore port and bridge are
// lost.
var calls = []string{"Prepare", "Attach", "Check", "Inspect", "Restore", "Detach"}

// trial is one attachment behind the proxy.
type trial struct {
	*rig
	d *Delegate
	a *delegates.Attachment
}

func (w way) begin(t testing.TB) *trial {
	t.Helper()
	if w.listen != "" {
		if err := os.MkdirAll(filepath.Dir(w.listen), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &trial{rig: newRigAt(t, w.listen), d: w.delegate(t)}
	c.a = c.attachment(newDelegate(t), sandbox, nil)
	c.a.Network = mustParse(t, c.d, w.config(c.rig))
	if w.volume != "" {
		volume := filepath.Join(c.dir, w.volume)
		if err := os.Mkdir(volume, 0o755); err != nil {
			t.Fatal(err)
		}
		c.a = shared(c.a, volume)
	}
	return c
}

// do makes one call.
func (c *trial) do(ctx context.Context, call string) (err error) {
	switch call {
	case "Prepare":
		c.a.State, err = c.a.Network.Prepare(ctx, c.a)
	case "Attach":
		err = c.d.Attach(ctx, only(c.a))
	case "Check":
		err = c.a.Network.Check(ctx, c.a)
	case "Inspect":
		_, err = c.a.Network.Inspect(ctx, c.a)
	case "Restore":
		for _, bridge := range strings.Fields(c.vsctl("list-br")) {
			c.vsctl("del-br", bridge)
		}
		_, err = c.a.Network.Restore(ctx, c.a)
	case "Detach":
		err = c.d.Detach(ctx, only(c.a))[0]
	}
	return err
}

// upTo makes the calls before one.
func (c *trial) upTo(call string) {
	c.t.Helper()
	c.a = unrecorded(c.a)
	for _, earlier := range calls {
		if earlier == call {
			return
		}
		if err := c.do(bounded(c.t), earlier); err != nil {
			c.t.Fatalf("%s: %v", earlier, err)
		}
	}
}

// transacts lists the transacts of each call.
func (c *trial) transacts() map[string][]string {
	c.t.Helper()
	all := map[string][]string{}
	for _, call := range calls {
		c.wire.arm(0, "")
		if err := c.do(bounded(c.t), call); err != nil {
			c.t.Fatalf("%s: %v", call, err)
		}
		all[call] = c.wire.seen()
	}
	return all
}

// rounds are the two ways in which Detach may be called.
var rounds = []string{"with state", "without state"}

// recover undoes a call that failed, over a clean connection.
func (c *trial) recover(round string) {
	c.t.Helper()
	c.wire.arm(0, "")
	if round == "without state" {
		c.a = unrecorded(c.a)
	}
	c.detachInTheEnd()
	c.wire.arm(0, "")
	c.detachInTheEnd() // and once more: absent is success
}

// detachInTheEnd repeats a Detach that is to be tried again, as a runtime repeats DEL: an
// OVSDB that was silent has a second to answer, which a busy machine may not have.
func (c *trial) detachInTheEnd() {
	c.t.Helper()
	ctx := bounded(c.t)
	err := c.d.Detach(ctx, []*delegates.Attachment{c.a})[0]
	for delegates.AllUnavailable(err) != nil && ctx.Err() == nil {
		err = c.d.Detach(ctx, []*delegates.Attachment{c.a})[0]
	}
	if err != nil {
		c.t.Errorf("Detach: %v", err)
	}
}

// When any transact fails, the call returns an error, and the next DEL leaves nothing.
func TestEveryTransactFails(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, w.everyTransactFails)
	}
}

func (w way) everyTransactFails(t *testing.T) {
	c := w.begin(t)
	before := c.world()
	all := c.transacts()
	sameWorld(t, before, c.world())
	for _, call := range calls {
		for i := range all[call] {
			for _, f := range []fault{answerError, answerObject, answerRefusal, answerShort, cutBefore, cutAfter} {
				for _, round := range rounds {
					t.Run(fmt.Sprintf("%s/%d/%s/%s", call, i+1, f, round), func(t *testing.T) {
						c.t, c.rig.t = t, t
						c.upTo(call)
						c.wire.arm(i+1, f)
						err := c.do(bounded(t), call)
						wantError(t, err, "OVSDB")
						if f == answerError || f == answerObject || f == answerRefusal {
							wantError(t, err, injected)
						}
						c.recover(round)
						sameWorld(t, before, c.world())
					})
				}
			}
		}
	}
}

// A request that is given up while OVSDB is silent ends there and then.
func TestEveryTransactCancelled(t *testing.T) {
	c := ways[0].begin(t)
	before := c.world()
	for call, transacts := range c.transacts() {
		for i := range transacts {
			t.Run(fmt.Sprintf("%s/%d", call, i+1), func(t *testing.T) {
				c.t, c.rig.t = t, t
				c.upTo(call)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				hit := c.wire.arm(i+1, neverAnswer)
				go func() {
					<-hit
					cancel()
				}()
				wantError(t, c.do(ctx, call), "OVSDB", context.Canceled.Error())
				c.recover("with state")
				sameWorld(t, before, c.world())
			})
		}
	}
}

// A call waits for a silent OVSDB no longer than the limit, which the error names. All
// cases are silent at once.
func TestSilentOVSDB(t *testing.T) {
	t.Parallel()
	type silence struct {
		*trial
		name, call, before string
		err                error
	}
	var all []*silence
	for call, transacts := range ways[0].begin(t).transacts() {
		for i, transact := range transacts {
			if strings.HasPrefix(transact, "wait Interface") {
				continue // its limit is that of the vswitch, far longer
			}
			c := &silence{trial: ways[0].begin(t), name: fmt.Sprintf("%s/%d", call, i+1), call: call}
			c.before = c.world()
			c.upTo(call)
			c.wire.arm(i+1, neverAnswer)
			all = append(all, c)
		}
	}
	_ = together(len(all), func(i int) error {
		all[i].err = all[i].do(bounded(t), all[i].call)
		return nil
	})
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			c.t, c.rig.t = t, t
			wantError(t, c.err, c.address, "no answer within "+transactTimeout.String())
			c.recover("with state")
			sameWorld(t, c.before, c.world())
		})
	}
}

// One connection serves many requests, and one that is gone is made anew.
func TestConnectionIsShared(t *testing.T) {
	c := ways[0].begin(t)
	c.upTo("Detach")
	if err := c.do(bounded(t), "Detach"); err != nil {
		t.Fatal(err)
	}
	c.wire.mu.Lock()
	conns := len(c.wire.conns)
	c.wire.mu.Unlock()
	if conns != 2 { // the client's and the server's end
		t.Errorf("%d connections were made, want one", conns/2)
	}
}

// A server that is no OVSDB, or none, is an error that names the address.
func TestNoOVSDBThere(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(tempDir(t), "db.sock")
	r.address = "unix:" + path
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	_, err := a.Network.Prepare(bounded(t), a)
	wantError(t, err, r.address, "is ovsdb-server running")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.6\r\n"))
			_ = conn.Close()
		}
	}()
	_, err = a.Network.Prepare(bounded(t), a)
	wantError(t, err, r.address)
}
