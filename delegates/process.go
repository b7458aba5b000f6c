package delegates

import (
	"bytes"
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

// errPlexus is an executable that would lead back here, with whatever a network's
// author has written as the configuration of the node.
var errPlexus = errors.New("plexus cannot be a delegate of itself")

// FindInPath is invoke.Exec. No name leads to plexus itself.
func (*executor) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err == nil && isPlexus(path) {
		return path, fmt.Errorf("plugin %q: %s is plexus: %w", plugin, path, errPlexus)
	}
	return path, err
}

// ExecPlugin is invoke.Exec.
func (x *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	p, err := x.exec(ctx, path, stdin, environ)
	if err != nil {
		return nil, err
	}
	err = p.ended(x.stderr)
	return p.output, err
}

// exec executes a plugin, and returns when it has answered: its output is not to be
// relied upon until it has ended.
func (x *executor) exec(ctx context.Context, path string, stdin []byte, environ []string) (*process, error) {
	p := x.early.take(path, environ)
	if p == nil {
		var err error
		if p, err = start(ctx, path, environ); err != nil {
			return nil, err
		}
	}
	p.answer(ctx, stdin)
	return p, nil
}

// process is a plugin in execution. It has its environment and waits for its
// configuration on standard input, which says what it is to do (CNI specification
// 1.1.0, section 2).
type process struct {
	*stdio
	cmd     *exec.Cmd
	environ []string
	output  []byte // that it has written
	errRead error  // why there is no more of it; io.EOF when that is all

	listening func() bool // stops the end of ctx ending that
}

// An executable that somebody is writing at the moment is tried again.
const (
	busyTries = 5
	busyPause = time.Second
)

// lastWords is how long is listened to what has been killed: a child of it may go on
// and keep its standard output open.
const lastWords = time.Second

// maxLooks is after how many parts of an answer is no longer looked whether it is whole,
// but its end awaited.
const maxLooks = 16

// oneProcessor is told to plugins, most of which are in Go and do one thing after the
// other: its runtime loses half a millisecond by waking threads on further processors.
// What plexus was told itself, they are told instead.
const oneProcessor = "GOMAXPROCS=1"

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

func startOnce(ctx context.Context, path string, environ []string) (*process, error) {
	files, err := takeStdio()
	if err != nil {
		return nil, fmt.Errorf("execute %s: its standard input, output and error: %w", path, err)
	}
	p := &process{stdio: files, cmd: exec.CommandContext(ctx, path), environ: environ}
	p.cmd.Env = append([]string{oneProcessor}, environ...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = files.theirIn, files.theirOut, files.stderr
	if err := p.cmd.Start(); err != nil {
		files.discard()
		return nil, err
	}
	_, _ = files.theirIn.Close(), files.theirOut.Close()
	return p, nil
}

// stdio is standard input, output and error of a plugin.
type stdio struct {
	theirIn, theirOut *os.File // its ends
	stdin, stdout     *os.File // the others
	stderr            *os.File // in memory: a pipe would need somebody to empty it meanwhile
}

func newStdio() (s *stdio, err error) {
	s = &stdio{}
	if s.theirIn, s.stdin, err = os.Pipe(); err != nil {
		return nil, err
	}
	if s.stdout, s.theirOut, err = os.Pipe(); err == nil {
		var fd int
		if fd, err = unix.MemfdCreate("stderr", unix.MFD_CLOEXEC); err == nil {
			s.stderr = os.NewFile(uintptr(fd), "stderr")
			return s, nil
		}
	}
	s.discard()
	return nil, err
}

// close closes what is not closed; a nil file has no objection.
func (s *stdio) close() {
	_, _, _ = s.stdin.Close(), s.stdout.Close(), s.stderr.Close()
}

// discard closes what no plugin got.
func (s *stdio) discard() {
	_, _ = s.theirIn.Close(), s.theirOut.Close()
	s.close()
}

// spare is made for the next plugin while there is nothing else to do: it takes a fifth
// of what starting one does.
var spare = make(chan *stdio, 1)

// spareAfter is how long after a plugin was started that is done.
const spareAfter = 50 * time.Millisecond

func takeStdio() (*stdio, error) {
	time.AfterFunc(spareAfter, makeSpare)
	select {
	case s := <-spare:
		return s, nil
	default:
		return newStdio()
	}
}

func makeSpare() {
	if len(spare) > 0 {
		return
	}
	s, err := newStdio()
	if err != nil {
		return // the next one says so
	}
	select {
	case spare <- s:
	default:
		s.discard()
	}
}

// answer hands it its configuration and waits for its answer, an object. A plugin's
// end takes the kernel half a millisecond more.
func (p *process) answer(ctx context.Context, config []byte) {
	go func() { // it may answer before it has read all of it, or want none
		_, _ = p.stdin.Write(config)
		_ = p.stdin.Close()
	}()
	p.listening = context.AfterFunc(ctx, func() { _ = p.stdout.SetReadDeadline(time.Now().Add(lastWords)) })
	for parts := 0; p.errRead == nil && (parts >= maxLooks || !p.whole()); parts++ {
		p.read()
	}
}

// whole reports whether the output may be all of it.
func (p *process) whole() bool {
	text := bytes.TrimRight(p.output, " \t\r\n")
	return len(text) > 0 && text[len(text)-1] == '}' && json.Valid(text)
}

func (p *process) read() {
	p.output = slices.Grow(p.output, 4096)
	n, err := p.stdout.Read(p.output[len(p.output):cap(p.output)])
	p.output, p.errRead = p.output[:len(p.output)+n], err
}

// ended waits until it has ended. What it has written for people goes to stderr.
func (p *process) ended(stderr io.Writer) error {
	defer p.close()
	for p.errRead == nil {
		p.read()
	}
	p.listening()
	if err := p.cmd.Wait(); err != nil {
		return p.failure(err)
	}
	if said := p.said(); len(said) > 0 && stderr != nil {
		_, _ = stderr.Write(said)
	}
	if p.errRead == io.EOF {
		return nil
	}
	return p.errRead
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
	p.close()
	_ = p.cmd.Wait()
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
