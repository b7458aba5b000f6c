package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

// What a server may send. Its answers to what plexus asks have kilobytes.
const (
	maxMessage = 64 << 20 // bytes of one message
	maxEcho    = 4 << 10  // bytes of an echo's params; ovsdb-server's has none
	maxEchoes  = 16       // unanswered, because the server does not read
)

// conn is a connection to an OVSDB server, in JSON-RPC 1.0 as RFC 7047, section
// 4, has it. Requests of many goroutines are under way on it at once; the
// server's echo is answered. Whatever the server sends that makes no sense ends
// the connection, and with it all requests, with an error that says why. Depth
// is bounded by the types that messages are decoded into, and by
// encoding/json where it skips (10000).
type conn struct {
	stream net.Conn
	out    chan *request // unbuffered: what is taken will be written, or fail
	echoes chan []byte   // answers to the server's echo
	done   chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	err     error // why it has ended
	last    uint64
	waiting map[uint64]*request // by ID; those given up too, until they are answered
}

// request is what is asked of the server.
type request struct {
	text    []byte
	answer  chan rpcMessage // has room for the answer, if anybody waits for it or not
	written chan struct{}   // closed when text is written, or could not be
	err     error           // why it could not
}

// rpcMessage is any message of JSON-RPC 1.0; null is as good as absent.
type rpcMessage struct {
	ID     json.RawMessage `json:"id"`
	Method *string         `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// errUnsent is in the error of a request that the server cannot have seen.
var errUnsent = errors.New("nothing was sent")

// newConn takes over a stream to a server.
func newConn(stream net.Conn) *conn {
	c := &conn{
		stream: stream, out: make(chan *request), echoes: make(chan []byte, maxEchoes), done: make(chan struct{}),
		waiting: map[uint64]*request{},
	}
	go c.write()
	go c.read()
	return c
}

// end ends the connection, once.
func (c *conn) end(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = why
	_ = c.stream.Close() // nothing that was sent or received depends on it
	close(c.done)
}

// Ended reports whether either side has ended the connection.
func (c *conn) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Close ends the connection. Calls under way fail with the cause.
func (c *conn) Close(cause error) { c.end(cause) }

// call asks the server and returns the result. When ctx is done first the
// answer is thrown away as it comes, and the connection is as good as before.
// An error with errUnsent in it says that the connection was gone already.
func (c *conn) call(ctx context.Context, method string, params ...any) (json.RawMessage, error) {
	r, id, err := c.enrol(method, params)
	if err != nil {
		return nil, err
	}
	select {
	case c.out <- r:
	case <-c.done:
		return nil, fmt.Errorf("%w: %w", errUnsent, c.err)
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
		return nil, ctx.Err()
	}
	select {
	case m := <-r.answer:
		return m.outcome()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
	}
	// A message that is not written whole is none to the server.
	if <-r.written; r.err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, r.err)
	}
	select {
	case m := <-r.answer: // it was the last
		return m.outcome()
	default:
		return nil, c.err
	}
}

func (c *conn) enrol(method string, params []any) (*request, uint64, error) {
	if params == nil {
		params = []any{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := json.Marshal(map[string]any{"id": c.last + 1, "method": method, "params": params})
	if err != nil {
		return nil, 0, fmt.Errorf("write %s for OVSDB: %w", method, err)
	}
	c.last++
	r := &request{text: text, answer: make(chan rpcMessage, 1), written: make(chan struct{})}
	c.waiting[c.last] = r
	return r, c.last, nil
}

func (c *conn) write() {
	for {
		var err error
		select {
		case r := <-c.out:
			_, r.err = c.stream.Write(r.text)
			close(r.written)
			err = r.err
		case text := <-c.echoes:
			_, err = c.stream.Write(text)
		case <-c.done:
			return
		}
		if err != nil {
			c.end(err)
		}
	}
}

// read takes messages until one is not to be understood.
func (c *conn) read() {
	in := &limited{from: c.stream}
	decoder := json.NewDecoder(in)
	for {
		in.left = maxMessage
		var m rpcMessage
		err := decoder.Decode(&m)
		switch {
		case errors.Is(err, io.EOF):
			err = errors.New("it closed the connection")
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = errors.New("it closed the connection within a message")
		case err != nil:
			err = fmt.Errorf("read a message: %w", err)
		default:
			err = c.take(m)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// take is what to do with a message. Its errors end the connection.
func (c *conn) take(m rpcMessage) error {
	switch {
	case m.Method == nil && absent(m.ID):
		return errors.New("it sent a message with neither method nor id")
	case m.Method == nil:
		return c.deliver(m)
	case absent(m.ID):
		return nil // a notification, and there is none that was asked for
	case *m.Method == "echo":
		return c.reply(m.ID, m.Params, nil)
	default:
		return c.reply(m.ID, nil, "unknown method") // ovsdb-server's own words for it
	}
}

// deliver hands an answer to who waits for it.
func (c *conn) deliver(m rpcMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	r := c.waiting[id]
	if err != nil || r == nil {
		return fmt.Errorf("it answered what was not asked: id %.40s", m.ID)
	}
	delete(c.waiting, id)
	r.answer <- m
	return nil
}

// reply answers the server. It waits for nothing: the server may not read
// before it has written.
func (c *conn) reply(id, result json.RawMessage, problem any) error {
	if len(id)+len(result) > maxEcho {
		return fmt.Errorf("it asked with %d bytes, at most %d are taken", len(id)+len(result), maxEcho)
	}
	text, err := json.Marshal(map[string]any{"id": id, "result": result, "error": problem})
	if err != nil {
		return err
	}
	select {
	case c.echoes <- text:
		return nil
	default:
		return fmt.Errorf("it asked %d times and took no answer", maxEchoes)
	}
}

// outcome is the result, or what the server says is wrong with the request as a
// whole: a string, or an object with error and details (RFC 7047, 3.1).
func (m rpcMessage) outcome() (json.RawMessage, error) {
	if absent(m.Error) {
		return m.Result, nil
	}
	var said struct{ Error, Details string }
	if json.Unmarshal(m.Error, &said) == nil && said.Error != "" {
		return nil, fmt.Errorf("it answered %.200s: %.1000s", said.Error, said.Details)
	}
	return nil, fmt.Errorf("it answered %.1000s", m.Error)
}

// limited lets left bytes through, and then fails.
type limited struct {
	from io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("it is longer than %d bytes", maxMessage)
	}
	n, err := l.from.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
