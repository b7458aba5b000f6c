package agent

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/delegates"
)

// telemetry is what the agent shows of its work: the history, the metrics and the log.
type telemetry struct {
	history *history
	metrics *metrics
	log     *slog.Logger
}

// observe does a transaction, with its steps in the history and in the metrics.
func (t *telemetry) observe(ctx context.Context, verb, sandbox, pod string, do func(context.Context) error) (*Event, error) {
	event := t.history.begin(verb, sandbox, pod)
	err := do(delegates.WithSteps(ctx, event.step))
	event.end(err)
	t.metrics.request(event, err)
	return event, err
}

// history keeps the last transactions with their steps.
type history struct {
	mu   sync.Mutex
	ring []*Event // oldest first
	now  func() time.Time
}

// Bounds of what is kept.
const (
	maxHistory = 400 // transactions
	maxSteps   = 200 // of one transaction
)

// Event is one transaction: a request, or what the agent did on its own.
type Event struct {
	Time    time.Time `json:"time"`
	Verb    string    `json:"verb"` // ADD, PUBLISH, DEL, CHECK, GC, STATUS, UPDATE, RECONCILE, RECLAIM
	Sandbox string    `json:"sandbox,omitempty"`
	Pod     string    `json:"pod,omitempty"`
	Took    float64   `json:"ms"` // milliseconds; 0 while it is under way
	Error   string    `json:"error,omitempty"`
	Steps   []Step    `json:"steps"`
	Left    int       `json:"stepsLeftOut,omitempty"`

	h *history
}

// Step is one change to the world.
type Step struct {
	At     float64 `json:"ms"` // milliseconds since the transaction began
	What   string  `json:"what"`
	Undoes bool    `json:"undoes,omitempty"` // it undoes a failure
}

func (h *history) begin(verb, sandbox, pod string) *Event {
	e := &Event{Time: h.now(), Verb: verb, Sandbox: sandbox, Pod: pod, Steps: []Step{}, h: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = append(h.ring, e)
	if len(h.ring) > maxHistory {
		h.ring = append([]*Event(nil), h.ring[len(h.ring)-maxHistory:]...)
	}
	return e
}

func (e *Event) since() float64 { return float64(e.h.now().Sub(e.Time).Microseconds()) / 1000 }

// step is an observer of delegates.WithSteps.
func (e *Event) step(what string) error {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	if len(e.Steps) == maxSteps {
		e.Left++
		return nil
	}
	what, undoes := strings.CutPrefix(what, delegates.UndoMark)
	e.Steps = append(e.Steps, Step{At: e.since(), What: what, Undoes: undoes})
	return nil
}

func (e *Event) end(err error) {
	e.h.mu.Lock()
	defer e.h.mu.Unlock()
	e.Took = max(e.since(), 0.001)
	if err != nil {
		e.Error = err.Error()
	}
}

// forget drops a transaction that did nothing.
func (h *history) forget(e *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ring = slices.DeleteFunc(h.ring, func(other *Event) bool { return other == e })
}

// last are the newest transactions first, those of one pod or sandbox if it is named.
func (h *history) last(about string, limit int) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []Event{}
	for i := len(h.ring) - 1; i >= 0 && len(list) < limit; i-- {
		e := h.ring[i]
		if about == "" || e.Pod == about || strings.HasPrefix(e.Sandbox, about) {
			copied := *e
			copied.Steps = append([]Step{}, e.Steps...)
			list = append(list, copied)
		}
	}
	return list
}
