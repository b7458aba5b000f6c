package ovsdpdk

import (
	"context"
	"net"
	"testing"
	"time"
)

// One request that is given up keeps no other one waiting.
func TestCancelledRequestBlocksNobody(t *testing.T) {
	c := ways[0].begin(t)
	if err := c.a.Network.Ready(bounded(t)); err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	hit := c.wire.arm(1, neverAnswer)
	go func() { slow <- c.a.Network.Ready(bounded(t)) }()
	<-hit
	ctx, cancel := context.WithCancel(t.Context())
	hit = c.wire.arm(1, neverAnswer)
	given := make(chan error, 1)
	go func() { given <- c.a.Network.Ready(ctx) }()
	<-hit
	c.wire.arm(0, "")
	cancel()
	wantErrorIn(t, given, slow, "a request that is given up ends only when another one does", context.Canceled.Error())
	next := make(chan error, 1)
	go func() { next <- c.a.Network.Ready(bounded(t)) }()
	wantErrorIn(t, next, slow, "a request waits for one that has nothing to do with it")
}

// wantErrorIn wants a request to end before another one, with an error that says the
// words; without words with none.
func wantErrorIn(t *testing.T, first, second <-chan error, what string, words ...string) {
	t.Helper()
	select {
	case err := <-first:
		if len(words) > 0 {
			wantError(t, err, words...)
		} else if err != nil {
			t.Error(err)
		}
	case <-second:
		t.Fatal(what)
	}
}

// One that ends by its limit ends those that wait over the same connection, too, and the
// next one has another connection.
func TestSilentRequestIsShared(t *testing.T) {
	t.Parallel()
	c := ways[0].begin(t)
	wantErrorNone(t, c.a.Network.Ready(bounded(t)))
	slow := make(chan error, 1)
	hit := c.wire.arm(1, neverAnswer)
	go func() {
		_, err := c.d.db.transactWithin(bounded(t), time.Hour, c.address, selectRows("Bridge", anyRow(), "name"))
		slow <- err
	}()
	<-hit
	c.wire.arm(1, neverAnswer)
	wantError(t, c.a.Network.Ready(bounded(t)), "no answer within")
	c.wire.arm(0, "")
	wantError(t, <-slow, c.address, "no answer within")
	wantErrorNone(t, c.a.Network.Ready(bounded(t)))
}

// An OVSDB that does not answer delays no request to another one.
func TestDeadOVSDBBlocksNobody(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			accepted <- conn // and never a word
		}
	}()
	dead, alive := make(chan error, 1), make(chan error, 1)
	there := mustParse(t, d, r.config(nil))
	away := mustParse(t, d, r.config(map[string]any{"ovsdb": "unix:" + path}))
	go func() { dead <- away.Ready(bounded(t)) }()
	conn := <-accepted
	defer conn.Close()
	go func() { alive <- there.Ready(bounded(t)) }()
	wantErrorIn(t, alive, dead, "a request waits for another one's connection")
}

// A restart of ovsdb-server between two requests costs no request.
func TestOVSDBRestarts(t *testing.T) {
	r := newRig(t)
	r.address = r.OVSDB()
	n := mustParse(t, newDelegate(t), r.config(nil))
	wantErrorNone(t, n.Ready(bounded(t)))
	if err := r.StopOVSDB(); err != nil {
		t.Fatal(err)
	}
	if err := r.StartOVSDB(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=true")
	wantErrorNone(t, n.Ready(bounded(t)))
}

// The error of an answer that is too short names the address.
func TestShortAnswerNamesOVSDB(t *testing.T) {
	c := ways[0].begin(t)
	c.wire.arm(1, answerShort)
	wantError(t, c.a.Network.Ready(bounded(t)), "OVSDB at "+c.address)
}

// A request that is given up ends there and then, even while another one is
// still connecting to the same OVSDB.
func TestCancelledWhileAnotherConnects(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			accepted <- conn // and never a word
		}
	}()
	n := mustParse(t, d, r.config(map[string]any{"ovsdb": "unix:" + path}))
	first, given := make(chan error, 1), make(chan error, 1)
	go func() { first <- n.Ready(bounded(t)) }()
	conn := <-accepted
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	go func() { given <- n.Ready(ctx) }()
	wantErrorIn(t, given, first, "a request that is given up waits for another one's connection", context.Canceled.Error())
}
