package memif

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// Listener is a socket with the servers that live on it.
type Listener struct {
	address  address
	listener *net.UnixListener

	mu     sync.Mutex
	ids    map[uint32]*Interface
	conns  map[*net.UnixConn]bool // not yet of an interface
	closed bool
	work   sync.WaitGroup
}

// Listen opens a socket: a path, or abstract:NAME[,netns_name=PATH] for a name
// in the abstract namespace of a network namespace, that of the caller if none
// is given. A socket file nobody listens at is replaced. It is an error if
// somebody listens there, if another file is in its place, if the folder is
// missing or the path is longer than MaxPath.
func Listen(socket string) (*Listener, error) {
	a, err := parseAddress(socket)
	if err != nil {
		return nil, err
	}
	l := &Listener{address: a, ids: map[uint32]*Interface{}, conns: map[*net.UnixConn]bool{}}
	if l.listener, err = a.listen(); err != nil {
		return nil, err
	}
	l.work.Add(1)
	go l.accept()
	return l, nil
}

// Open adds a server to the socket.
func (l *Listener) Open(c Config) (*Interface, error) {
	i, err := newInterface(c)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("open memif %d: socket %s is closed", c.ID, l.address)
	}
	if l.ids[c.ID] != nil {
		return nil, fmt.Errorf("open memif %d: socket %s has it already", c.ID, l.address)
	}
	l.ids[c.ID] = i
	i.release = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ids[c.ID] == i {
			delete(l.ids, c.ID)
		}
	}
	return i, nil
}

// Close closes the socket and the connections that belong to no interface yet;
// interfaces that are still open have to be closed on their own. The socket file
// stays. Like Interface.Close it returns at once.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	_ = l.listener.Close()
	for conn := range l.conns {
		_ = conn.Close()
	}
}

// Wait returns when a closed listener, and all interfaces that were on it and
// are closed, are gone.
func (l *Listener) Wait() { l.work.Wait() }

func (l *Listener) accept() {
	defer l.work.Done()
	for {
		conn, err := l.listener.AcceptUnix()
		if err != nil {
			return
		}
		l.mu.Lock()
		if l.closed {
			_ = conn.Close()
		} else {
			l.conns[conn] = true
			l.work.Add(1)
			go l.serve(channel{conn})
		}
		l.mu.Unlock()
	}
}

// serve handles a connection to its end.
func (l *Listener) serve(c channel) {
	defer l.work.Done()
	i, link, err := l.greet(c)
	l.mu.Lock()
	delete(l.conns, c.conn)
	l.mu.Unlock()
	if err != nil {
		if r := reason(err); r != "" {
			c.disconnect(r)
		}
		_ = c.conn.Close()
		return
	}
	defer i.work.Done()
	i.drop(link, reason(i.converse(link)))
}

// greet finds the interface a new connection is for.
func (l *Listener) greet(c channel) (*Interface, *link, error) {
	h := hello{minVersion: version, maxVersion: version, maxRegion: maxRegions - 1,
		maxM2S: maxRingIndex, maxS2M: maxRingIndex, maxLog2RingSize: maxLog2Ring}
	if err := c.send(h.encode(softwareName), -1); err != nil {
		return nil, nil, err
	}
	m, fd, err := c.receive()
	if err != nil {
		return nil, nil, err
	}
	closeFD(fd)
	if m.kind() != msgInit {
		return nil, nil, fmt.Errorf("message %d before the interface is named", m.kind())
	}
	wish := decodeInit(m)

	l.mu.Lock()
	i := l.ids[wish.id]
	if i != nil {
		i.work.Add(1)
	}
	l.mu.Unlock()
	if i == nil {
		return nil, nil, fmt.Errorf("unmatched interface id %d", wish.id)
	}
	link := newLink(c, i.receive)
	switch {
	case wish.version != version:
		err = fmt.Errorf("unsupported version %#x", wish.version)
	case wish.mode != i.config.Mode:
		err = errors.New("mode mismatch")
	case i.config.Secret != "" && wish.secret != i.config.Secret:
		err = errors.New("incorrect secret")
	default:
		err = i.attach(link)
	}
	if err == nil {
		if err = c.send(newMessage(msgAck), -1); err != nil {
			i.drop(link, "")
		}
	}
	if err != nil {
		i.work.Done()
		return nil, nil, err
	}
	return i, link, nil
}

// converse takes part in the dialogue of an interface with its client until it
// ends, and returns why.
func (i *Interface) converse(l *link) error {
	for {
		m, fd, err := l.channel.receive()
		if err != nil {
			return err
		}
		if err := i.take(l, m, fd); err != nil {
			return err
		}
	}
}

// take handles one message of the client and answers it.
func (i *Interface) take(l *link, m *message, fd int) error {
	kind := m.kind()
	if l.isOpen() && kind != msgAck {
		closeFD(fd)
		return fmt.Errorf("message %d after the connection is made", kind)
	}
	switch kind {
	case msgAddRegion:
		if fd < 0 || len(l.regions) == maxRegions || int(m.get16(2)) != len(l.regions) {
			closeFD(fd)
			return fmt.Errorf("region %d is not the next one or has no file descriptor", m.get16(2))
		}
		r, err := mapRegion(fd, m.get64(4))
		if err != nil {
			return err
		}
		l.regions = append(l.regions, r)
	case msgAddRing:
		if fd < 0 {
			return errors.New("a ring has no file descriptor")
		}
		event, err := eventFile(fd)
		if err != nil {
			return err
		}
		if _, err := l.addRing(true, decodeRing(m), event); err != nil {
			return err
		}
	case msgConnect:
		closeFD(fd)
		if err := i.raise(l); err != nil {
			return err
		}
		answer := newMessage(msgConnected)
		answer.put(2, nameSize, i.config.Name)
		return l.channel.send(answer, -1)
	default:
		closeFD(fd)
		if kind == msgAck {
			return nil
		}
		return fmt.Errorf("unknown message %d", kind)
	}
	return l.channel.send(newMessage(msgAck), -1)
}
