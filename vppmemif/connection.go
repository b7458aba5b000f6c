package vppmemif

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/codec"

	"github.com/plexus-cni/plexus/endpoint"
)

// connection is a client's connection to the API socket of a VPP. A message follows a header
// that has its length (VPP's src/vlibmemory/socket_api.c). govpp encodes and decodes the
// messages. Its own connection tells nobody when VPP hangs up, reads messages of any length,
// and drops an answer that finds 100 others unread.
type connection struct {
	conn    net.Conn
	in      *bufio.Reader
	index   uint32                 // of this client, VPP's
	ids     map[string]uint16      // numbers of the messages, by name and CRC
	types   map[uint16]api.Message // of the messages, by number
	writing sync.Mutex
	broken  bool // half of a write was written, or the goodbye; writing guards it
	reading sync.WaitGroup
	done    context.Context // done when nothing comes any more; its cause says why
	stop    context.CancelCauseFunc

	mu      sync.Mutex
	last    uint32             // number of a request
	waiting map[uint32]*answer // by the number of the request
}

// Numbers of the API socket.
const (
	headerSize   = 16      // bytes: 8 unused, the length in 4, 4 unused (memory_shared.h, msgbuf_t)
	maxMessage   = 1 << 24 // bytes; a table of messages, the longest of all, has some hundred thousand
	createNumber = 15      // of sockclnt_create, which introduces a client that knows no numbers yet
)

// byeTimeout bounds the wait for VPP's answer to a goodbye.
const byeTimeout = 100 * time.Millisecond

// errUnsent is the error of a request over a connection that had ended before.
var errUnsent = errors.New("the connection has ended")

// newConnection connects and introduces the client. Connecting to a unix socket does
// not wait; VPP has until ctx is done to answer.
func newConnection(ctx context.Context, socket string) (*connection, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &connection{conn: conn, in: bufio.NewReader(conn), waiting: map[uint32]*answer{}}
	c.done, c.stop = context.WithCancelCause(context.Background())
	giveUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = c.introduce()
	if !giveUp() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.reading.Go(c.read)
	return c, nil
}

// introduce makes the connection a client of VPP's and learns the messages.
func (c *connection) introduce() error {
	create, reply := &memclnt.SockclntCreate{Name: "plexus"}, &memclnt.SockclntCreateReply{}
	c.ids = map[string]uint16{nameOf(create): createNumber}
	data, err := c.frame(nil, create, 0)
	if err == nil {
		err = c.write(data, replyTimeout)
	}
	if err == nil {
		data, err = c.next()
	}
	if err == nil {
		err = codec.DecodeMsg(data, reply)
	}
	switch {
	case err != nil:
		return fmt.Errorf("introduce to VPP: %w", err)
	case reply.Response != 0:
		return fmt.Errorf("introduce to VPP: it refuses (%d)", reply.Response)
	}
	c.index, c.ids, c.types = reply.Index, make(map[string]uint16, len(reply.MessageTable)), map[uint16]api.Message{}
	for _, m := range reply.MessageTable {
		name, _, _ := strings.Cut(m.Name, "\x00")
		c.ids[name] = m.Index
	}
	for _, messages := range api.GetRegisteredMessages() {
		for name, m := range messages {
			if id, ok := c.ids[name]; ok {
				c.types[id] = m
			}
		}
	}
	return nil
}

// id is the number that VPP has given a message; ok is false for one that VPP does not know
// by name and CRC.
func (c *connection) id(m api.Message) (id uint16, ok bool) {
	id, ok = c.ids[nameOf(m)]
	return id, ok
}

// nameOf is how VPP's table calls a message.
func nameOf(m api.Message) string { return m.GetMessageName() + "_" + m.GetCrcString() }

// next is the next message, without its header.
func (c *connection) next() ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(c.in, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[8:])
	if size < 6 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is none", size)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(c.in, data)
	return data, err
}

// read gives the messages that come to the requests that wait for them, until the connection
// ends.
func (c *connection) read() {
	for {
		data, err := c.next()
		if err != nil {
			c.stop(err)
			return
		}
		prototype := c.types[binary.BigEndian.Uint16(data)]
		if _, bye := prototype.(*memclnt.SockclntDeleteReply); bye {
			c.stop(net.ErrClosed)
			return
		}
		number := binary.BigEndian.Uint32(data[2:])
		c.mu.Lock()
		if a := c.waiting[number]; a != nil && prototype != nil {
			message := reflect.New(reflect.TypeOf(prototype).Elem()).Interface().(api.Message)
			if a.add(message, codec.DecodeMsg(data, message)) {
				delete(c.waiting, number)
			}
		}
		c.mu.Unlock()
	}
}

// frame appends a request behind its header to others: the numbers of the message, of the
// client and of the request are first in it.
func (c *connection) frame(out []byte, m api.Message, number uint32) ([]byte, error) {
	id, ok := c.id(m)
	if !ok {
		return nil, fmt.Errorf("VPP does not know the message %s", m.GetMessageName())
	}
	data, err := codec.EncodeMsg(m, id)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(data[2:], c.index)
	binary.BigEndian.PutUint32(data[6:], number)
	out = binary.BigEndian.AppendUint32(append(out, make([]byte, headerSize/2)...), uint32(len(data)))
	out = append(out, make([]byte, headerSize/2-4)...)
	return append(out, data...), nil
}

// write writes requests, all at once. A VPP that does not take them within the limit hangs.
// The error is errUnsent when VPP has not got a byte of them. Half of them breaks the connection.
func (c *connection) write(requests []byte, limit time.Duration) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.broken {
		return errUnsent
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := c.conn.Write(requests)
	c.broken = err != nil && n > 0
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return endpoint.SilentError{Limit: limit}
	case n == 0 && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)):
		return fmt.Errorf("%w: %w", errUnsent, err)
	}
	return err
}

// goodbye tells VPP that the client goes. Nothing is sent behind it. VPP keeps what it has of
// a client that goes without (see Delegate.Close).
func (c *connection) goodbye() error {
	data, err := c.frame(nil, &memclnt.SockclntDelete{Index: c.index}, 0)
	if err == nil {
		err = c.write(data, byeTimeout)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.broken = true
	return err
}

// Ended reports whether VPP, or this process, has ended the connection.
func (c *connection) Ended() bool { return c.done.Err() != nil }

// Close ends the connection with all requests that wait over it, says goodbye, and returns
// when nothing is read any more. It does not wait for a VPP that does not answer: that one
// reads the goodbye when it goes on.
func (c *connection) Close(cause error) {
	if !c.Ended() {
		if errors.As(cause, &endpoint.SilentError{}) {
			c.stop(cause)
			_ = c.conn.SetWriteDeadline(time.Now()) // of a request that VPP does not take
		}
		if c.goodbye() == nil {
			select {
			case <-c.done.Done():
			case <-time.After(byeTimeout):
			}
		}
	}
	c.stop(cause)
	_ = c.conn.Close()
	c.reading.Wait()
}
