package ovs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child that runs until it is stopped. It dies with this process.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser // stdin, if asked for
	tail *tail          // what it printed last
	done chan struct{}  // closed when it has ended
	err  error          // how it ended; valid once done is closed
}

// start starts argv in dir with its output going to log. A stdin pipe is made
// if piped is true.
func start(name string, log io.Writer, dir string, env []string, piped bool, argv ...string) (*process, error) {
	p := &process{name: name, tail: &tail{to: log}, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir = dir // a core file stays with the other files
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.tail, p.tail
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.WaitDelay = 2 * time.Second
	if piped {
		in, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: make stdin: %w", name, err)
		}
		p.in = in
	}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child
		// ends: one thread is kept for it until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		close(started)
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w%s", name, err, hint(err))
	}
	return p, nil
}

// hint says what to install if a program is missing.
func hint(err error) string {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return ": install it: apt-get install openvswitch-switch-dpdk dpdk-dev"
	}
	return ""
}

// ended tells how the process ended, with what it printed last; nil while it
// runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%v); it printed last:\n%s", p.name, p.cmd.ProcessState, p.tail)
	default:
		return nil
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to %s (%d): %w", s, p.name, p.pid(), err)
	}
	return nil
}

// wait returns when the process has ended or ctx is done.
func (p *process) wait(ctx context.Context) {
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}

// kill ends the process at once. It returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop ends the process by SIGTERM, or at once if it takes too long.
func (p *process) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		p.wait(ctx)
	}
	p.kill()
}

// tail passes on what is written to it and keeps the last of it. It may be used
// by several goroutines.
type tail struct {
	mu   sync.Mutex
	to   io.Writer // may be nil
	last []byte
}

const tailSize = 8 << 10 // bytes

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last = append(t.last, b...); len(t.last) > tailSize {
		t.last = append([]byte(nil), t.last[len(t.last)-tailSize:]...)
	}
	if t.to != nil {
		_, _ = t.to.Write(b) // a log that fails must not end the process
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}

// lockedWriter lets several processes write to one log.
type lockedWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}
