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
	"strings"
	"sync"
	"time"

	"go.fd.io/govpp/adapter"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/codec"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/endpoint"
)

// transport is the connection to VPP's API socket below govpp. That of govpp tells nobody
// when VPP hangs up: a request waits for its answer until its time is over. This one
// tells by done. A message follows a header that has its length (VPP's
// src/vlibmemory/socket_api.c).
type transport struct {
	conn    net.Conn
	in      *bufio.Reader
	index   uint32            // of this client, VPP's
	ids     map[string]uint16 // numbers of the messages, by name and CRC
	receive adapter.MsgCallback
	writing sync.Mutex
	broken  bool // half a message was written; writing guards it
	reading sync.WaitGroup
	done    context.Context // done when nothing comes any more; its cause says why
	stop    context.CancelCauseFunc
}

// Numbers of the API socket.
const (
	headerSize   = 16      // bytes: 8 unused, the length in 4, 4 unused (memory_shared.h, msgbuf_t)
	maxMessage   = 1 << 24 // bytes; a table of messages, the longest of all, has some hundred thousand
	createNumber = 15      // of sockclnt_create, which introduces a client that knows no numbers yet
)

// byeTimeout bounds the wait for VPP's answer to a goodbye.
const byeTimeout = 100 * time.Millisecond

// openTransport connects and introduces the client. Connecting to a unix socket does
// not wait; VPP has until ctx is done to answer.
func openTransport(ctx context.Context, socket string) (*transport, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	t := &transport{conn: conn, in: bufio.NewReader(conn), receive: func(uint16, []byte) {}}
	t.done, t.stop = context.WithCancelCause(context.Background())
	giveUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = t.introduce()
	if !giveUp() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// introduce makes the connection a client of VPP's and learns the messages.
func (t *transport) introduce() error {
	data, err := codec.DefaultCodec.EncodeMsg(&memclnt.SockclntCreate{Name: "plexus"}, createNumber)
	if err == nil {
		err = t.write(data)
	}
	if err == nil {
		data, err = t.next()
	}
	if err != nil {
		return fmt.Errorf("introduce to VPP: %w", err)
	}
	reply := &memclnt.SockclntCreateReply{}
	if err := codec.DefaultCodec.DecodeMsg(data, reply); err != nil {
		return fmt.Errorf("introduce to VPP: %w", err)
	}
	if reply.Response != 0 {
		return fmt.Errorf("introduce to VPP: it refuses (%d)", reply.Response)
	}
	t.index, t.ids = reply.Index, make(map[string]uint16, len(reply.MessageTable))
	for _, m := range reply.MessageTable {
		name, _, _ := strings.Cut(m.Name, "\x00")
		t.ids[name] = m.Index
	}
	return nil
}

// next is the next message, without its header.
func (t *transport) next() ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(t.in, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[8:])
	if size < 6 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is none", size)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(t.in, data)
	return data, err
}

// write sends a message. A VPP that takes none for replyTimeout hangs. Nothing is sent
// over a connection that has ended; the error is core.ErrNotConnected then.
func (t *transport) write(data []byte) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if cause := context.Cause(t.done); cause != nil {
		return fmt.Errorf("%w: %w", core.ErrNotConnected, cause)
	}
	err := t.frame(data, replyTimeout)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = endpoint.SilentError{Limit: replyTimeout}
	}
	if err != nil {
		t.stop(err)
	}
	return err
}

// frame writes a message behind its header. Half a message breaks the connection.
// The caller holds writing.
func (t *transport) frame(data []byte, limit time.Duration) error {
	if t.broken {
		return net.ErrClosed
	}
	framed := make([]byte, headerSize, headerSize+len(data))
	binary.BigEndian.PutUint32(framed[8:], uint32(len(data)))
	_ = t.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := t.conn.Write(append(framed, data...))
	t.broken = err != nil && n > 0
	return err
}

// goodbye tells VPP that the client goes. VPP keeps what it has of a client that goes
// without (see vpps.close).
func (t *transport) goodbye() error {
	bye := &memclnt.SockclntDelete{Index: t.index}
	id, err := t.GetMsgID(bye.GetMessageName(), bye.GetCrcString())
	if err != nil {
		return err
	}
	data, err := codec.DefaultCodec.EncodeMsg(bye, id)
	if err != nil {
		return err
	}
	t.address(0, data)
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.frame(data, byeTimeout)
}

// abandon ends the connection to a VPP that does not answer. VPP reads the goodbye when
// it goes on.
func (t *transport) abandon(cause error) {
	if t.done.Err() == nil {
		t.stop(cause)
		_ = t.conn.SetWriteDeadline(time.Now()) // of a request that VPP does not take
		_ = t.goodbye()
	}
	_ = t.conn.Close()
}

// Connect begins to read: openTransport has connected.
func (t *transport) Connect() error {
	t.reading.Go(func() {
		bye, errBye := t.GetMsgID((&memclnt.SockclntDeleteReply{}).GetMessageName(), (&memclnt.SockclntDeleteReply{}).GetCrcString())
		for {
			data, err := t.next()
			if err != nil {
				t.stop(err)
				return
			}
			id := binary.BigEndian.Uint16(data)
			if errBye == nil && id == bye {
				t.stop(net.ErrClosed)
				return
			}
			t.receive(id, data)
		}
	})
	return nil
}

// Disconnect says goodbye and returns when nothing is read any more.
func (t *transport) Disconnect() error {
	var err error
	if t.done.Err() == nil {
		if err = t.goodbye(); err == nil {
			select {
			case <-t.done.Done():
			case <-time.After(byeTimeout):
			}
		}
	}
	err = errors.Join(err, t.conn.Close())
	t.reading.Wait()
	t.stop(net.ErrClosed)
	return err
}

// GetMsgID is the number that VPP has given a message.
func (t *transport) GetMsgID(name, crc string) (uint16, error) {
	if id, ok := t.ids[name+"_"+crc]; ok {
		return id, nil
	}
	return 0, &adapter.UnknownMsgError{MsgName: name, MsgCrc: crc}
}

// SendMsg sends a request. data begins with the number of the message; the numbers of the
// client and of the request follow.
func (t *transport) SendMsg(request uint32, data []byte) error {
	if len(data) < 10 {
		return fmt.Errorf("a request of %d bytes is none", len(data))
	}
	t.address(request, data)
	return t.write(data)
}

func (t *transport) address(request uint32, data []byte) {
	binary.BigEndian.PutUint32(data[2:], t.index)
	binary.BigEndian.PutUint32(data[6:], request)
}

// SetMsgCallback sets the receiver of VPP's messages, before Connect.
func (t *transport) SetMsgCallback(receive adapter.MsgCallback) { t.receive = receive }

// WaitReady does not wait: govpp calls it only where it connects by itself.
func (t *transport) WaitReady() error { return nil }
