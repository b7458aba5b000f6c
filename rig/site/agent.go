package site

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/process"
)

// Agent is plexusd serve, without an API server.
type Agent struct {
	*process.Process
	T      testing.TB
	S      *Site
	Socket string
}

// Serve starts the agent of a site whose configuration names its socket, and
// returns when it answers.
func (s *Site) Serve(socket string) *Agent {
	s.T.Helper()
	a := s.Start(socket)
	must.Do(s.T, a.Await(must.Deadline(s.T), "the agent is ready", func() (bool, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /readyz HTTP/1.0\r\n\r\n")
		text, _ := io.ReadAll(conn)
		return bytes.HasPrefix(text, []byte("HTTP/1.0 200")), nil
	}))
	return a
}

// Start starts the agent and waits for nothing. It is killed after the test, which logs what the
// agent printed last if it has failed.
func (s *Site) Start(socket string) *Agent {
	s.T.Helper()
	p, err := process.Start(process.Options{Name: "the agent"},
		filepath.Join(BinDir(s.T), "plexusd"), "serve", "--standalone", "--socket", socket, "--data-dir", s.DataDir, "--node", "n")
	must.Do(s.T, err)
	s.T.Cleanup(func() {
		p.Kill()
		if s.T.Failed() {
			s.T.Logf("the agent printed last:\n%s", p.Tail())
		}
	})
	return &Agent{Process: p, T: s.T, S: s, Socket: socket}
}

// Signal sends the agent a signal. After SIGSTOP it returns when the agent has stopped.
func (a *Agent) Signal(what syscall.Signal) {
	a.T.Helper()
	must.Do(a.T, a.Process.Signal(what))
	if what == syscall.SIGSTOP {
		a.Stopped()
	}
}

// Stopped waits until the kernel has stopped the agent.
func (a *Agent) Stopped() {
	a.T.Helper()
	ctx := must.Deadline(a.T)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.PID()))
		must.Do(a.T, err)
		if strings.Contains(string(stat), ") T ") {
			return
		}
		select {
		case <-ctx.Done():
			a.T.Fatal("the agent is not stopped")
		case <-time.After(time.Millisecond):
		}
	}
}
