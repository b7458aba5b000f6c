package memif

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.fd.io/govpp/extras/gomemif/memif"
)

// gomemifFrame is the longest frame gomemif does not corrupt, in bytes.
const gomemifFrame = 2048

// pollInterval is the time between two looks of a gomemif peer at an empty ring.
const pollInterval = 50 * time.Microsecond

// gomemif is a client made of the library gomemif.
type gomemif struct {
	config Config
	socket *memif.Socket
	first  chan bool     // told once: connected, or sent away
	stop   chan struct{} // closed by Close
	once   sync.Once     // for first
	ended  sync.Once
	work   sync.WaitGroup

	mu     sync.Mutex // held to use the queues: the library frees them at the end
	rx, tx *memif.Queue
}

// dialGomemif connects to a server, trying until it is connected or ctx is done.
func dialGomemif(ctx context.Context, socket string, c Config) (*gomemif, error) {
	a, err := parseAddress(socket)
	if err != nil {
		return nil, err
	}
	if c.Secret != "" {
		return nil, fmt.Errorf("connect to %s by gomemif: it sends no secret", a)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		g, err := tryGomemif(ctx, a, c)
		if err == nil {
			return g, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s by gomemif: %w: %w", a, ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// tryGomemif tries to connect once.
func tryGomemif(ctx context.Context, a address, c Config) (*gomemif, error) {
	name := a.path
	if name == "" {
		name = "@" + a.name
	}
	g := &gomemif{config: c, first: make(chan bool, 1), stop: make(chan struct{})}
	var err error
	if g.socket, err = memif.NewSocket(softwareName, name); err != nil {
		return nil, fmt.Errorf("make gomemif socket: %w", err)
	}
	args := &memif.Arguments{Id: c.ID, Name: c.Name, ConnectedFunc: g.connected, DisconnectedFunc: g.disconnected}
	if c.Mode == IP {
		args.Mode = memif.InterfaceModeIp
	}
	i, err := g.socket.NewInterface(args)
	if err == nil {
		err = a.within(i.RequestConnection)
	}
	if err != nil {
		_ = g.socket.Delete()
		return nil, err
	}
	// The library blocks if nobody takes its errors; they are about the end
	// of the connection, which Connected tells.
	errs := make(chan error)
	g.work.Add(2)
	go func() {
		defer g.work.Done()
		for {
			select {
			case <-errs:
			case <-g.stop:
				return
			}
		}
	}()
	go g.poll()
	g.socket.StartPolling(errs)
	select {
	case up := <-g.first:
		if up {
			return g, nil
		}
		err = errors.New("the server sends it away")
	case <-ctx.Done():
		err = errors.New("the server does not answer")
	}
	g.Close()
	g.Wait()
	return nil, err
}

func (g *gomemif) connected(i *memif.Interface) error {
	rx, err := i.GetRxQueue(0)
	if err != nil {
		return err
	}
	tx, err := i.GetTxQueue(0)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.rx, g.tx = rx, tx
	g.mu.Unlock()
	g.once.Do(func() { g.first <- true })
	g.config.Link(true)
	return nil
}

func (g *gomemif) disconnected(*memif.Interface) error {
	g.mu.Lock()
	g.rx, g.tx = nil, nil
	g.mu.Unlock()
	g.once.Do(func() { g.first <- false })
	g.config.Link(false)
	return nil
}

// poll delivers what arrives until the end.
func (g *gomemif) poll() {
	defer g.work.Done()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	buf := make([]byte, MaxFrame)
	for {
		if n := g.read(buf); n > 0 {
			g.config.Receive(buf[:n])
			continue
		}
		select {
		case <-g.stop:
			return
		case <-tick.C:
		}
	}
}

func (g *gomemif) read(buf []byte) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rx == nil {
		return 0
	}
	n, err := g.rx.ReadPacket(buf)
	if err != nil {
		return 0
	}
	return n
}

func (g *gomemif) Send(frame []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tx != nil && len(frame) <= gomemifFrame && g.tx.WritePacket(frame) == len(frame)
}

func (g *gomemif) Connected() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tx != nil
}

// Drained is never true: the library does not tell.
func (g *gomemif) Drained() bool { return false }

func (g *gomemif) Regions() int { return 0 }

func (g *gomemif) Close() {
	g.ended.Do(func() {
		// Errors are about what is gone already.
		_ = g.socket.StopPolling()
		_ = g.socket.Delete()
		close(g.stop)
	})
}

func (g *gomemif) Wait() { g.work.Wait() }
