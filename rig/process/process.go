// Package process runs the daemons of tests: it starts a program, keeps what it prints, waits
// until it is ready, and ends it. No program outlives the process that started it.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grace is how long a process may take to end by itself.
	grace = 5 * time.Second
	// drain is how long what is still printed is waited for after the end, as a child that
	// lives on may keep the pipe open.
	drain = 2 * time.Second
	// tailSize is how much of what was printed last an error quotes, in bytes.
	tailSize = 8 << 10
)

// Options say how a program is started.
type Options struct {
	// Name stands for the program in errors.
	Name string
	// Program is the executable, the first argument if empty.
	Program string
	// Dir is the folder it runs in, empty for the caller's. A core file is left there.
	Dir string
	// Env is its whole environment, nil for the caller's.
	Env []string
	// Out takes what it prints, besides the text that errors quote; may be nil.
	Out io.Writer
	// Stdout takes its standard output instead of Out; may be nil.
	Stdout io.Writer
	// Log is a file to which all that it prints is appended, without a pipe in between: for
	// programs whose children keep their output. Out is not used then.
	Log string
	// Piped makes a pipe to its standard input, see Process.In.
	Piped bool
	// Inherit gives it the standard files of the caller; nothing is kept of what it prints.
	Inherit bool
	// Namespaces are those it gets new, as flags of clone(2).
	Namespaces uintptr
	// Enter brings the thread that starts the program into other namespaces. The program is
	// not ended with the caller by itself then: it ends with them.
	Enter func() error
}

// Process is a program that was started.
type Process struct {
	// In is its standard input, if it was asked for.
	In io.WriteCloser

	name string
	cmd  *exec.Cmd
	log  string // a file, or empty
	tail Buffer
	done chan struct{} // closed when it has ended
}

// Start starts a program. It is in a process group of its own, so that a ^C at the terminal is
// the caller's to handle, and gets SIGKILL when the caller ends.
func Start(o Options, argv ...string) (*Process, error) {
	p := &Process{name: o.Name, log: o.Log, tail: Buffer{Most: tailSize, To: o.Out}, done: make(chan struct{})}
	program := o.Program
	if program == "" {
		program = argv[0]
	}
	p.cmd = exec.Command(program)
	p.cmd.Args = argv
	p.cmd.Dir, p.cmd.Env = o.Dir, o.Env
	p.cmd.Stdout, p.cmd.Stderr = &p.tail, &p.tail
	p.cmd.WaitDelay = drain
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: o.Namespaces, Setpgid: true}
	if o.Enter == nil {
		// For a process whose parent is in another process namespace os/exec would take the
		// parent to be gone already.
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if o.Inherit {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if o.Log != "" {
		f, err := os.OpenFile(o.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("start %s: open log: %w", o.Name, err)
		}
		defer f.Close()
		p.cmd.Stdout, p.cmd.Stderr = f, f
	}
	if o.Stdout != nil {
		p.cmd.Stdout = o.Stdout
	}
	if o.Piped {
		in, err := p.cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("start %s: make stdin: %w", o.Name, err)
		}
		p.In = in
	}
	started := make(chan error)
	onThread(func() {
		var err error
		if o.Enter != nil {
			err = o.Enter()
		}
		if err == nil {
			err = p.cmd.Start()
		}
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // ProcessState tells how it ended
			close(p.done)
		}
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	return p, nil
}

// onThread runs f on a thread of its own, which ends with f. The kernel sends Pdeathsig when the
// thread that started the child ends, and so f waits for the child. It is never the main thread:
// that cannot end, and what is in /proc/self, the namespaces too, is the main thread's.
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

// Name is the name it was given.
func (p *Process) Name() string { return p.name }

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status tells how the process ended; it is valid once Done is closed.
func (p *Process) Status() syscall.WaitStatus {
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// Ended tells how the process ended, with what it printed last; nil while it runs.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return p.Explain(fmt.Errorf("%s ended (%v)", p.name, p.cmd.ProcessState))
	default:
		return nil
	}
}

// Explain adds to an error what the process printed last.
func (p *Process) Explain(err error) error {
	return fmt.Errorf("%w; %s printed last:\n%s", err, p.name, p.Tail())
}

// Tail is what the process printed last.
func (p *Process) Tail() string {
	if p.log == "" {
		return strings.TrimSpace(p.tail.String())
	}
	f, err := os.Open(p.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, size-tailSize), io.SeekStart)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

// Await asks until a condition holds or fails, the process has ended, or ctx is done. What says
// what is waited for. The error quotes what the process printed last.
func (p *Process) Await(ctx context.Context, what string, condition func() (bool, error)) error {
	err := Poll(ctx, what, func() (bool, error) {
		if err := p.Ended(); err != nil {
			return false, err
		}
		return condition()
	})
	if err != nil && p.Ended() == nil {
		err = p.Explain(err)
	}
	return err
}

// Signal sends a signal to the process.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to %s (%d): %w", s, p.name, p.PID(), err)
	}
	return nil
}

// Wait returns when the process has ended or ctx is done.
func (p *Process) Wait(ctx context.Context) {
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}

// Kill ends the process at once. It returns when the process is gone. Killing twice is no error.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop ends the process by SIGTERM, or at once if it takes longer than five seconds. It returns
// when the process is gone.
func (p *Process) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if p.cmd.Process.Signal(syscall.SIGTERM) == nil {
		p.Wait(ctx)
	}
	p.Kill()
}

// Missing reports whether an error is that a program is not installed.
func Missing(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound)
}
