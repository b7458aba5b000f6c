package standin

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/plexus-cni/plexus/rig/process"
)

// Process is a stand-in in a process of its own. It dies with this process.
type Process struct {
	dir string
	*process.Process
}

// StartProcess starts the program of rig/standin/serve, built before, with its
// sockets in dir, and returns when its API socket takes connections. More
// arguments are passed on. What it prints to stderr is in the error if it fails.
func StartProcess(ctx context.Context, program, dir string, args ...string) (*Process, error) {
	p := &Process{dir: dir}
	var out process.Buffer
	argv := append([]string{program, "-socket", p.Socket(), "-state", p.stateSocket()}, args...)
	child, err := process.Start(process.Options{Name: "stand-in process", Stdout: &out}, argv...)
	if err != nil {
		return nil, err
	}
	p.Process = child
	if err := p.Await(ctx, "the stand-in is ready", func() (bool, error) { return out.String() == "ready\n", nil }); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start stand-in process: %w", err)
	}
	return p, nil
}

// Socket is the path of the API socket.
func (p *Process) Socket() string { return filepath.Join(p.dir, SocketName) }

func (p *Process) stateSocket() string { return filepath.Join(p.dir, "state.sock") }

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
