package plugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// Retries of an executable that is open for writing (ETXTBSY).
const (
	busyTries = 5
	busyPause = time.Second
)

// outputGrace bounds the reading of output after the end of a plugin: a child of it may keep
// its standard output open.
const outputGrace = time.Second

// oneProcessor is in the environment of plugins. Most are single-threaded programs in Go, whose
// runtime loses half a millisecond by waking threads on further processors. A value in the
// environment of plexus overrides it.
const oneProcessor = "GOMAXPROCS=1"

// withinEnv is in the environment of plugins. When a plugin executes plexus, plexus refuses to
// be the node's meta-plugin: that configuration would be a tenant's.
const withinEnv = "PLEXUS_WITHIN=1"

// Bounds of a plugin's output, in bytes.
const (
	maxStdout = 4 << 20  // beyond it the plugin is killed
	maxStderr = 64 << 10 // the last bytes of standard error are kept
)

// errOutput is the cause of killing a plugin that writes too much.
var errOutput = fmt.Errorf("it wrote more than %d bytes on standard output", maxStdout)

// errTimeout is the cause of killing a plugin that takes too long.
var errTimeout = errors.New("it took too long")

// errPlexus refuses plexus as a plugin of a network: a tenant's configuration would be taken
// for the node's.
var errPlexus = errors.New("plexus cannot be a delegate of itself")

// FindInPath is invoke.Exec. It refuses plexus itself.
func (*Runner) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err == nil && isPlexus(path) {
		return path, fmt.Errorf("plugin %q: %s is plexus: %w", plugin, path, errPlexus)
	}
	return path, err
}

// ExecPlugin is invoke.Exec: it executes a plugin and returns its standard output when the
// plugin has ended. It kills the plugin when ctx is done, after the timeout, and when the
// output exceeds maxStdout.
func (r *Runner) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	began, timeout := time.Now(), cmp.Or(r.Timeout, conf.DefaultPluginTimeout)
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	stdout, stderr := &stdoutBuffer{tooMuch: func() { kill(errOutput) }}, &tail{}
	err := run(ctx, func() *exec.Cmd {
		cmd := command(ctx, path, environ)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), stdout, stderr
		return cmd
	})
	out, said, name := stdout.text.Bytes(), stderr.text(), filepath.Base(path)
	switch cause := context.Cause(ctx); {
	case err == nil:
		if len(said) > 0 && r.Stderr != nil {
			_, _ = r.Stderr.Write(said)
		}
		if lookup(environ, "CNI_COMMAND") == "ADD" {
			if err := checkOutput(out); err != nil {
				return nil, fmt.Errorf("plugin %q ended with exit status 0 and without a result: %w", name, err)
			}
		}
		return out, nil
	case errors.Is(cause, errOutput):
		return nil, fmt.Errorf("plugin %q was killed: %w", name, errOutput)
	case errors.Is(cause, errTimeout):
		err = fmt.Errorf("plugin %q was killed: it had not ended after %s (key \"pluginTimeout\"); it said to people %.500q", name, timeout, said)
	case cause != nil:
		err = fmt.Errorf("plugin %q was killed after %s: %w", name, time.Since(began).Round(time.Millisecond), cause)
	default:
		return nil, failure(err, out, said)
	}
	return nil, delegates.Coded(delegates.CodeTryAgain, err)
}

// command is the process of a plugin. It has a process group of its own, which is killed as a
// whole, and inherits the lock of the sandbox (lock.Of).
func command(ctx context.Context, path string, environ []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = slices.Concat([]string{oneProcessor}, environ, []string{withinEnv})
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.WaitDelay = outputGrace
	if l := lock.Of(ctx); l != nil {
		cmd.ExtraFiles = []*os.File{l.File()}
	}
	return cmd
}

// run executes a plugin until its end. The kernel sends Pdeathsig when the thread that started
// the child ends, not when its process ends. So the goroutine keeps its thread locked until
// the plugin has ended: then the plugin is killed only when plexus ends.
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
	if state := cmd.ProcessState; state == nil || !state.Exited() { // its children must not go on while the plugin is undone
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // the plugin has succeeded; a child of it has the output open
	}
	return err
}

// stdoutBuffer has the standard output of a plugin, up to maxStdout bytes.
type stdoutBuffer struct {
	text    bytes.Buffer
	tooMuch func()
}

func (a *stdoutBuffer) Write(p []byte) (int, error) {
	if a.text.Len()+len(p) > maxStdout {
		a.tooMuch()
		return 0, errOutput
	}
	return a.text.Write(p)
}

// tail has the last maxStderr bytes that were written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if len(t.data) > 2*maxStderr {
		t.data = append(t.data[:0], t.text()...)
	}
	return len(p), nil
}

func (t *tail) text() []byte { return t.data[max(0, len(t.data)-maxStderr):] }

// maxMessage bounds the texts of a plugin that an error repeats, in bytes.
const maxMessage = 4 << 10

// failure is the error that a plugin has written (CNI specification 1.1.0, section 5,
// "Error").
func failure(err error, stdout, stderr []byte) error {
	e := &types.Error{}
	if json.Unmarshal(stdout, e) != nil || e.Msg == "" && e.Code == 0 {
		e = types.NewError(types.ErrInternal, fmt.Sprintf("the plugin failed (%v) and names no error; it wrote %.500q, and for people %.500q", err, stdout, stderr), "")
	}
	if e.Code == 0 {
		e.Code = types.ErrInternal
	}
	e.Msg, e.Details = fmt.Sprintf("%.*s", maxMessage, e.Msg), fmt.Sprintf("%.*s", maxMessage, e.Details)
	return e
}
