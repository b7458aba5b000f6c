package ovs

import (
	"context"
	"io"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/rig/process"
)

const prompt = "testpmd> "

// console is the dialogue with a dpdk-testpmd: a command goes in, an answer and
// a prompt come out.
type console struct {
	log  io.Writer     // may be nil
	turn chan struct{} // holds a token while a command is under way

	mu      sync.Mutex
	text    string        // what was printed since the last prompt
	answer  string        // what was printed before it
	pending int           // prompts still to come
	changed chan struct{} // closed at the next change
	first   bool          // a prompt has been seen
}

func newConsole(log io.Writer) *console {
	// One prompt comes by itself.
	return &console{log: log, turn: make(chan struct{}, 1), pending: 1, changed: make(chan struct{})}
}

// Write takes what the process prints.
func (c *console) Write(b []byte) (int, error) {
	if c.log != nil {
		_, _ = c.log.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text += string(b)
	for {
		before, after, found := strings.Cut(c.text, prompt)
		if !found {
			break
		}
		c.answer, c.text, c.first = before, after, true
		c.pending--
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(b), nil
}

// contains tells whether s has been printed since the last prompt.
func (c *console) contains(s string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Contains(c.text, s)
}

// prompted tells whether the process has come so far as to take commands.
func (c *console) prompted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// command gives a command to p and returns its answer.
func (c *console) command(ctx context.Context, p *process.Process, line string) (string, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if _, err := c.wait(ctx, p); err != nil {
		return "", err
	}
	c.mu.Lock()
	c.pending++
	c.mu.Unlock()
	if _, err := io.WriteString(p.In, line+"\n"); err != nil {
		return "", err
	}
	return c.wait(ctx, p)
}

// wait returns the last answer once every command given has been answered.
func (c *console) wait(ctx context.Context, p *process.Process) (string, error) {
	for {
		c.mu.Lock()
		pending, answer, changed := c.pending, c.answer, c.changed
		c.mu.Unlock()
		if pending <= 0 {
			return answer, nil
		}
		select {
		case <-changed:
		case <-p.Done():
			return "", p.Ended()
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
