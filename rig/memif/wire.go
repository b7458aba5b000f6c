package memif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// version is the version of the protocol, major in the high byte.
const version = 2 << 8

// messageSize is the length of every control message, in bytes.
const messageSize = 128

// Types of control messages.
const (
	msgAck        = 1
	msgHello      = 2
	msgInit       = 3
	msgAddRegion  = 4
	msgAddRing    = 5
	msgConnect    = 6
	msgConnected  = 7
	msgDisconnect = 8
)

// Sizes of text fields, with the terminating NUL.
const (
	nameSize   = 32
	secretSize = 24
	reasonSize = 96
)

// message is a control message. Integers are little-endian and not aligned.
type message [messageSize]byte

func newMessage(kind uint16) *message {
	var m message
	m.put16(0, kind)
	return &m
}

func (m *message) kind() uint16               { return m.get16(0) }
func (m *message) get16(at int) uint16        { return binary.LittleEndian.Uint16(m[at:]) }
func (m *message) get32(at int) uint32        { return binary.LittleEndian.Uint32(m[at:]) }
func (m *message) get64(at int) uint64        { return binary.LittleEndian.Uint64(m[at:]) }
func (m *message) put16(at int, v uint16)     { binary.LittleEndian.PutUint16(m[at:], v) }
func (m *message) put32(at int, v uint32)     { binary.LittleEndian.PutUint32(m[at:], v) }
func (m *message) put64(at int, v uint64)     { binary.LittleEndian.PutUint64(m[at:], v) }
func (m *message) put(at, size int, s string) { copy(m[at:at+size-1], s) }

// text is a field of size bytes that ends at its first NUL.
func (m *message) text(at, size int) string {
	b := m[at : at+size]
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b)
}

// hello is what a server says first: the highest indices it takes.
type hello struct {
	minVersion, maxVersion    uint16
	maxRegion, maxM2S, maxS2M uint16
	maxLog2RingSize           uint8
}

func (h hello) encode(name string) *message {
	m := newMessage(msgHello)
	m.put(2, nameSize, name)
	m.put16(34, h.minVersion)
	m.put16(36, h.maxVersion)
	m.put16(38, h.maxRegion)
	m.put16(40, h.maxM2S)
	m.put16(42, h.maxS2M)
	m[44] = h.maxLog2RingSize
	return m
}

func decodeHello(m *message) hello {
	return hello{m.get16(34), m.get16(36), m.get16(38), m.get16(40), m.get16(42), m[44]}
}

// initiation is what a client says first: which interface it is for.
type initiation struct {
	version uint16
	id      uint32
	mode    Mode
	secret  string
}

func (i initiation) encode(name string) *message {
	m := newMessage(msgInit)
	m.put16(2, i.version)
	m.put32(4, i.id)
	m[8] = byte(i.mode)
	m.put(9, secretSize, i.secret)
	m.put(9+secretSize, nameSize, name)
	return m
}

func decodeInit(m *message) initiation {
	return initiation{version: m.get16(2), id: m.get32(4), mode: Mode(m[8]), secret: m.text(9, secretSize)}
}

// ringMessage announces a ring of the client.
type ringMessage struct {
	s2m        bool // the client sends on it
	index      uint16
	region     uint16
	offset     uint32 // of the ring in its region, in bytes
	log2Size   uint8
	headerSize uint16 // private bytes before each frame
}

func (r ringMessage) encode() *message {
	m := newMessage(msgAddRing)
	if r.s2m {
		m.put16(2, 1)
	}
	m.put16(4, r.index)
	m.put16(6, r.region)
	m.put32(8, r.offset)
	m[12] = r.log2Size
	m.put16(13, r.headerSize)
	return m
}

func decodeRing(m *message) ringMessage {
	return ringMessage{m.get16(2)&1 != 0, m.get16(4), m.get16(6), m.get32(8), m[12], m.get16(13)}
}

// channel carries control messages.
type channel struct{ conn *net.UnixConn }

// sendLimit ends the sending of a control message to a peer that does not read.
const sendLimit = 2 * time.Second

// send sends m, with a file descriptor unless fd is negative.
func (c channel) send(m *message, fd int) error {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(sendLimit))
	if _, _, err := c.conn.WriteMsgUnix(m[:], oob, nil); err != nil {
		return fmt.Errorf("send control message %d: %w", m.kind(), err)
	}
	return nil
}

// disconnect tells the peer why the connection ends.
func (c channel) disconnect(reason string) {
	m := newMessage(msgDisconnect)
	m.put(6, reasonSize, reason)
	_ = c.send(m, -1) // it may be gone already
}

// errDisconnect is the error of receive when the peer ends the connection.
var errDisconnect = errors.New("the peer disconnects")

// receive returns the next message and its file descriptor, -1 if it has none.
func (c channel) receive() (*message, int, error) {
	var m message
	oob := make([]byte, 256)
	n, oobn, _, _, err := c.conn.ReadMsgUnix(m[:], oob)
	if err != nil {
		return nil, -1, fmt.Errorf("receive control message: %w", err)
	}
	fd, err := descriptor(oob[:oobn])
	switch {
	case err != nil:
		return nil, -1, fmt.Errorf("receive control message %d: %w", m.kind(), err)
	case n != messageSize:
		closeFD(fd)
		return nil, -1, fmt.Errorf("receive control message: it has %d bytes", n)
	case m.kind() == msgDisconnect:
		closeFD(fd)
		return nil, -1, fmt.Errorf("%w: %s", errDisconnect, m.text(6, reasonSize))
	}
	return &m, fd, nil
}

// descriptor returns the first file descriptor in control data and closes any
// other; -1 if there is none.
func descriptor(oob []byte) (int, error) {
	found := -1
	if len(oob) == 0 {
		return found, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return found, fmt.Errorf("parse control data: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials
		}
		for _, fd := range fds {
			if found < 0 {
				found = fd
			} else {
				closeFD(fd)
			}
		}
	}
	return found, nil
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
