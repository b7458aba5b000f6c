package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// executor is an invoke.Exec that executes.
type executor struct {
	version.PluginDecoder
	stderr  io.Writer     // gets what plugins that succeed say to people; nil for nothing
	timeout time.Duration // of one execution; 0 is without limit
}

// An executable that is being written at the moment is tried again.
const (
	busyTries = 5
	busyPause = time.Second
)

// lastWords is how long the output of a plugin is read that has ended, or was killed: a
// child of it may go on and keep its standard output open.
const lastWords = time.Second

// oneProcessor is told to plugins, most of which are in Go and do one thing after the
// other: the runtime of Go loses half a millisecond by waking threads on further
// processors. The value that plexus itself was told comes before it.
const oneProcessor = "GOMAXPROCS=1"

// within tells plexus, should a plugin execute it, that it is one. Plexus refuses then to
// be the node's meta-plugin: the configuration that it would get is a tenant's.
const within = "PLEXUS_WITHIN=1"

// What is kept of a plugin's output, in bytes.
const (
	maxAnswer = 4 << 20  // beyond it the plugin is killed
	maxStderr = 64 << 10 // the last of what it says to people
)

// errAnswer is the cause of the end of a plugin that writes too much.
var errAnswer = fmt.Errorf("it wrote more than %d bytes on standard output", maxAnswer)

// errTimeout is the cause of the end of a plugin that takes too long.
var errTimeout = errors.New("it took too long")

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

// ExecPlugin is invoke.Exec: it executes a plugin and returns its whole answer when it
// has ended. A plugin is killed when ctx is done, after the timeout, and when it answers
// without end.
func (x *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	began := time.Now()
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	if x.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, x.timeout, errTimeout)
		defer cancel()
	}
	stdout, stderr := &answer{tooMuch: func() { kill(errAnswer) }}, &tail{}
	err := run(ctx, func() *exec.Cmd {
		cmd := command(ctx, path, environ)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
		return cmd
	})
	switch name := filepath.Base(path); {
	case err == nil:
		if said := stderr.text(); len(said) > 0 && x.stderr != nil {
			_, _ = x.stderr.Write(said)
		}
		out := stdout.text.Bytes()
		if lookup(environ, "CNI_COMMAND") == "ADD" {
			if err := checkAnswer(out); err != nil {
				return nil, fmt.Errorf("plugin %q ended with exit status 0 and without a result: %w", name, err)
			}
		}
		return out, nil
	case errors.Is(context.Cause(ctx), errAnswer):
		return nil, fmt.Errorf("plugin %q was killed: %w", name, errAnswer)
	case errors.Is(context.Cause(ctx), errTimeout):
		return nil, delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("plugin %q was killed: it had not ended after %s (key \"pluginTimeout\"); it said to people %.500q", name, x.timeout, stderr.text()))
	case ctx.Err() != nil:
		return nil, delegates.Coded(delegates.CodeTryAgain, fmt.Errorf("plugin %q was killed after %s: %w", name, time.Since(began).Round(time.Millisecond), context.Cause(ctx)))
	}
	return nil, failure(err, stdout.text.Bytes(), stderr.text())
}

// command is the execution of a plugin. The plugin has a process group of its own, all
// of which is killed, and inherits the lock of the sandbox (lock.Of).
func command(ctx context.Context, path string, environ []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = slices.Concat([]string{oneProcessor}, environ, []string{within})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = lastWords
	if l := lock.Of(ctx); l != nil {
		cmd.ExtraFiles = []*os.File{l.File()}
	}
	return cmd
}

// run executes a plugin until its end. The kernel sends Pdeathsig when the thread ends
// that has started the child, not its process. A thread of Go ends with a goroutine that
// is locked to it. So this goroutine has the thread for itself until the plugin has
// ended; then only the end of plexus ends the plugin.
func run(ctx context.Context, command func() *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := command()
	err := cmd.Start()
	for tries := 1; errors.Is(err, syscall.ETXTBSY) && tries <= busyTries; tries++ {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyPause):
		}
		cmd = command()
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	err = cmd.Wait()
	signaled := cmd.ProcessState == nil // the kernel does not say how it has ended
	if !signaled {
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		signaled = ok && status.Signaled()
	}
	if signaled { // its children may be changing what is undone next
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it has ended well; a child of it has its output open
	}
	return err
}

// answer keeps the standard output of a plugin up to maxAnswer.
type answer struct {
	text    bytes.Buffer
	tooMuch func()
}

func (a *answer) Write(p []byte) (int, error) {
	if a.text.Len()+len(p) > maxAnswer {
		a.tooMuch()
		return 0, errAnswer
	}
	return a.text.Write(p)
}

// tail keeps the last maxStderr bytes.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*maxStderr {
		t.kept = append(t.kept[:0], t.text()...)
	}
	return len(p), nil
}

func (t *tail) text() []byte { return t.kept[max(0, len(t.kept)-maxStderr):] }

// maxSaid bounds what an error repeats of a plugin's own, in bytes.
const maxSaid = 4 << 10

// failure is what the plugin says of its error (CNI specification 1.1.0, section 5,
// "Error").
func failure(err error, stdout, stderr []byte) error {
	e := &types.Error{}
	if json.Unmarshal(stdout, e) != nil || e.Msg == "" && e.Code == 0 {
		e = types.NewError(types.ErrInternal, fmt.Sprintf("the plugin failed (%v) and names no error; it wrote %.500q, and for people %.500q", err, stdout, stderr), "")
	}
	if e.Code == 0 {
		e.Code = types.ErrInternal
	}
	e.Msg, e.Details = fmt.Sprintf("%.*s", maxSaid, e.Msg), fmt.Sprintf("%.*s", maxSaid, e.Details)
	return e
}
