package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long a process may take to end by itself.
const grace = 5 * time.Second

// process is a child that runs until it is stopped. What it prints goes to a file,
// to which a later process of the same name appends.
type process struct {
	name string
	log  string // path
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startProcess starts argv, in the node's namespaces if one is given. It dies with
// this process: of itself, or with its node. New namespaces are given as flags of
// clone(2).
func startProcess(name, log string, in *node, env []string, newNamespaces uintptr, argv ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: open log: %w", name, err)
	}
	defer f.Close()
	p := &process{name: name, log: log, cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.cmd.Dir = "/"
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: newNamespaces, Setpgid: true} // a ^C at the terminal is the test's to handle
	if in == nil {
		// A process in the node goes with it; for one whose parent is in another
		// process namespace os/exec would take the parent to be gone already.
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	onThread(func() {
		// A thread that went into the node never comes back: it ends with this
		// function.
		if in != nil {
			if err := in.enter(); err != nil {
				started <- err
				return
			}
		}
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		close(started)
		_ = p.cmd.Wait() // ProcessState tells how
		close(p.done)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

// onThread runs f on a thread of its own, which ends with f. The kernel sends
// Pdeathsig when the thread that started the child ends, and so f waits for it. It is
// never the main thread: that cannot end, and what is in /proc/self, the namespaces
// too, is the main thread's.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended tells how the process ended, with what it printed last; nil while it runs.
func (p *process) ended() error {
	select {
	case <-p.done:
		return p.explain(fmt.Errorf("%s ended (%v)", p.name, p.cmd.ProcessState))
	default:
		return nil
	}
}

// explain adds to an error what the process printed last.
func (p *process) explain(err error) error {
	f, errLog := os.Open(p.log)
	if errLog != nil {
		return errors.Join(err, errLog)
	}
	defer f.Close()
	const most = 8 << 10 // bytes
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-most), io.SeekStart)
	}
	text, errLog := io.ReadAll(f)
	if errLog != nil {
		return errors.Join(err, errLog)
	}
	return fmt.Errorf("%w; %s printed last:\n%s", err, p.name, lastLines(string(text), 20))
}

// await waits for a condition as poll does, and no longer than the process runs.
func (p *process) await(ctx context.Context, what string, condition func(ctx context.Context) (bool, error, error)) error {
	err := poll(ctx, what, func(ctx context.Context) (bool, error, error) {
		if err := p.ended(); err != nil {
			return false, nil, err
		}
		return condition(ctx)
	})
	if err != nil && p.ended() == nil {
		err = p.explain(err)
	}
	return err
}

// stop ends the process by SIGTERM, or at once if it takes too long. It returns
// when the process is gone.
func (p *process) stop() {
	if p == nil {
		return
	}
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		select {
		case <-p.done:
		case <-time.After(grace):
		}
	}
	p.kill()
}

// kill ends the process at once. It returns when the process is gone.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}
