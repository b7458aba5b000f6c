package standin

import (
	"fmt"

	"go.fd.io/govpp/api"
)

// Ending is how a fault ends a request.
type Ending int

// Endings of a request.
const (
	// Refuse answers with Fault.Retval.
	Refuse Ending = iota
	// Silence answers nothing.
	Silence
	// Cut closes the connection of the client.
	Cut
	// Die closes the stand-in as Server.Close does, without waiting.
	Die
)

// Fault is something that goes wrong with a request.
type Fault struct {
	// Message is the name of the request, "memif_create_v2" for instance.
	Message string
	// Occurrence is which request of that name it is, counted from 1 since the
	// faults were set; every one if zero.
	Occurrence int
	// Act makes the request take effect before it ends as Ending says.
	Act bool
	// Ending is what the client sees.
	Ending Ending
	// Retval is the return code of Refuse.
	Retval int32
}

// Message is a request that has come in.
type Message struct {
	// Client is the name the client has given itself.
	Client string
	// Name is the name of the request.
	Name string
	// Content is the request.
	Content api.Message
}

// faults are the faults that are set and how often each request has come.
type faults struct {
	list  []Fault
	count map[string]int
}

// set replaces the faults after checking that they can happen.
func (f *faults) set(t *table, list []Fault) error {
	for _, fault := range list {
		e := t.byName[fault.Message]
		if e == nil || e.handle == nil {
			return fmt.Errorf("set fault: the stand-in has no request %q", fault.Message)
		}
		if fault.Ending == Refuse {
			if _, err := e.refusal(fault.Retval); err != nil {
				return fmt.Errorf("set fault: %w", err)
			}
		}
	}
	f.list, f.count = list, map[string]int{}
	return nil
}

// next counts a request and returns the fault that happens to it, or nil.
func (f *faults) next(name string) *Fault {
	f.count[name]++
	for i := range f.list {
		fault := &f.list[i]
		if fault.Message == name && (fault.Occurrence == 0 || fault.Occurrence == f.count[name]) {
			return fault
		}
	}
	return nil
}
