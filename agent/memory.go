package agent

import (
	"runtime/debug"
	"sync"
	"time"
)

// memory gives free memory back to the node, whose pods need it: most of the time an
// agent has nothing to do. It runs once no request has been under way for restAfter, for
// a request would wait for the garbage collection that this begins with.
type memory struct {
	mu       sync.Mutex
	requests int // under way
	timer    *time.Timer
}

const restAfter = time.Second

func newMemory() *memory { return newMemoryOf(debug.FreeOSMemory) }

func newMemoryOf(free func()) *memory {
	m := &memory{}
	m.timer = time.AfterFunc(restAfter, func() {
		m.mu.Lock()
		idle := m.requests == 0 // not when a request began while the timer fired
		m.mu.Unlock()
		if idle {
			free()
		}
	})
	return m
}

// use says that a request is under way until done is called.
func (m *memory) use() (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests++
	m.timer.Stop()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.requests--; m.requests == 0 {
			m.timer.Reset(restAfter)
		}
	}
}
