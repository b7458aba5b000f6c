package standin

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

// Process is a stand-in in a process of its own. It dies with this process.
type Process struct {
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// StartProcess starts the program of rig/standin/serve, built before, with its
// sockets in dir, and returns when its API socket takes connections. More
// arguments are passed on. What it prints to stderr is in the error if it fails.
func StartProcess(ctx context.Context, program, dir string, args ...string) (*Process, error) {
	p := &Process{dir: dir, done: make(chan struct{})}
	argv := append([]string{"-socket", p.Socket(), "-state", p.stateSocket()}, args...)
	p.cmd = exec.Command(program, argv...)
	var complaints lockedBuffer
	p.cmd.Stderr = &complaints
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start stand-in process: make pipe: %w", err)
	}
	started, ready := make(chan error), make(chan bool, 1)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child
		// ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line == "ready\n"
		_ = p.cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start stand-in process: %w", err)
	}
	select {
	case ok := <-ready:
		if !ok {
			p.Kill()
			return nil, fmt.Errorf("start stand-in process: it ended (%v): %s", p.cmd.ProcessState, complaints.String())
		}
		return p, nil
	case <-ctx.Done():
		p.Kill()
		return nil, fmt.Errorf("start stand-in process: it is not ready: %w", ctx.Err())
	}
}

// Socket is the path of the API socket.
func (p *Process) Socket() string { return filepath.Join(p.dir, SocketName) }

func (p *Process) stateSocket() string { return filepath.Join(p.dir, "state.sock") }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// State is Server.State of the process.
func (p *Process) State() (string, error) {
	conn, err := net.Dial("unix", p.stateSocket())
	if err != nil {
		return "", fmt.Errorf("read state of stand-in process: %w", err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("read state of stand-in process: %w", err)
	}
	return string(text), nil
}

// Kill kills the process by SIGKILL and returns when it is gone. Its sockets
// stay. Killing twice is no error.
func (p *Process) Kill() {
	_ = p.cmd.Process.Signal(os.Kill)
	<-p.done
}

// lockedBuffer is a buffer that is written while it may be read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
