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

// wire is the connection to VPP's API socket below govpp. The one that govpp has
// tells nobody that VPP has hung up, so that a request waits for an answer until
// its time is over; this one does, by ended. A message on it follows a header
// that has its length (VPP's src/vlibmemory/socket_api.c).
type wire struct {
	conn    net.Conn
	in      *bufio.Reader
	index   uint32            // of this client, VPP's
	ids     map[string]uint16 // numbers of the messages, by name and CRC
	receive adapter.MsgCallback
	writing sync.Mutex
	spoilt  bool // half a message was written; writing guards it
	reading sync.WaitGroup
	ended   context.Context // done when nothing comes any more; its cause says why
	end     context.CancelCauseFunc
}

// Numbers of the API socket.
const (
	wireHeader   = 16      // bytes: 8 unused, the length in 4, 4 unused (memory_shared.h, msgbuf_t)
	maxMessage   = 1 << 24 // bytes; a table of messages, the longest of all, has some hundred thousand
	createNumber = 15      // of sockclnt_create, which introduces a client that knows no numbers yet
)

// byeTimeout bounds the wait for VPP's answer to a goodbye.
const byeTimeout = 100 * time.Millisecond

// openWire connects and introduces the client. Connecting to a unix socket does
// not wait; VPP's answer is waited for until ctx is done.
func openWire(ctx context.Context, socket string) (*wire, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: conn, in: bufio.NewReader(conn), receive: func(uint16, []byte) {}}
	w.ended, w.end = context.WithCancelCause(context.Background())
	giveUp := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = w.introduce()
	if !giveUp() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return w, nil
}

// introduce makes the connection a client of VPP's and learns the messages.
func (w *wire) introduce() error {
	data, err := codec.DefaultCodec.EncodeMsg(&memclnt.SockclntCreate{Name: "plexus"}, createNumber)
	if err == nil {
		err = w.write(data)
	}
	if err == nil {
		data, err = w.next()
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
	w.index, w.ids = reply.Index, make(map[string]uint16, len(reply.MessageTable))
	for _, m := range reply.MessageTable {
		name, _, _ := strings.Cut(m.Name, "\x00")
		w.ids[name] = m.Index
	}
	return nil
}

// next is the next message, without its header.
func (w *wire) next() ([]byte, error) {
	var header [wireHeader]byte
	if _, err := io.ReadFull(w.in, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[8:])
	if size < 6 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes is none", size)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(w.in, data)
	return data, err
}

// write sends a message. A VPP that takes none for replyTimeout hangs. Nothing is sent
// over a connection that has ended; the error is core.ErrNotConnected then.
func (w *wire) write(data []byte) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if cause := context.Cause(w.ended); cause != nil {
		return fmt.Errorf("%w: %w", core.ErrNotConnected, cause)
	}
	err := w.frame(data, replyTimeout)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = endpoint.SilentError{Limit: replyTimeout}
	}
	if err != nil {
		w.end(err)
	}
	return err
}

// frame writes a message behind its header. Half a message spoils the connection.
// The caller holds writing.
func (w *wire) frame(data []byte, limit time.Duration) error {
	if w.spoilt {
		return net.ErrClosed
	}
	framed := make([]byte, wireHeader, wireHeader+len(data))
	binary.BigEndian.PutUint32(framed[8:], uint32(len(data)))
	_ = w.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := w.conn.Write(append(framed, data...))
	w.spoilt = err != nil && n > 0
	return err
}

// goodbye tells VPP that the client goes: it keeps what it has of one that only goes
// (see vpps.close).
func (w *wire) goodbye() error {
	bye := &memclnt.SockclntDelete{Index: w.index}
	id, err := w.GetMsgID(bye.GetMessageName(), bye.GetCrcString())
	if err != nil {
		return err
	}
	data, err := codec.DefaultCodec.EncodeMsg(bye, id)
	if err != nil {
		return err
	}
	w.address(0, data)
	w.writing.Lock()
	defer w.writing.Unlock()
	return w.frame(data, byeTimeout)
}

// abandon ends the connection to a VPP that does not answer. VPP reads the goodbye when
// it goes on.
func (w *wire) abandon(cause error) {
	if w.ended.Err() == nil {
		w.end(cause)
		_ = w.conn.SetWriteDeadline(time.Now()) // of a request that VPP does not take
		_ = w.goodbye()
	}
	_ = w.conn.Close()
}

// Connect begins to read: openWire has connected.
func (w *wire) Connect() error {
	w.reading.Go(func() {
		bye, errBye := w.GetMsgID((&memclnt.SockclntDeleteReply{}).GetMessageName(), (&memclnt.SockclntDeleteReply{}).GetCrcString())
		for {
			data, err := w.next()
			if err != nil {
				w.end(err)
				return
			}
			id := binary.BigEndian.Uint16(data)
			if errBye == nil && id == bye {
				w.end(net.ErrClosed)
				return
			}
			w.receive(id, data)
		}
	})
	return nil
}

// Disconnect says goodbye and returns when nothing is read any more.
func (w *wire) Disconnect() error {
	var err error
	if w.ended.Err() == nil {
		if err = w.goodbye(); err == nil {
			select {
			case <-w.ended.Done():
			case <-time.After(byeTimeout):
			}
		}
	}
	err = errors.Join(err, w.conn.Close())
	w.reading.Wait()
	w.end(net.ErrClosed)
	return err
}

// GetMsgID is the number that VPP has given a message.
func (w *wire) GetMsgID(name, crc string) (uint16, error) {
	if id, ok := w.ids[name+"_"+crc]; ok {
		return id, nil
	}
	return 0, &adapter.UnknownMsgError{MsgName: name, MsgCrc: crc}
}

// SendMsg sends a request: the number of the message, which is there already, the
// client's and the request's.
func (w *wire) SendMsg(request uint32, data []byte) error {
	if len(data) < 10 {
		return fmt.Errorf("a request of %d bytes is none", len(data))
	}
	w.address(request, data)
	return w.write(data)
}

func (w *wire) address(request uint32, data []byte) {
	binary.BigEndian.PutUint32(data[2:], w.index)
	binary.BigEndian.PutUint32(data[6:], request)
}

// SetMsgCallback says who gets what VPP sends, before Connect.
func (w *wire) SetMsgCallback(receive adapter.MsgCallback) { w.receive = receive }

// WaitReady does not wait: govpp asks for it only where it connects by itself.
func (w *wire) WaitReady() error { return nil }
