package standin

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"go.fd.io/govpp/api"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/memclnt"
	"go.fd.io/govpp/codec"
)

// headerSize is what precedes each message on the API socket: eight bytes
// without meaning to the other side, the length in four, and four more unused.
const headerSize = 16

// maxMessage ends a connection that sends nonsense, in bytes.
const maxMessage = 1 << 20

// client is a connection to the API socket.
type client struct {
	server *Server
	conn   *net.UnixConn
	index  uint32
	name   string // of the client, once it has told; only used by serve
	events bool   // guarded by Server.mu
	pid    uint32 // what events carry, guarded by Server.mu

	mu     sync.Mutex
	queue  [][]byte
	more   *sync.Cond
	closed bool // nothing is queued any more
}

func newClient(s *Server, conn *net.UnixConn, index uint32) *client {
	c := &client{server: s, conn: conn, index: index}
	c.more = sync.NewCond(&c.mu)
	return c
}

// serve handles the requests of the client to the end of its connection.
func (c *client) serve() {
	defer c.close()
	in := bufio.NewReader(c.conn)
	for {
		data, err := readMessage(in)
		if err != nil || !c.handle(data) {
			return
		}
	}
}

func readMessage(in io.Reader) ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(in, header[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[8:])
	if size < 2 || size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	data := make([]byte, size)
	_, err := io.ReadFull(in, data)
	return data, err
}

// handle acts on one request and tells whether the connection goes on. A number
// nobody was given is passed over, as VPP does.
func (c *client) handle(data []byte) bool {
	e := c.server.table.byID[binary.BigEndian.Uint16(data)]
	if e == nil || e.handle == nil {
		return true
	}
	request := e.message()
	at := contextAt(request)
	if len(data) < at+4 || codec.DecodeMsg(data, request) != nil {
		return true
	}
	context := binary.BigEndian.Uint32(data[at:])
	if m, ok := request.(*memclnt.SockclntCreate); ok {
		c.name = m.Name
	}
	fault := c.server.received(Message{Client: c.name, Name: e.name, Content: request})
	v := c.server.vswitch
	v.mu.Lock()
	var answers []api.Message
	if fault == nil || fault.Act {
		answers = e.handle(c, request)
	}
	events := v.takeEvents()
	v.mu.Unlock()
	end := Ending(-1)
	if fault != nil {
		end = fault.Ending
	}
	switch end {
	case Refuse:
		m, _ := e.refusal(fault.Retval) // it was tried when the fault was set
		answers = []api.Message{m}
	case Silence:
		answers = nil
	case Cut:
		return false
	case Die:
		go c.server.shut()
		return false
	}
	for _, m := range answers {
		c.send(m, context)
	}
	for _, event := range events {
		c.server.publish(event)
	}
	return true
}

// contextAt is where the context of a message is: after its number, and in a
// request after the client index.
func contextAt(m api.Message) int {
	if m.GetMessageType() == api.RequestMessage {
		return 6
	}
	return 2
}

// send queues an answer to the request with the context, or an event.
func (c *client) send(m api.Message, context uint32) {
	if event, ok := m.(*interfaces.SwInterfaceEvent); ok {
		copied := *event
		copied.PID = c.pid
		m, context = &copied, c.index
	}
	data, err := codec.EncodeMsg(m, c.server.table.byName[m.GetMessageName()].id)
	if err != nil {
		return // the stand-in makes no such messages
	}
	binary.BigEndian.PutUint32(data[contextAt(m):], context)
	framed := make([]byte, headerSize, headerSize+len(data))
	binary.BigEndian.PutUint32(framed[8:], uint32(len(data)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, append(framed, data...))
	c.more.Signal()
}

// write sends what is queued until the connection is closed.
func (c *client) write() {
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.closed {
			c.more.Wait()
		}
		queue := c.queue
		c.queue = nil
		closed := c.closed
		c.mu.Unlock()
		if closed {
			return
		}
		for _, data := range queue {
			if _, err := c.conn.Write(data); err != nil {
				return
			}
		}
	}
}

// close ends the connection.
func (c *client) close() {
	c.mu.Lock()
	c.closed = true
	c.more.Signal()
	c.mu.Unlock()
	_ = c.conn.Close()
}

// registerClients adds the messages about connections.
func (s *Server) registerClients() {
	t := s.table
	on(t, &memclnt.SockclntCreateReply{}, func(c *client, _ *memclnt.SockclntCreate) []api.Message {
		reply := &memclnt.SockclntCreateReply{Index: c.index}
		for _, e := range t.order {
			if e.crc != "" {
				reply.MessageTable = append(reply.MessageTable, memclnt.MessageTableEntry{Index: e.id, Name: e.name + "_" + e.crc})
			}
		}
		reply.Count = uint16(len(reply.MessageTable))
		return []api.Message{reply}
	})
	one(t, func(*memclnt.SockclntDelete) *memclnt.SockclntDeleteReply { return &memclnt.SockclntDeleteReply{} })
	on(t, &memclnt.ControlPingReply{}, func(c *client, _ *memclnt.ControlPing) []api.Message {
		return []api.Message{&memclnt.ControlPingReply{ClientIndex: c.index, VpePID: uint32(os.Getpid())}}
	})
	on(t, &interfaces.WantInterfaceEventsReply{}, func(c *client, m *interfaces.WantInterfaceEvents) []api.Message {
		s.mu.Lock()
		defer s.mu.Unlock()
		reply := &interfaces.WantInterfaceEventsReply{}
		if want := m.EnableDisable != 0; want == c.events {
			reply.Retval = int32(api.INVALID_REGISTRATION)
		} else {
			c.events, c.pid = want, m.PID
		}
		return []api.Message{reply}
	})
	t.add(&interfaces.SwInterfaceEvent{})
}

// event tells clients about an interface.
func event(i *iface, deleted bool) api.Message {
	flags := i.flags()
	if deleted {
		flags = 0
	}
	return &interfaces.SwInterfaceEvent{SwIfIndex: interface_types.InterfaceIndex(i.index), Flags: flags, Deleted: deleted}
}
