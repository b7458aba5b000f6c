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

	"github.com/plexus-cni/plexus/endpoint"
)

// Bounds of what a server may send. Answers to the requests of plexus have kilobytes.
const (
	maxMessage  = 64 << 20 // bytes of one message
	maxElements = 1 << 19  // of one message, which take 300 bytes of memory each
	maxDepth    = 32       // of one message; a set in a row has 8
	maxQuote    = 200      // bytes of a message that an error may quote

	maxEcho   = 4 << 10 // bytes of an echo's params; ovsdb-server's has none
	maxEchoes = 16      // echoes without an answer, because the server does not read
)

// conn is a connection to an OVSDB server, in JSON-RPC 1.0 (RFC 7047, section 4). It
// carries requests of many goroutines at once, and answers the server's echo. A message
// that makes no sense ends the connection and all requests, with an error that says why.
type conn struct {
	stream net.Conn
	out    chan *request   // unbuffered: a request that is received is written, or fails
	echoes chan []byte     // answers to the server's echo
	ended  context.Context // done when the connection has ended; its cause says why
	end    context.CancelCauseFunc
	notify notifier

	mu      sync.Mutex
	last    uint64
	pending map[uint64]*request // by ID; a request that its caller gave up stays until its answer comes
}

// request is a request to the server.
type request struct {
	text   []byte
	answer chan rpcMessage // of one message: nobody may wait for it any more
	sent   chan struct{}   // closed when text is written, or err is set
	err    error           // of the write
}

// rpcMessage is any message of JSON-RPC 1.0. A key that is null means the same as none.
type rpcMessage struct {
	ID     json.RawMessage `json:"id"`
	Method *string         `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// errUnsent marks the error of a request that the server cannot have seen.
var errUnsent = errors.New("nothing was sent")

// notifier is called with each notification of a server (RFC 7047, 4.1.6), by the goroutine
// that reads. Its error ends the connection.
type notifier func(method string, params json.RawMessage) error

// newConn takes over a stream to a server. notify may be nil.
func newConn(stream net.Conn, notify notifier) *conn {
	c := &conn{
		stream: stream, notify: notify, out: make(chan *request), echoes: make(chan []byte, maxEchoes), pending: map[uint64]*request{},
	}
	c.ended, c.end = context.WithCancelCause(context.Background())
	go c.write()
	go c.read()
	return c
}

// Close ends the connection, unless it has ended. Requests under way fail with the cause.
func (c *conn) Close(cause error) {
	c.end(cause)
	_ = c.stream.Close() // nothing that was sent or received depends on it
}

// Ended reports whether either side has ended the connection.
func (c *conn) Ended() bool { return c.ended.Err() != nil }

// call makes a request and returns the result. When ctx is done first the answer is
// ignored, and the connection stays. An error with errUnsent says that the connection had
// ended before.
func (c *conn) call(ctx context.Context, method string, params ...any) (json.RawMessage, error) {
	r, id, err := c.newRequest(method, params)
	if err != nil {
		return nil, err
	}
	select {
	case c.out <- r:
	case <-c.ended.Done():
		return nil, fmt.Errorf("%w: %w", errUnsent, context.Cause(c.ended))
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return nil, ctx.Err()
	}
	select {
	case m := <-r.answer:
		return m.outcome()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.ended.Done():
	}
	// The server ignores a message that is not complete.
	if <-r.sent; r.err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsent, r.err)
	}
	select {
	case m := <-r.answer: // it was the last
		return m.outcome()
	default:
		return nil, context.Cause(c.ended)
	}
}

func (c *conn) newRequest(method string, params []any) (*request, uint64, error) {
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
	r := &request{text: text, answer: make(chan rpcMessage, 1), sent: make(chan struct{})}
	c.pending[c.last] = r
	return r, c.last, nil
}

// measure refuses a message that would take far more memory than it has bytes.
func (m rpcMessage) measure() error {
	elements, depth := 0, 0
	for _, raw := range []json.RawMessage{m.ID, m.Params, m.Result, m.Error} {
		text := false
		for i := 0; i < len(raw); i++ {
			switch b := raw[i]; {
			case b == '"':
				text = !text
			case text && b == '\\':
				i++
			case text:
			case b == ',':
				elements++
			case b == '[', b == '{':
				elements, depth = elements+1, depth+1
			case b == ']', b == '}':
				depth--
			}
			if elements > maxElements || depth > maxDepth {
				return fmt.Errorf("it sent a message of more than %d elements, or deeper than %d", maxElements, maxDepth)
			}
		}
	}
	return nil
}

// pulse asks a server all the time until the connection ends. beat is called with nil for each
// answer, and with a SilentError when there is none in time.
func (c *conn) pulse(method string, beat func(error)) {
	for !c.Ended() {
		_, err := endpoint.Late(endpoint.PulseLimit, beat, func() error {
			_, err := c.call(c.ended, method)
			return err
		})
		if err == nil {
			beat(nil)
		}
		pause(c.ended, endpoint.Pulse)
	}
}

func (c *conn) write() {
	for {
		var err error
		select {
		case r := <-c.out:
			_, r.err = c.stream.Write(r.text)
			close(r.sent)
			err = r.err
		case text := <-c.echoes:
			_, err = c.stream.Write(text)
		case <-c.ended.Done():
			return
		}
		if err != nil {
			c.Close(err)
		}
	}
}

// read reads messages until one makes no sense.
func (c *conn) read() {
	in := &io.LimitedReader{R: c.stream}
	decoder := json.NewDecoder(in)
	for {
		in.N = maxMessage
		var m rpcMessage
		err := decoder.Decode(&m)
		switch {
		case err != nil && in.N <= 0:
			err = fmt.Errorf("read a message: it is longer than %d bytes", maxMessage)
		case errors.Is(err, io.EOF):
			err = errors.New("it closed the connection")
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = errors.New("it closed the connection within a message")
		case err != nil:
			err = fmt.Errorf("read a message: %.*s", maxQuote, err)
		default:
			if err = m.measure(); err == nil {
				err = c.handle(m)
			}
		}
		if err != nil {
			c.Close(err)
			return
		}
	}
}

// handle handles a message. An error ends the connection.
func (c *conn) handle(m rpcMessage) error {
	switch {
	case m.Method == nil && absent(m.ID):
		return errors.New("it sent a message with neither method nor id")
	case m.Method == nil:
		return c.deliver(m)
	case absent(m.ID) && c.notify == nil:
		return nil
	case absent(m.ID):
		return c.notify(*m.Method, m.Params)
	case *m.Method == "echo":
		return c.reply(m.ID, m.Params, nil)
	default:
		return c.reply(m.ID, nil, "unknown method") // ovsdb-server's own words for it
	}
}

// deliver hands an answer to its request.
func (c *conn) deliver(m rpcMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := strconv.ParseUint(string(m.ID), 10, 64)
	r := c.pending[id]
	if err != nil || r == nil {
		return fmt.Errorf("it answered what was not asked: id %.40s", m.ID)
	}
	delete(c.pending, id)
	r.answer <- m
	return nil
}

// reply answers the server. It does not wait: the server may read nothing before its own
// message is read.
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

// outcome is the result, or the server's error about the whole request: a string, or an
// object with error and details (RFC 7047, 3.1).
func (m rpcMessage) outcome() (json.RawMessage, error) {
	if absent(m.Error) {
		return m.Result, nil
	}
	var e struct{ Error, Details string }
	if json.Unmarshal(m.Error, &e) == nil && e.Error != "" {
		return nil, fmt.Errorf("it answered %.200s: %.1000s", e.Error, e.Details)
	}
	return nil, fmt.Errorf("it answered %.1000s", m.Error)
}
