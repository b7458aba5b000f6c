// Package vpp runs the machine's VPP, if it has one, in the node of a test: a
// process of its own with memif, vhost-user and ping, and a State of what it
// has.
package vpp

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"go.fd.io/govpp/adapter/socketclient"
	"go.fd.io/govpp/binapi/vpe"
	"go.fd.io/govpp/core"

	"github.com/plexus-cni/plexus/rig/process"
)

// Find is the program of the machine's VPP, empty if it has none.
func Find() string {
	program, err := exec.LookPath("vpp")
	if err != nil {
		return ""
	}
	return program
}

// Process is a running VPP.
type Process struct {
	socket string
	shared string // the names of its shared memory begin so
	*process.Process
}

// started numbers the VPPs of this process; each has shared memory by a name.
var started int

// config keeps VPP from what a node of a test has not: huge pages, PCI, a CPU of
// its own.
const config = `unix { %[4]s nodaemon nobanner nosyslog runtime-dir %[1]s/run cli-listen %[1]s/run/cli.sock poll-sleep-usec 100 log %[1]s/vpp.log }
api-segment { prefix %[3]s }
socksvr { socket-name %[2]s }
statseg { socket-name %[1]s/run/stats.sock size 32M }
memory { main-heap-size 512M main-heap-page-size default }
buffers { buffers-per-numa 16384 page-size default }
plugins { plugin default { disable } plugin memif_plugin.so { enable } plugin vhost_plugin.so { enable } plugin ping_plugin.so { enable } }
`

// Start starts VPP with its API socket at a path and its files in dir. It runs
// until it is killed.
func Start(ctx context.Context, program, dir, socket string) (*Process, error) {
	return StartWith(ctx, program, dir, socket, "")
}

// StartWith is Start of a VPP with a startup configuration, a file with commands that VPP executes
// two seconds after its start; empty for none.
func StartWith(ctx context.Context, program, dir, socket, startup string) (*Process, error) {
	started++
	name := fmt.Sprintf("plexus%d-%d", os.Getpid(), started)
	for _, d := range []string{filepath.Join(dir, "run"), filepath.Dir(socket)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("start VPP: %w", err)
		}
	}
	unix := ""
	if startup != "" {
		unix = "startup-config " + startup
	}
	file := filepath.Join(dir, "startup.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, dir, socket, name, unix), 0o644); err != nil {
		return nil, fmt.Errorf("start VPP: %w", err)
	}
	child, err := process.Start(process.Options{Name: "VPP"}, program, "-c", file)
	if err != nil {
		return nil, err
	}
	p := &Process{socket: socket, shared: "/dev/shm/" + name, Process: child}
	err = p.Await(ctx, "the API of VPP answers", func() (bool, error) {
		conn, err := core.Connect(socketclient.NewVppClient(p.socket))
		if err == nil {
			conn.Disconnect()
		}
		return err == nil, nil
	})
	if err == nil && startup == "" { // it has no startup configuration to run
		err = os.Chtimes(socket, time.Time{}, time.Now().Add(-time.Hour))
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("start VPP: %w", err)
	}
	return p, nil
}

// Socket is the path of the API socket.
func (p *Process) Socket() string { return p.socket }

// Kill kills VPP. What its sockets leave behind stays.
func (p *Process) Kill() {
	p.Process.Kill()
	for _, end := range []string{"-global_vm", "-vpe-api"} {
		_ = os.Remove(p.shared + end)
	}
}

// State is what VPP has, see State.
func (p *Process) State() (string, error) { return State(p.socket) }

// Version is what a VPP says of itself.
func Version(socket string) (string, error) {
	conn, err := core.Connect(socketclient.NewVppClient(socket))
	if err != nil {
		return "", err
	}
	defer conn.Disconnect()
	reply, err := vpe.NewServiceClient(conn).ShowVersion(context.Background(), &vpe.ShowVersion{})
	if err != nil {
		return "", err
	}
	return reply.Version, nil
}
