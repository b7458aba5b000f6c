package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

// adder is the environment of this test's executable as a process that ADDs what
// standalone does, in that folder.
const adder = "DELEGATES_TEST_ADDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(adder); dir != "" {
		e := &Engine{Journal: openJournal(filepath.Join(dir, "data")), Log: slog.New(slog.DiscardHandler)}
		_, err := e.Add(context.Background(), standaloneRequest(dir))
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A plugin dies with plexus. A child of the plugin goes on, and holds the sandbox's lock
// until its end: DEL waits for it, and what the child makes late is undone.
func TestAPluginDiesWithPlexus(t *testing.T) {
	for range 3 {
		e, r, dir := standalone(t, `
[ $CNI_COMMAND = ADD ] || { rm -f late; exit 0; }
(while ! [ -e go ]; do sleep 0.01; done; : > late) &
echo $! > child.pid
echo $$ > plugin.pid
wait`)
		parent := exec.Command("/proc/self/exe")
		parent.Env = append(os.Environ(), adder+"="+dir)
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		awaitFile(t, filepath.Join(dir, "plugin.pid"))
		child := pidIn(t, filepath.Join(dir, "child.pid"))
		t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
		_ = parent.Process.Kill()
		_ = parent.Wait()
		ended(t, filepath.Join(dir, "plugin.pid"))

		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var coded *delegates.Error
		if err := e.Del(short, r); !errors.As(err, &coded) || coded.Code != delegates.CodeTryAgain || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", child)) {
			t.Errorf("DEL beside the child: %v, want code 11 and process %d", err, child)
		}
		deleted := make(chan error, 1)
		go func() { deleted <- e.Del(t.Context(), r) }()
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-deleted; err != nil {
			t.Fatal(err)
		}
		ended(t, filepath.Join(dir, "child.pid"))
		if _, err := os.Stat(filepath.Join(dir, "late")); err == nil {
			t.Error("what the child has made is there after DEL")
		}
	}
}

// The end of threads of plexus, which Go ends with goroutines that are locked to them,
// ends no plugin.
func TestThreadsThatEnd(t *testing.T) {
	e, r, dir := standalone(t, `: > there; while ! [ -e go ]; do sleep 0.01; done; `+answers)
	go func() {
		awaitFile(t, filepath.Join(dir, "there"))
		for range 100 {
			end := make(chan struct{})
			go func() {
				runtime.LockOSThread()
				close(end)
			}()
			<-end
		}
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Error(err)
		}
	}()
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Error(err)
	}
}

// GC skips sandboxes that other requests work on, with one wait for all. It names them
// and their processes, and what they have stays valid; the others are collected.
func TestGCSkipsLockedSandboxes(t *testing.T) {
	t.Parallel()
	e, r, dir := standalone(t, `cat > config.$CNI_COMMAND; [ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "1.1.0"}'`)
	r.Stdin = []byte(`{"cniVersion": "1.1.0", "name": "n", "type": "plugin"}`)
	var locked []string
	for n := range 12 {
		one := *r
		one.Sandbox = fmt.Sprintf("sandbox%d", n)
		if _, err := e.Add(t.Context(), &one); err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			_, held, err := e.Journal.Lock(t.Context(), one.Sandbox)
			if err != nil {
				t.Fatal(err)
			}
			defer held.Release()
			locked = append(locked, one.Sandbox)
		}
	}
	began := time.Now()
	err := e.GC(t.Context(), r, nil)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("GC took %s", took)
	}
	var coded *delegates.Error
	var held *lock.HeldError
	if !errors.As(err, &coded) || coded.Code != types.ErrTryAgainLater || !errors.As(err, &held) {
		t.Errorf("%v, want code 11", err)
	}
	for _, sandbox := range locked {
		if !strings.Contains(err.Error(), sandbox+":") || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("%v, want %s and the process", err, sandbox)
		}
	}
	left, err := e.Journal.Sandboxes()
	slices.Sort(locked)
	if err != nil || !slices.Equal(left, locked) {
		t.Errorf("recorded are %v, %v, want %v", left, err, locked)
	}
	config, err := os.ReadFile(filepath.Join(dir, "config.GC"))
	if err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range locked {
		if !strings.Contains(string(config), `"`+sandbox+`"`) {
			t.Errorf("%s is not valid for the plugin: %s", sandbox, config)
		}
	}
	if strings.Contains(string(config), `"sandbox0"`) {
		t.Errorf("what is collected is valid for the plugin: %s", config)
	}
}

// DEL works although the locks' file system has no inode left.
func TestDelWithoutAnInode(t *testing.T) {
	if os.Getenv("PLEXUS_TEST_MOUNTS") == "" {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: mounting needs root")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestDelWithoutAnInode$")
		cmd.Env = append(os.Environ(), "PLEXUS_TEST_MOUNTS=own")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "nr_inodes=8"); err != nil {
		t.Fatal(err)
	}
	e, r, _ := standalone(t, answers)
	if _, err := e.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		if err := os.WriteFile(fmt.Sprintf("/run/%d", n), nil, 0o600); err != nil {
			break
		}
	}
	if err := os.WriteFile("/run/more", nil, 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%v, want that no inode is left", err)
	}
	if err := e.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
}
