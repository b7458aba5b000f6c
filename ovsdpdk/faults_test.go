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

	"github.com/plexus-cni/plexus/conf"
)

// way is one way through the delegate, from Prepare to Del.
type way struct {
	name     string
	delegate func(testing.TB) *Delegate
	listen   string // where the proxy has to listen, "" for anywhere
	config   func(r *rig) json.RawMessage
}

var ways = []way{
	{name: "client", delegate: newDelegate, config: func(r *rig) json.RawMessage { return r.config(map[string]any{"vlan": 7}) }},
	{name: "server", delegate: newDelegate, config: func(r *rig) json.RawMessage {
		return r.config(map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
	}},
	{name: "userspace", delegate: newUserspace, listen: strings.TrimPrefix(defaultOVSDB, "unix:"), config: func(r *rig) json.RawMessage {
		return userspaceJSON(r.t, r.dir, map[string]any{"mode": "client"})
	}},
}

// calls are the delegate's verbs in order.
var calls = []string{"Prepare", "Add", "Settle", "Check", "Del"}

// trial is one attachment behind the proxy.
type trial struct {
	*rig
	p     *proxy
	d     *Delegate
	a     conf.Attachment
	state json.RawMessage
}

func (w way) begin(t testing.TB) *trial {
	t.Helper()
	r := newRig(t)
	if w.listen != "" {
		if err := os.MkdirAll(filepath.Dir(w.listen), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &trial{rig: r, p: newProxy(t, r.OVSDB(), w.listen), d: w.delegate(t)}
	r.address = c.p.address
	c.a = r.attachment("0123456789abcdef", nil)
	c.a.Conf = w.config(r)
	return c
}

// do makes one call.
func (c *trial) do(ctx context.Context, call string) (err error) {
	switch call {
	case "Prepare":
		c.state, err = c.d.Prepare(ctx, c.a)
	case "Add":
		_, err = c.d.Add(ctx, c.a, c.state)
	case "Settle":
		c.opened(c.state)
		err = c.d.Settle(ctx, c.a, c.state)
	case "Check":
		err = c.d.Check(ctx, c.a, c.state)
	case "Del":
		err = c.d.Del(ctx, c.a, c.state)
	}
	return err
}

// upTo makes the calls before one.
func (c *trial) upTo(call string) {
	c.t.Helper()
	c.state = nil
	for _, earlier := range calls {
		if earlier == call {
			return
		}
		if err := c.do(bounded(c.t), earlier); err != nil {
			c.t.Fatalf("%s: %v", earlier, err)
		}
	}
}

// transacts counts what each call sends.
func (c *trial) transacts() map[string]int {
	c.t.Helper()
	counts := map[string]int{}
	for _, call := range calls {
		c.p.arm(0, "")
		if err := c.do(bounded(c.t), call); err != nil {
			c.t.Fatalf("%s: %v", call, err)
		}
		if counts[call] = len(c.p.seen()); counts[call] == 0 {
			c.t.Fatalf("%s sends no transact", call)
		}
	}
	return counts
}

// rounds are the two ways in which Del may be called.
var rounds = []string{"with state", "without state"}

// recover undoes what a failed call has left, over a clean connection.
func (c *trial) recover(round string) {
	c.t.Helper()
	c.p.arm(0, "")
	if round == "without state" {
		c.state = nil
	}
	mustDel(c.t, c.d, c.a, c.state)
	c.p.arm(0, "")
	mustDel(c.t, c.d, c.a, c.state) // and once more: absent is success
}

// lostDel is the one case that needs Del to know what its rows said although
// they are gone. It has a test of its own.
func lostDel(call string, n int, f fault, round string) bool {
	return call == "Del" && n == 2 && f == cutAfter && round == "without state"
}

// Whatever goes wrong with whichever transact, the call says so, and DEL leaves
// nothing.
func TestEveryTransactFails(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			c := w.begin(t)
			before := c.world()
			counts := c.transacts()
			sameWorld(t, before, c.world())
			for _, call := range calls {
				for n := 1; n <= counts[call]; n++ {
					for _, f := range []fault{answerError, answerObject, answerRefusal, answerShort, cutBefore, cutAfter} {
						for _, round := range rounds {
							if lostDel(call, n, f, round) {
								continue
							}
							t.Run(fmt.Sprintf("%s/%d/%s/%s", call, n, f, round), func(t *testing.T) {
								c.t, c.rig.t = t, t
								c.upTo(call)
								c.p.arm(n, f)
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
		})
	}
}

// A request that is given up while OVSDB is silent ends there and then.
func TestEveryTransactCancelled(t *testing.T) {
	c := ways[0].begin(t)
	before := c.world()
	counts := c.transacts()
	for _, call := range calls {
		for n := 1; n <= counts[call]; n++ {
			t.Run(fmt.Sprintf("%s/%d", call, n), func(t *testing.T) {
				c.t, c.rig.t = t, t
				c.upTo(call)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				hit := c.p.arm(n, neverAnswer)
				go func() {
					<-hit
					cancel()
				}()
				wantError(t, c.do(ctx, call), "OVSDB", context.Canceled.Error())
				c.recover("without state")
				sameWorld(t, before, c.world())
			})
		}
	}
}

// A silent OVSDB keeps nobody longer than the limit, which the error names.
func TestSilentOVSDB(t *testing.T) {
	counts := ways[0].begin(t).transacts()
	for _, call := range []string{"Add", "Del"} {
		for n := 1; n <= counts[call]; n++ {
			for _, round := range rounds {
				t.Run(fmt.Sprintf("%s/%d/%s", call, n, round), func(t *testing.T) {
					t.Parallel()
					c := ways[0].begin(t)
					before := c.world()
					c.upTo(call)
					c.p.arm(n, neverAnswer)
					wantError(t, c.do(bounded(t), call), c.p.address, "no answer within "+transactTimeout.String())
					c.recover(round)
					sameWorld(t, before, c.world())
				})
			}
		}
	}
}

// One connection serves many requests, and one that is gone is made anew.
func TestConnectionIsShared(t *testing.T) {
	c := ways[0].begin(t)
	c.upTo("Del")
	if err := c.do(bounded(t), "Del"); err != nil {
		t.Fatal(err)
	}
	c.p.mu.Lock()
	conns := len(c.p.conns)
	c.p.mu.Unlock()
	if conns != 2 { // the client's and the server's end
		t.Errorf("%d connections were made, want one", conns/2)
	}
}

// Somebody else at the socket, or nobody, is named with the address.
func TestNoOVSDBThere(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(tempDir(t), "db.sock")
	r.address = "unix:" + path
	d, a := newDelegate(t), r.attachment("0123456789abcdef", nil)
	_, err := d.Prepare(bounded(t), a)
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
	_, err = d.Prepare(bounded(t), a)
	wantError(t, err, r.address)
}
