package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// executor is an invoke.Exec that executes.
type executor struct {
	version.PluginDecoder
	stderr io.Writer
	early  *early // nil, or what is running already
}

// FindInPath is invoke.Exec.
func (*executor) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin is invoke.Exec.
func (x *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if p := x.early.take(path, environ); p != nil {
		return p.run(ctx, stdin, x.stderr)
	}
	p, err := start(ctx, path, environ)
	if err != nil {
		return nil, err
	}
	return p.run(ctx, stdin, x.stderr)
}

// process is a plugin in execution. It has its environment and waits for its
// configuration on standard input, which says what it is to do (CNI specification
// 1.1.0, section 2).
type process struct {
	cmd     *exec.Cmd
	environ []string
	stdin   io.WriteCloser
	stdout  io.ReadCloser
	stderr  *os.File // in memory: a pipe would need somebody to empty it meanwhile
	output  []byte   // that it has written
}

// An executable that somebody is writing at the moment is tried again.
const (
	busyTries = 5
	busyPause = time.Second
)

// lastWords is how long is listened to what has been killed: a child of it may go on
// and keep its standard output open.
const lastWords = time.Second

// start executes a plugin. It is ended when ctx is done.
func start(ctx context.Context, path string, environ []string) (*process, error) {
	for tries := 1; ; tries++ {
		p, err := startOnce(ctx, path, environ)
		if !errors.Is(err, syscall.ETXTBSY) || tries > busyTries {
			return p, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(busyPause):
		}
	}
}

func startOnce(ctx context.Context, path string, environ []string) (p *process, err error) {
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("execute %s: memory for its standard error: %w", path, err)
	}
	p = &process{cmd: exec.CommandContext(ctx, path), environ: environ, stderr: os.NewFile(uintptr(fd), "stderr")}
	p.cmd.Env, p.cmd.Stderr = environ, p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err == nil {
		if p.stdout, err = p.cmd.StdoutPipe(); err == nil {
			err = p.cmd.Start()
		}
	}
	if err != nil {
		return nil, errors.Join(err, p.stderr.Close())
	}
	return p, nil
}

// run hands it its configuration and waits for its answer.
func (p *process) run(ctx context.Context, config []byte, stderr io.Writer) ([]byte, error) {
	defer p.stderr.Close()
	go func() { // it may answer before it has read all of it, or want none
		_, _ = p.stdin.Write(config)
		_ = p.stdin.Close()
	}()
	if out, ok := p.stdout.(interface{ SetReadDeadline(time.Time) error }); ok {
		defer context.AfterFunc(ctx, func() { _ = out.SetReadDeadline(time.Now().Add(lastWords)) })()
	}
	var errRead error
	p.output, errRead = io.ReadAll(p.stdout)
	if err := p.cmd.Wait(); err != nil {
		return nil, p.failure(err)
	}
	if said := p.said(); len(said) > 0 && stderr != nil {
		_, _ = stderr.Write(said) // for people
	}
	return p.output, errRead
}

// said is what it has written to standard error.
func (p *process) said() []byte {
	st, err := p.stderr.Stat()
	if err != nil || st.Size() == 0 {
		return nil
	}
	text := make([]byte, st.Size())
	n, _ := p.stderr.ReadAt(text, 0)
	return text[:n]
}

// failure is what the plugin says of its error (CNI specification 1.1.0, section 5,
// "Error").
func (p *process) failure(err error) error {
	e := &types.Error{}
	if json.Unmarshal(p.output, e) != nil || e.Msg == "" && e.Code == 0 {
		e.Code, e.Msg = types.ErrInternal, fmt.Sprintf("the plugin failed (%v) and names no error; it wrote %.500q, and for people %.500q", err, p.output, p.said())
	}
	return e
}

// end ends a process that was not given a configuration. nil has ended.
func (p *process) end() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.stdin.Close()
	_ = p.cmd.Wait()
	_ = p.stderr.Close()
}

// early is the first plugin of the transaction, started while that is prepared and
// recorded: starting takes it longer than both. It gets its configuration when it is
// its turn.
type early struct{ *process }

func (e *Engine) startEarly(ctx context.Context, r *Request, plan *conf.Plan) *early {
	none := &early{}
	if len(plan.Networks) == 0 {
		return none
	}
	tx := &Transaction{Path: e.path(r)}
	c := e.chain(r.Sandbox, tx, &Entry{Network: plan.Networks[0]}, r.Netns)
	types := c.entry.List.Types()
	if len(types) == 0 || e.Delegates[types[0]] != nil {
		return none
	}
	path, err := c.FindInPath(types[0], tx.Path)
	if err != nil {
		return none // prepare says so
	}
	p, err := startOnce(ctx, path, c.environment("ADD"))
	if err != nil {
		return none // its turn will tell
	}
	return &early{p}
}

// take is the process, once, if it is what is wanted.
func (s *early) take(path string, environ []string) *process {
	if s == nil || s.process == nil || s.cmd.Path != path || !slices.Equal(s.environ, environ) {
		return nil
	}
	p := s.process
	s.process = nil
	return p
}
