package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Bounds of the pause after a pass that has changed a file: another program may rewrite the
// first configuration again and again.
const (
	minPause = 250 * time.Millisecond
	maxPause = 30 * time.Second
)

// Follower keeps credentials and configuration of a node current.
type Follower struct {
	Node *Node
	// Tick starts a pass every now and then: tokens are rotated, and the kernel
	// may lose notifications. A minute is right.
	Tick <-chan time.Time
	// After is time.After; nil stands for it.
	After func(time.Duration) <-chan time.Time
	// Observe is called after every pass, nil for none. The error is a RefusedError, or
	// what could not be read or written; the next pass tries again.
	Observe func(State, error)
}

// Run does a pass of credentials and configuration at once, at each tick, and
// when the runtime's folder changes, until ctx is done. Each error is
// observed, logged once, and tried again: a node may get a cluster network, or space on its
// disk, later.
func (f *Follower) Run(ctx context.Context) {
	w := watch{n: f.Node}
	defer w.close()
	logged := map[string]bool{}
	after := f.After
	if after == nil {
		after = time.After
	}
	var pause time.Duration
	for first, slow := true, false; ; first = false {
		w.open()
		s, err := f.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		f.logNew(logged, s, err, errors.Join(w.err))
		if f.Observe != nil {
			f.Observe(s, err)
		}
		switch {
		case s.Changed && !first:
			pause = min(max(2*pause, minPause), maxPause)
			if !sleep(ctx, after(pause)) {
				return
			}
		case slow && !s.Changed:
			pause = 0
		}
		var ok bool
		if slow, ok = f.wait(ctx, &w); !ok {
			return
		}
	}
}

// pass does the credentials first: a configuration that names a kubeconfig is
// of no use without it. When the kubeconfig exists, a failure of
// the credentials does not prevent the configuration.
func (f *Follower) pass(ctx context.Context) (State, error) {
	n := f.Node
	_, errCred := n.Credentials(ctx)
	if errCred != nil {
		if _, err := os.Stat(n.Kubeconfig()); err != nil {
			return State{}, errCred
		}
	}
	s, err := n.Configure(ctx)
	return s, errors.Join(err, errCred)
}

// logNew logs notes and errors that the former pass did not have, and each change.
func (f *Follower) logNew(logged map[string]bool, s State, errs ...error) {
	now := map[string]bool{}
	for _, note := range s.Notes {
		now[note] = true
		if !logged[note] {
			f.Node.Log.Info(note)
		}
	}
	for _, err := range errs {
		if err == nil {
			continue
		}
		now[err.Error()] = true
		if !logged[err.Error()] {
			f.Node.Log.Error("the node is not as it should be", "why", err.Error())
		}
	}
	if s.Changed {
		f.Node.Log.Info("configuration of the runtime", "file", s.File, "adopted", s.Adopted)
	}
	clear(logged)
	for what := range now {
		logged[what] = true
	}
}

// wait returns when there is reason for a pass; slow: it is the tick. It is not
// ok when ctx is done.
func (f *Follower) wait(ctx context.Context, w *watch) (slow, ok bool) {
	events, errs := w.channels()
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-f.Tick:
			return true, true
		case e := <-events:
			if isConfig(e.Name) || filepath.Clean(e.Name) == filepath.Clean(f.Node.ConfDir) {
				return false, true
			}
		case <-errs: // events were lost
			return false, true
		}
	}
}

func sleep(ctx context.Context, done <-chan time.Time) bool {
	select {
	case <-ctx.Done():
		return false
	case <-done:
		return true
	}
}

// watch has the kernel report changes of the runtime's folder. Without it the
// tick does.
type watch struct {
	n   *Node
	w   *fsnotify.Watcher
	err error
}

// open starts the watch, again if the folder was made anew.
func (w *watch) open() {
	if w.w == nil {
		if w.w, w.err = fsnotify.NewWatcher(); w.err != nil {
			w.w, w.err = nil, fmt.Errorf("watch %s: %w", w.n.ConfDir, w.err)
			return
		}
	}
	w.err = os.MkdirAll(w.n.ConfDir, 0o755)
	if w.err == nil {
		w.err = w.w.Add(w.n.ConfDir)
	}
	if w.err != nil {
		w.err = fmt.Errorf("watch %s: %w", w.n.ConfDir, w.err)
	}
}

func (w *watch) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.w == nil {
		return nil, nil
	}
	return w.w.Events, w.w.Errors
}

func (w *watch) close() {
	if w.w != nil {
		_ = w.w.Close()
	}
}
