package ovsdpdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/endpoint"
)

// question is a message as a stand-in for a server sees it.
type question struct {
	Method string          `json:"method"`
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// says writes to a client; one that has gone is none of a stand-in's worries.
func says(to io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(to, format, args...) }

// newStandIn is a server of the test's own: it introduces itself as an OVSDB, and
// leaves the rest of each connection to serve. It returns its address.
func newStandIn(t testing.TB, serve func(nth int, conn net.Conn, in *json.Decoder)) string {
	t.Helper()
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for nth := 0; ; nth++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go func() {
				in := json.NewDecoder(conn)
				q := next(in)
				says(conn, `{"id": %s, "result": ["_Server", "Open_vSwitch"], "error": null}`, q.ID)
				serve(nth, conn, in)
			}()
		}
	}()
	return "unix:" + path
}

// next is the next message, empty when the client has gone.
func next(in *json.Decoder) (q question) {
	_ = in.Decode(&q)
	return q
}

// bridges is the answer to a question for the bridges' names.
const bridges = `{"id": %s, "error": null, "result": [{"rows": [{"name": "br0"}]}]}`

func ask(ctx context.Context, d *Delegate, address string) error {
	found, err := d.db.transact(ctx, address, selectRows("Bridge", anyRow(), "name"))
	if err == nil && text(found[0].Rows[0], "name") != "br0" {
		err = fmt.Errorf("it answers %v", found)
	}
	return err
}

// A message of the server that makes no sense ends the connection, with its
// address, and the next request has another one.
func TestHostileServer(t *testing.T) {
	row := func(value string) string {
		return `{"id": ID, "error": null, "result": [{"rows": [{"name": ` + value + `}]}]}`
	}
	for _, c := range []struct{ name, says, want string }{
		{"neither method nor id", `{}`, "neither method nor id"},
		{"null", `null `, "neither method nor id"},
		{"nulls", `{"method": null, "id": null, "result": []}`, "neither method nor id"},
		{"no object", `[]`, "read a message"},
		{"no JSON", `SSH-2.0`, "read a message"},
		{"method is a number", `{"method": 7, "id": ID}`, "read a message"},
		{"unknown ID", `{"id": 4711, "result": []}`, "not asked: id 4711"},
		{"negative ID", `{"id": -1, "result": []}`, "not asked"},
		{"huge ID", `{"id": 1e999, "result": []}`, "not asked"},
		{"ID is a string", `{"id": "x", "result": []}`, "not asked"},
		{"ID is an object", `{"id": {}, "result": []}`, "not asked"},
		{"truncated", `{"id": ID, "result": [{"ro`, "within a message"},
		{"silence", ``, "closed the connection"},
		{"deep", strings.Repeat(`[`, 20000), "read a message"},
		{"deep result", `{"id": ID, "result": ` + strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000) + `}`, "deeper than"},
		{"long echo", `{"id": 1, "method": "echo", "params": ["` + strings.Repeat("x", maxEcho) + `"]}`, "at most 4096"},
		{"result is a number", `{"id": ID, "result": 7}`, "read the result"},
		{"no result", `{"id": ID}`, "read the result"},
		{"result of numbers", `{"id": ID, "result": [7]}`, "read the result"},
		{"rows is a number", `{"id": ID, "result": [{"rows": 7}]}`, "read the result"},
		{"row is a number", `{"id": ID, "result": [{"rows": [7]}]}`, "read the result"},
		{"count is a string", `{"id": ID, "result": [{"count": "7"}]}`, "read the result"},
		{"count is huge", `{"id": ID, "result": [{"count": 99999999999999999999}]}`, "read the result"},
		{"error is a number", `{"id": ID, "result": [{"error": 7}]}`, "read the result"},
		{"empty array", row(`[]`), `column "name": [] is no value`},
		{"tag alone", row(`["set"]`), "no value of OVSDB"},
		{"unknown tag", row(`["bag", []]`), "no value of OVSDB"},
		{"tag is a number", row(`[1, 2]`), "no value of OVSDB"},
		{"set of no array", row(`["set", 7]`), "no value of OVSDB"},
		{"set of sets", row(`["set", [["set", []]]]`), "no value of OVSDB"},
		{"map of numbers", row(`["map", [7]]`), "no value of OVSDB"},
		{"map of singles", row(`["map", [["a"]]]`), "no value of OVSDB"},
		{"map of maps", row(`["map", [["a", ["map", []]]]]`), "no value of OVSDB"},
		{"uuid is a number", row(`["uuid", 7]`), "no value of OVSDB"},
		{"object", row(`{}`), "no value of OVSDB"},
		{"null value", row(`null`), "no value of OVSDB"},
		{"huge integer", row(`99999999999999999999`), "value out of range"},
		{"huge real", row(`1e999`), "value out of range"},
		{"huge integer in a map", row(`["map", [["a", -99999999999999999999]]]`), "value out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
				q := next(in)
				if nth > 0 {
					says(conn, bridges, q.ID)
					return
				}
				says(conn, "%s", strings.ReplaceAll(c.says, "ID", string(q.ID)))
				if c.name == "silence" || c.name == "truncated" {
					_ = conn.Close()
				}
			})
			d := newDelegate(t)
			defer d.Close()
			err := ask(bounded(t), d, address)
			wantError(t, err, "OVSDB at "+address+" is unreachable", c.want)
			var temporary interface{ Temporary() bool }
			if !errors.As(err, &temporary) || !temporary.Temporary() {
				t.Errorf("%v: it is not said to be temporary", err)
			}
			wantErrorNone(t, ask(bounded(t), d, address))
		})
	}
}

// A server that answers twice is as hostile as any: the second answer has
// nobody who asked.
func TestSecondAnswer(t *testing.T) {
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		q := next(in)
		says(conn, bridges+bridges, q.ID, q.ID)
	})
	c, err := dial(bounded(t), endpoint.Wait, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(bounded(t), "transact"); err != nil {
		t.Error(err)
	}
	<-c.ended.Done()
	wantError(t, context.Cause(c.ended), "not asked")
}

// A message without end is not read to its end.
func TestLongMessage(t *testing.T) {
	t.Parallel()
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		says(conn, `{"id": %s, "result": "`, next(in).ID)
		for err := error(nil); err == nil; {
			_, err = conn.Write(bytes.Repeat([]byte("x"), 1<<20))
		}
	})
	c, err := dial(bounded(t), endpoint.Wait, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.call(bounded(t), "transact")
	wantError(t, err, "longer than 67108864 bytes")
}

// A message that would take a hundred times its bytes of memory, or that an error would quote
// whole, ends the connection with a short error.
func TestCostlyMessage(t *testing.T) {
	long := strings.Repeat("7", 8<<20)
	for name, message := range map[string]string{
		"elements":        `{"id": %s, "error": null, "result": [{"rows": [` + strings.Repeat(`{},`, maxElements) + `{}]}]}`,
		"depth":           `{"id": %s, "error": null, "result": ` + strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1) + `}`,
		"in an error":     `{"id": %s, "result": null, "error": [` + strings.Repeat(`{},`, maxElements) + `{}]}`,
		"number":          `{"id": %s, "error": null, "result": [{"rows": [{"ofport": ` + long + `}]}]}`,
		"count":           `{"id": %s, "error": null, "result": [{"count": ` + long + `}]}`,
		"method":          `{"id": %s, "method": ` + long + `}`,
		"a number as key": `{"id": %s, "error": null, "result": [{"rows": [{"options": ["map", [[` + long + `, 1]]]}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) { says(conn, message, next(in).ID) })
			d := newDelegate(t)
			defer d.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := d.db.transactWithin(bounded(t), time.Minute, address, selectRows("Bridge", anyRow(), "name"))
			runtime.ReadMemStats(&after)
			if err == nil || len(err.Error()) > 1000 {
				t.Errorf("want a short error, not %.2000v", err)
			}
			if most := uint64(1<<20 + 40*len(message)); after.TotalAlloc-before.TotalAlloc > most {
				t.Errorf("%d bytes took %d of memory", len(message), after.TotalAlloc-before.TotalAlloc)
			}
		})
	}
}

// A server that asks and asks and takes no answer is left, and holds up
// nothing.
func TestEchoFlood(t *testing.T) {
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		for {
			if _, err := io.WriteString(conn, `{"id": "`+strings.Repeat("x", 3000)+`", "method": "echo", "params": []}`); err != nil {
				return
			}
		}
	})
	c, err := dial(bounded(t), endpoint.Wait, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-c.ended.Done()
	wantError(t, context.Cause(c.ended), "took no answer")
}

// The server's echo is answered, as is what nobody knows; notifications are
// not, and none of them disturbs a request.
func TestServerAsks(t *testing.T) {
	got := make(chan question, 2)
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		q := next(in)
		says(conn, `{"id": null, "method": "update", "params": [null, {}]}`)
		says(conn, `{"id": "echo", "method": "echo", "params": ["a", 1]} {"id": 7, "method": "dance", "params": []}`)
		got <- next(in)
		got <- next(in)
		says(conn, bridges, q.ID)
	})
	d := newDelegate(t)
	defer d.Close()
	wantErrorNone(t, ask(bounded(t), d, address))
	for _, want := range []string{`"echo" ["a",1] null`, `7 null "unknown method"`} {
		q := <-got
		if have := fmt.Sprintf("%s %s %s", q.ID, q.Result, q.Error); have != want {
			t.Errorf("answer %s, want %s", have, want)
		}
	}
}

// Requests share a connection, and answers find them in any order.
func TestRequestsShareAConnection(t *testing.T) {
	const many = 8
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		var all []question
		for range many {
			all = append(all, next(in))
		}
		for i := range all {
			q := all[len(all)-1-i]
			says(conn, `{"id": %s, "result": %[1]s, "error": null}`, q.ID)
		}
	})
	c, err := dial(bounded(t), endpoint.Wait, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(endpoint.ErrClosed)
	results := make([]string, many)
	err = together(many, func(i int) error {
		raw, err := c.call(bounded(t), "transact")
		results[i] = string(raw)
		return err
	})
	seen := map[string]bool{}
	for _, r := range results {
		seen[r] = true
	}
	if err != nil || len(seen) != many {
		t.Errorf("answers %q, %v", results, err)
	}
}

// The answer to a request that was given up is thrown away as it comes, and the
// connection serves the next one.
func TestLateAnswerIsThrownAway(t *testing.T) {
	asked, late := make(chan bool), make(chan bool)
	address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		if nth > 0 {
			t.Error("another connection is made")
		}
		first := next(in)
		close(asked)
		<-late
		says(conn, `{"id": %s, "error": null, "result": [{"rows": []}]}`, first.ID)
		says(conn, bridges, next(in).ID)
	})
	d := newDelegate(t)
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	wantError(t, ask(ctx, d, address), address, context.Canceled.Error())
	close(late)
	wantErrorNone(t, ask(bounded(t), d, address))
}

// Nobody waits for a server that says nothing for longer than it takes to know
// it, and those who want it at once share the attempt.
func TestMuteServer(t *testing.T) {
	t.Parallel()
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, crowdSize)
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			accepted <- conn // and never a word
		}
	}()
	d := newDelegate(t)
	defer d.Close()
	errs := make([]error, crowdSize)
	_ = together(crowdSize, func(i int) error {
		errs[i] = ask(bounded(t), d, "unix:"+path)
		return nil
	})
	for _, err := range errs {
		wantError(t, err, path, "no answer within 3s")
	}
	if n := len(accepted); n != 1 {
		t.Errorf("%d connections were made, want one", n)
	}
}

// A server of other databases is told from one that is away.
func TestOtherDatabase(t *testing.T) {
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			says(conn, `{"id": %s, "result": ["OVN_Southbound"], "error": null}`, next(json.NewDecoder(conn)).ID)
		}
	}()
	wantError(t, ask(bounded(t), newDelegate(t), "unix:"+path), path, "no database Open_vSwitch")
}

// A request that could not be written is made once more, on another connection:
// the server cannot have seen it.
func TestUnsentRequest(t *testing.T) {
	done := make(chan bool)
	address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		if nth == 0 {
			<-done // the client still hears
			return
		}
		says(conn, bridges, next(in).ID)
	})
	defer close(done)
	d := newDelegate(t)
	defer d.Close()
	c, err := d.db.pool.Get(bounded(t), address)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.stream.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantErrorNone(t, ask(bounded(t), d, address))
}

// Close ends the connections, and with them what is under way, and what is
// still connecting.
func TestClose(t *testing.T) {
	asked, gone := make(chan bool), make(chan bool)
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		next(in)
		close(asked)
		next(in) // until the connection ends
		close(gone)
	})
	d := newDelegate(t)
	failed := make(chan error, 1)
	go func() { failed <- ask(bounded(t), d, address) }()
	<-asked
	d.Close()
	wantError(t, <-failed, address, "connection was closed")
	<-gone
	d.Close()
}

// Values have the Go types of their OVSDB types.
func TestDecodeValue(t *testing.T) {
	for raw, want := range map[string]string{
		`"a\u00e4"`: "string aä", `true`: "bool true", `false`: "bool false", `-9223372036854775808`: "int64 -9223372036854775808",
		`9007199254740993`: "int64 9007199254740993", `1.5`: "float64 1.5", `1e3`: "float64 1000", `["uuid", "x"]`: "ovsdb.UUID {x}",
		`["set", []]`: "ovsdb.OvsSet {[]}", `["set", [1, "a", ["named-uuid", "u"]]]`: "ovsdb.OvsSet {[1 a {u}]}",
		`["map", [["a", 1], [["uuid", "u"], "b"]]]`: "ovsdb.OvsMap {map[a:1 {u}:b]}", ` ["map", []]`: "ovsdb.OvsMap {map[]}",
	} {
		var r rows
		if err := json.Unmarshal([]byte(`[{"c": `+raw+`}]`), &r); err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if got := fmt.Sprintf("%T %[1]v", r[0]["c"]); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}
