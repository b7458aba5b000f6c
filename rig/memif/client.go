package memif

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// softwareName is how this package calls itself to its peers.
const softwareName = "plexus e2e"

// retry is the time between two attempts of a client to connect.
const retry = 20 * time.Millisecond

// answerLimit is how long a client waits for an answer of a server.
const answerLimit = 5 * time.Second

// Connect opens the client of a memif. It connects as soon as there is a server
// at the socket, and again whenever it has lost it, until it is closed. Sockets
// are named as for Listen.
func Connect(socket string, c Config) (*Interface, error) {
	a, err := parseAddress(socket)
	if err != nil {
		return nil, err
	}
	i, err := newInterface(c)
	if err != nil {
		return nil, err
	}
	set := func(v *int, otherwise int) {
		if *v == 0 {
			*v = otherwise
		}
	}
	set(&i.config.Queues, 1)
	set(&i.config.RingSize, 1024)
	set(&i.config.BufferSize, 2048)
	if n := i.config.RingSize; n < 0 || n&(n-1) != 0 || n > 1<<maxLog2Ring {
		return nil, fmt.Errorf("connect memif %d to %s: ring size %d is no power of two up to %d", c.ID, a, n, 1<<maxLog2Ring)
	}
	i.work.Add(1)
	go i.keepConnected(a)
	return i, nil
}

func (i *Interface) keepConnected(a address) {
	defer i.work.Done()
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		if conn, err := a.dial(); err == nil {
			l := newLink(channel{conn}, i.receive)
			if err := i.attach(l); err != nil {
				l.shut("")
				return
			}
			err := i.introduce(l)
			if err == nil {
				err = i.converse(l) // it only waits for the end
			}
			i.drop(l, reason(err))
		}
		select {
		case <-i.done:
			return
		case <-tick.C:
		}
	}
}

// introduce makes the connection over a new link.
func (i *Interface) introduce(l *link) error {
	_ = l.conn.SetReadDeadline(time.Now().Add(answerLimit))
	m, err := l.expect(msgHello)
	if err != nil {
		return err
	}
	h := decodeHello(m)
	if h.minVersion > version || h.maxVersion < version {
		return fmt.Errorf("the server speaks versions %#x to %#x", h.minVersion, h.maxVersion)
	}
	c := i.config
	queues := min(c.Queues, int(h.maxS2M)+1, int(h.maxM2S)+1)
	log2Size := min(uint8(bits.TrailingZeros(uint(c.RingSize))), h.maxLog2RingSize)

	if err := l.ask(initiation{version, c.ID, c.Mode, c.Secret}.encode(softwareName), -1); err != nil {
		return err
	}
	if err := l.layOut(queues, log2Size, c.BufferSize); err != nil {
		return err
	}
	if c.ZeroCopy {
		if err := l.share(1 << 20); err != nil {
			return err
		}
	}
	connect := newMessage(msgConnect)
	connect.put(2, nameSize, c.Name)
	if err := l.channel.send(connect, -1); err != nil {
		return err
	}
	if _, err := l.expect(msgConnected); err != nil {
		return err
	}
	for _, r := range l.rx { // DPDK's net_memif takes them back when it connects, and VPP posts them again
		r.setHead(r.size)
	}
	_ = l.conn.SetReadDeadline(time.Time{})
	return i.raise(l)
}

// layOut makes the shared memory of a client and announces it: the rings of all
// queues, then their buffers.
func (l *link) layOut(queues int, log2Size uint8, bufferSize int) error {
	ringSize, rings := int(ringBytes(log2Size)), 2*queues
	buffers := (rings*ringSize + 4095) &^ 4095
	r, err := newRegion(buffers + rings*bufferSize<<log2Size)
	if err != nil {
		return err
	}
	if err := l.announce(r); err != nil {
		return err
	}
	for n := range rings {
		m := ringMessage{s2m: n < queues, index: uint16(n % queues), offset: uint32(n * ringSize), log2Size: log2Size}
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("make eventfd: %w", err)
		}
		event, err := eventFile(fd)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(r.data[m.offset:], cookie)
		added, err := l.addRing(false, m, event)
		if err != nil {
			return err
		}
		added.buffer = bufferSize
		for slot := range added.size {
			d := added.descriptor(slot)
			at := buffers + (n<<log2Size+int(slot))*bufferSize
			binary.LittleEndian.PutUint32(d[descLengthAt:], uint32(bufferSize))
			binary.LittleEndian.PutUint32(d[descOffsetAt:], uint32(at))
		}
		if !m.s2m {
			added.setHead(added.size) // all of them may be filled
		}
		if err := l.ask(m.encode(), fd); err != nil {
			return err
		}
	}
	return nil
}

// share makes more shared memory for the server.
func (l *link) share(size int) error {
	r, err := newRegion(size)
	if err != nil {
		return err
	}
	return l.announce(r)
}

// announce gives the server the next region.
func (l *link) announce(r *region) error {
	m := newMessage(msgAddRegion)
	m.put16(2, uint16(len(l.regions)))
	m.put64(4, uint64(len(r.data)))
	l.regions = append(l.regions, r)
	return l.ask(m, r.fd)
}

// ask sends a message and waits until it is acknowledged.
func (l *link) ask(m *message, fd int) error {
	if err := l.channel.send(m, fd); err != nil {
		return err
	}
	_, err := l.expect(msgAck)
	return err
}

// expect receives a message of a kind.
func (l *link) expect(kind uint16) (*message, error) {
	m, fd, err := l.channel.receive()
	if err != nil {
		return nil, err
	}
	closeFD(fd)
	if m.kind() != kind {
		return nil, fmt.Errorf("message %d where %d is due", m.kind(), kind)
	}
	return m, nil
}
