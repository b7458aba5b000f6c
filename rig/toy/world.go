package toy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/delegates"
)

// World is what outlives a backend: vswitches and their ports. Each port has a socket, a
// file, so that plugins that are executed can see it.
type World struct {
	folder string // of sockets

	mu       sync.Mutex
	switches map[string]*vswitch // by address
	faults   map[string]error    // by operation and interface
	calls    []string
}

// vswitch has ports by name.
type vswitch struct {
	ports map[string]mark
	away  chan struct{} // closed when it answers again; nil when it answers
}

// mark says whose a port is.
type mark struct {
	owner, sandbox, ifName string
	reserved               bool // the port itself is not made
}

// markedBytes is how much of a container ID a mark holds.
const markedBytes = 24

func markOf(a *delegates.Attachment) mark {
	return mark{owner: a.Owner, sandbox: a.Sandbox[:min(len(a.Sandbox), markedBytes)], ifName: a.IfName}
}

// NewWorld is a world with vswitches at the addresses, and one at DefaultEndpoint. Its
// sockets are in the folder.
func NewWorld(folder string, addresses ...string) *World {
	w := &World{folder: folder, switches: map[string]*vswitch{}, faults: map[string]error{}}
	for _, address := range append(addresses, DefaultEndpoint) {
		w.switches[address] = &vswitch{ports: map[string]mark{}}
	}
	return w
}

// Fail has an operation (prepare, attach, detach, check) on an interface fail; nil ends it.
// Attach fails when the port is made.
func (w *World) Fail(operation, ifName string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[operation+" "+ifName] = err
}

func (w *World) fault(operation, ifName string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.faults[operation+" "+ifName]
}

// SetAway has a vswitch not answer, or answer again.
func (w *World) SetAway(address string, away bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch v := w.switches[address]; {
	case away && v.away == nil:
		v.away = make(chan struct{})
	case !away && v.away != nil:
		close(v.away)
		v.away = nil
	}
}

// Lose removes the ports of an interface, as a vswitch does that starts anew.
func (w *World) Lose(ifName string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.switches {
		for port, m := range v.ports {
			if m.ifName == ifName {
				delete(v.ports, port)
				_ = os.Remove(w.socket(port))
			}
		}
	}
}

// Ports are the ports that are made, sorted: "ADDRESS PORT". Reservations are in it as
// "ADDRESS PORT reserved".
func (w *World) Ports() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for address, v := range w.switches {
		for port, m := range v.ports {
			text := address + " " + port
			if m.reserved {
				text += " reserved"
			}
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return all
}

// Calls are the calls of Attach and Detach since the last time, with the interfaces of
// each: "attach net1 net2".
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

func (w *World) note(call string, all []*delegates.Attachment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range all {
		call += " " + a.IfName
	}
	w.calls = append(w.calls, call)
}

func (w *World) socket(port string) string { return filepath.Join(w.folder, port) }

// at is the vswitch at an address. The world is locked.
func (w *World) at(address string) (*vswitch, error) {
	v := w.switches[address]
	if v == nil || v.away != nil {
		return nil, &delegates.Unavailable{Endpoint: address, Kind: "toy", Err: errors.New("no answer"), Hint: "is it running?"}
	}
	return v, nil
}

func (w *World) reach(address string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.at(address)
	return err
}

func (w *World) reserve(s state, m mark) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, err := w.at(s.Endpoint)
	if err != nil {
		return err
	}
	m.reserved = true
	if is, has := v.ports[s.Port]; has && is != m { // its own reservation is of a request that was cut short
		return fmt.Errorf("port %s is at %s already, of %s", s.Port, s.Endpoint, is.sandbox)
	}
	v.ports[s.Port] = m
	return nil
}

func (w *World) insert(s state, m mark) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, err := w.at(s.Endpoint)
	if err != nil {
		return err
	}
	v.ports[s.Port] = m
	return os.WriteFile(w.socket(s.Port), nil, 0o600)
}

func (w *World) remove(address, port string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, err := w.at(address)
	if err != nil {
		return err
	}
	delete(v.ports, port)
	if err := os.Remove(w.socket(port)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (w *World) marks(address string) (map[string]mark, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, err := w.at(address)
	if err != nil {
		return nil, err
	}
	return maps.Clone(v.ports), nil
}

// known are the addresses that are the toy's, each once.
func (w *World) known(addresses []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(addresses)
	return slices.DeleteFunc(slices.Compact(addresses), func(address string) bool {
		return w.switches[address] == nil && !strings.HasPrefix(address, "/run/toy/")
	})
}

func (w *World) watch(ctx context.Context, address string) error {
	w.mu.Lock()
	var again chan struct{}
	if v := w.switches[address]; v != nil {
		again = v.away
	}
	w.mu.Unlock()
	select {
	case <-again: // never, while the vswitch answers
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
