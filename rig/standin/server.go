package standin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.fd.io/govpp/api"
)

// SocketName is the name of the API socket in the folder of a stand-in.
const SocketName = "api.sock"

// Options choose what a stand-in is. The zero value is one without faults.
type Options struct {
	// Version is what show_version answers, "26.06-standin" if empty.
	Version string
	// RuntimeDir is where memif sockets with relative file names are, also that
	// of socket 0, memif.sock; "/run/vpp" if empty. It is made when it is
	// needed.
	RuntimeDir string
	// CRC gives messages another CRC than they have, eight hexadecimal digits;
	// a message with an empty one is missing.
	CRC map[string]string
	// Without are plugins that it does not have, by the names of their API: "memif". All of
	// their messages are missing.
	Without []string
	// Startup is a file with commands of VPP's CLI, which are executed two seconds after the
	// start (unix startup-config); none if empty.
	Startup string
	// Faults are set from the start.
	Faults []Fault
	// OnMessage is called for each request before it acts; may be nil. It must
	// not call the stand-in.
	OnMessage func(Message)
}

// Server is a running stand-in.
type Server struct {
	socket   string
	listener *net.UnixListener
	vswitch  *vswitch
	table    *table
	options  Options

	closing sync.Once
	work    sync.WaitGroup

	mu       sync.Mutex
	faults   faults
	messages []Message
	clients  map[*client]bool
	last     uint32 // client index given last
	closed   bool
}

// Start starts a stand-in with its API socket in dir, which is made if it is
// missing. A socket left behind by a killed one is replaced. It runs until it is
// closed or ctx is done.
func Start(ctx context.Context, dir string, o Options) (*Server, error) {
	return startAt(ctx, filepath.Join(dir, SocketName), o)
}

// StartAt is Start with the API socket at a path.
func StartAt(ctx context.Context, socket string, o Options) (*Server, error) {
	return startAt(ctx, socket, o)
}

func startAt(ctx context.Context, socket string, o Options) (*Server, error) {
	if o.Version == "" {
		o.Version = "26.06-standin"
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = "/run/vpp"
	}
	s := &Server{socket: socket, options: o, table: newTable(), clients: map[*client]bool{}}
	s.vswitch = newVswitch(o.RuntimeDir, s.publish)
	s.register()
	for name, crc := range o.CRC {
		e := s.table.byName[name]
		if e == nil {
			return nil, fmt.Errorf("start stand-in: it has no message %q to give another CRC", name)
		}
		e.crc = crc
	}
	for _, e := range s.table.order {
		if slices.Contains(o.Without, path.Base(e.prototype.PkgPath())) {
			e.crc = ""
		}
	}
	if err := s.faults.set(s.table, o.Faults); err != nil {
		return nil, fmt.Errorf("start stand-in: %w", err)
	}
	var err error
	if s.listener, err = listen(socket); err == nil && o.Startup == "" { // as a VPP that has run its own
		err = os.Chtimes(socket, time.Time{}, time.Now().Add(-time.Hour))
	}
	if err != nil {
		return nil, fmt.Errorf("start stand-in: %w", err)
	}
	s.work.Add(1)
	go s.accept()
	if o.Startup != "" {
		s.work.Add(1)
		go s.startUp()
	}
	stop := context.AfterFunc(ctx, s.shut)
	s.work.Add(1)
	go func() {
		defer s.work.Done()
		<-s.vswitch.gone
		stop()
	}()
	return s, nil
}

// listen opens the API socket.
func listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of API socket: %w", err)
	}
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen at API socket %s: somebody listens there already", socket)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(socket); err != nil {
			return nil, fmt.Errorf("remove stale API socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socket})
	if err != nil {
		return nil, fmt.Errorf("listen at API socket %s: %w", socket, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Socket is the path of the API socket.
func (s *Server) Socket() string { return s.socket }

// Close ends the stand-in as killing it would: clients and memif peers lose
// their connections, everything is lost, the socket files stay. It returns when
// nothing of it runs any more. It must not be called from Options.OnMessage.
func (s *Server) Close() {
	s.shut()
	s.work.Wait()
	s.vswitch.wait()
}

// Done is closed when the stand-in has ended, by Close, its context or a fault.
func (s *Server) Done() <-chan struct{} { return s.vswitch.gone }

// shut ends the stand-in without waiting.
func (s *Server) shut() {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		clients := s.clients
		s.clients = nil
		s.mu.Unlock()
		_ = s.listener.Close()
		for c := range clients {
			c.close()
		}
		s.vswitch.close()
	})
}

// State is what the stand-in has: sockets, interfaces, bridge domains, tables
// and routes, one a line in a fixed order, without indices and link states, so
// that equal texts mean equal states.
func (s *Server) State() string { return s.vswitch.text() }

// SetFaults replaces the faults and starts counting requests anew.
func (s *Server) SetFaults(list ...Fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.set(s.table, list)
}

// Messages are the requests that have come in since the start, the handshake
// of clients and faulty requests included.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Count is how many requests of a name have come in since the start.
func (s *Server) Count(name string) int {
	n := 0
	for _, m := range s.Messages() {
		if m.Name == name {
			n++
		}
	}
	return n
}

func (s *Server) accept() {
	defer s.work.Done()
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			_ = conn.Close()
			continue
		}
		s.last++
		c := newClient(s, conn, s.last)
		s.clients[c] = true
		s.work.Add(2)
		s.mu.Unlock()
		go func() {
			defer s.work.Done()
			c.write()
		}()
		go func() {
			defer s.work.Done()
			c.serve()
			s.mu.Lock()
			delete(s.clients, c)
			s.mu.Unlock()
		}()
	}
}

// publish sends an event to every client that wants events.
func (s *Server) publish(event api.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if c.events {
			c.send(event, 0)
		}
	}
}

// received records a request and returns the fault that happens to it.
func (s *Server) received(m Message) *Fault {
	s.mu.Lock()
	s.messages = append(s.messages, m)
	fault := s.faults.next(m.Name)
	s.mu.Unlock()
	if s.options.OnMessage != nil {
		s.options.OnMessage(m)
	}
	return fault
}
