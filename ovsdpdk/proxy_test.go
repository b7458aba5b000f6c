package ovsdpdk

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fault is what the proxy does with one transact request.
type fault string

const (
	answerError   fault = "answer an error"
	answerObject  fault = "answer an error object" // as ovsdb-server writes its own
	answerRefusal fault = "answer an operation's error"
	answerShort   fault = "answer too few results"
	neverAnswer   fault = "never answer"
	cutBefore     fault = "cut before forwarding"
	cutAfter      fault = "cut after forwarding"
	hold          fault = "hold until letGo"
)

// injected stands in every error that the proxy answers.
const injected = "said the stand-in at the wire"

// proxy is a stand-in at the wire: it sits between the delegate and the real
// ovsdb-server, speaks JSON-RPC (RFC 7047, section 4) and misbehaves at the
// n-th transact. It stands in for ovs-vswitchd too: what the delegate waits for
// happens just before the wait is passed on.
type proxy struct {
	t       testing.TB
	server  string // path of ovsdb-server's socket
	address string

	mu       sync.Mutex
	requests []string // the operations of each transact
	at       int
	fault    fault
	hit      chan struct{} // closed when the fault has come
	held     chan struct{} // closed by letGo
	conns    []net.Conn
	opens    map[string]any // what the vswitch writes into an interface that is waited for, nil for nothing
}

// newProxy listens at path, or at a path of its own.
func newProxy(t testing.TB, server, path string) *proxy {
	t.Helper()
	if path == "" {
		path = filepath.Join(tempDir(t), "db.sock")
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, server: strings.TrimPrefix(server, "unix:"), address: "unix:" + path, opens: map[string]any{"ofport": 1}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			_ = c.Close()
		}
	})
	return p
}

// arm makes the n-th transact from now on fail; the channel is closed then.
// No fault makes the connection clean.
func (p *proxy) arm(n int, f fault) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests, p.at, p.fault, p.hit, p.held = nil, n, f, make(chan struct{}), make(chan struct{})
	return p.hit
}

// letGo passes on what is held.
func (p *proxy) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.held)
}

// seen are the transacts since arm, each as its operations.
func (p *proxy) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// count is how many of the transacts since arm have an operation.
func (p *proxy) count(operation string) (n int) {
	for _, transact := range p.seen() {
		if strings.Contains(transact, operation) {
			n++
		}
	}
	return n
}

// message is any JSON-RPC message.
type message struct {
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
	ID     json.RawMessage   `json:"id"`
}

// note counts a transact and tells its fault.
func (p *proxy) note(m message) fault {
	var text []string
	for _, raw := range m.Params[1:] {
		var op struct{ Op, Table string }
		if err := json.Unmarshal(raw, &op); err != nil {
			p.t.Errorf("operation %s: %v", raw, err)
		}
		text = append(text, op.Op+" "+op.Table)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, strings.Join(text, ", "))
	if p.fault == "" || len(p.requests) != p.at {
		return ""
	}
	close(p.hit)
	return p.fault
}

// serve passes messages both ways. The client is written to by the server's
// half alone, except for an answer in the server's place.
func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("unix", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	both := func() {
		_ = client.Close()
		_ = server.Close()
	}
	var mu sync.Mutex // writes to client, and lost
	lost := ""        // ID of the request whose answer is cut off
	answer := func(data []byte) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = client.Write(data)
	}
	go func() {
		defer both()
		for in := json.NewDecoder(server); ; {
			var raw json.RawMessage
			if in.Decode(&raw) != nil {
				return
			}
			var m message
			_ = json.Unmarshal(raw, &m) // a result has no method
			mu.Lock()
			cut := lost != "" && m.Method == "" && string(m.ID) == lost
			mu.Unlock()
			if cut {
				return
			}
			if string(m.ID) == standIn {
				continue
			}
			answer(raw)
		}
	}()
	defer both()
	for in := json.NewDecoder(client); ; {
		var raw json.RawMessage
		var m message
		if in.Decode(&raw) != nil || json.Unmarshal(raw, &m) != nil && m.Method != "" {
			return
		}
		f := fault("")
		if m.Method == "transact" {
			f = p.note(m)
			if _, err := server.Write(p.vswitchd(m)); err != nil {
				return
			}
		}
		switch f {
		case hold:
			p.mu.Lock()
			held := p.held
			p.mu.Unlock()
			<-held
		case neverAnswer:
			continue
		case cutBefore:
			return
		case cutAfter:
			mu.Lock()
			lost = string(m.ID)
			mu.Unlock()
		case answerError, answerObject, answerRefusal, answerShort:
			answer(reply(f, m))
			continue
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// standIn is the ID of the requests that are the stand-in's own.
const standIn = `"stand-in"`

// vswitchd does with the interfaces that a transact waits for what ovs-vswitchd
// would: it opens them, and listens where that is its side. It returns the
// request that says so to the server.
func (p *proxy) vswitchd(m message) []byte {
	p.mu.Lock()
	opens := p.opens
	p.mu.Unlock()
	params := []any{"Open_vSwitch"}
	for _, raw := range m.Params[1:] {
		var op struct {
			Op, Table string
			Where     [][]any
		}
		_ = json.Unmarshal(raw, &op) // an unlike value is no wait for a name
		if op.Op != "wait" || op.Table != "Interface" || op.Where[0][0] != "name" || opens == nil {
			continue
		}
		name, _ := op.Where[0][2].(string)
		listen(p.t, filepath.Join(filepath.Dir(strings.TrimPrefix(p.address, "unix:")), name))
		params = append(params, map[string]any{"op": "update", "table": "Interface", "where": op.Where, "row": opens})
	}
	if len(params) == 1 {
		return nil
	}
	data, err := json.Marshal(map[string]any{"id": json.RawMessage(standIn), "method": "transact", "params": params})
	if err != nil {
		panic(err)
	}
	return data
}

// listen makes a socket that lasts as long as the test.
func listen(t testing.TB, path string) {
	_ = os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Errorf("stand-in for the vswitch: %v", err)
		return
	}
	t.Cleanup(func() { _ = l.Close() })
}

// reply is the answer that a fault gives in the server's place.
func reply(f fault, m message) []byte {
	said := map[string]any{"error": "resources exhausted", "details": injected}
	body := map[string]any{"id": m.ID, "result": nil, "error": nil}
	switch f {
	case answerError:
		body["error"] = injected
	case answerObject:
		body["error"] = said
	case answerRefusal:
		results := make([]any, len(m.Params)-1)
		results[0] = said
		body["result"] = results
	case answerShort:
		body["result"] = []any{}
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(errors.Join(errors.New("stand-in at the wire"), err))
	}
	return data
}
