package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of what the kernel says of a descriptor, locks of open file descriptions count.
func TestLockedBytes(t *testing.T) {
	info := strings.Join([]string{
		"pos:\t0", "flags:\t02100002", "mnt_id:\t29", "ino:\t77",
		"lock:\t1: OFDLCK  ADVISORY  WRITE -1 00:1b:77 123 123",
		"lock:\t2: OFDLCK  ADVISORY  READ -1 00:1b:77 4611686018427387903 4611686018427387903",
		"lock:\t3: POSIX  ADVISORY  WRITE 17 00:1b:77 5 5",
		"lock:\t4: FLOCK  ADVISORY  WRITE 17 00:1b:77 0 EOF",
		"lock:\t5: OFDLCK  ADVISORY  WRITE -1 00:1b:77 x x",
		"lock:\t6: OFDLCK", "",
	}, "\n")
	if got := lockedBytes([]byte(info)); !slices.Equal(got, []int64{123, 1<<62 - 1}) {
		t.Errorf("bytes %v", got)
	}
}

// The name that a process gives itself cannot forge a line of a log.
func TestProcessName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "17")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for comm, want := range map[string]string{
		"plexusd\n": "plexusd (pid 17)", "a\nb\x1b[31m": `a\nb\x1b[31m (pid 17)`, "": " (pid 17)", `say "x"`: `say \"x\ (pid 17)`,
	} {
		if err := os.WriteFile(filepath.Join(dir, "comm"), []byte(comm), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := processName(dir); got != want {
			t.Errorf("%q is called %q, want %q", comm, got, want)
		}
	}
	if got := processName("/proc/none"); got != " (pid none)" {
		t.Errorf("a process that has ended is called %q", got)
	}
}

// A table that is not there has no holders. Where they cannot be found the error says so.
func TestNoHolders(t *testing.T) {
	if found := table(t).search(); len(found) > 0 {
		t.Errorf("%v", found)
	}
	err := &HeldError{What: "sandbox x", Cause: context.DeadlineExceeded}
	if want := "lock sandbox x: another operation on it is under way (context deadline exceeded): try again when it has ended; a process that hangs has to be killed"; err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// A lock is held as long as any copy of its descriptor is open, as in a child that has
// inherited it. Release frees it all the same.
func TestCopiesOfTheDescriptor(t *testing.T) {
	table := table(t)
	for _, release := range []bool{true, false} {
		l, err := table.Take(now(t), "a", "object a")
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(l.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if release {
			l.Release()
		} else if err := l.File().Close(); err != nil {
			t.Error(err)
		}
		if free := isFree(t, table, "a"); free != release {
			t.Errorf("released %v, free %v", release, free)
		}
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
		if !isFree(t, table, "a") {
			t.Error("it is locked although nobody has the descriptor")
		}
	}
}

// The lock of a killed process that has no child is free.
func TestTheLockOfAKilledProcessIsFree(t *testing.T) {
	table := table(t)
	p := startHolder(t, table, "a")
	for _, pid := range []int{p.child, p.cmd.Process.Pid} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	l, err := table.Take(soon(t), "a", "object a")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// A budget gives up with the request that it is for, and says why; what is free is had
// although nothing is left of it.
func TestABudgetEndsWithTheContext(t *testing.T) {
	table := table(t)
	p := startHolder(t, table, "a")
	b := NewBudget(table, time.Hour)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	_, err := b.Take(ctx, "a", "object a")
	var held *HeldError
	if !errors.As(err, &held) || !errors.Is(err, enough) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", p.cmd.Process.Pid)) {
		t.Errorf("%v, want the cause and the holder", err)
	}
	none := NewBudget(table, 0)
	if _, err := none.Take(t.Context(), "a", "object a"); !errors.Is(err, errSpent) {
		t.Errorf("%v, want %v", err, errSpent)
	}
	l, err := none.Take(t.Context(), "b", "object b")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	if _, err := NewBudget(Table(t.TempDir()), time.Hour).Take(t.Context(), "a", "object a"); err == nil || errors.As(err, &held) {
		t.Errorf("a folder is no table: %v", err)
	}
}

// Poll tries once at least, as often as it takes, and not behind an error.
func TestPoll(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		ctx   context.Context
		after int // tries until it is had
		err   error
		had   bool
	}{
		{"at once", t.Context(), 1, nil, true},
		{"later", soon(t), 3, nil, true},
		{"at once, although the context is done", now(t), 1, nil, true},
		{"not in time", now(t), 2, nil, false},
		{"an error", soon(t), 2, broken, false},
	} {
		tries := 0
		had, err := Poll(c.ctx, func() (bool, error) {
			tries++
			if tries == c.after {
				return c.err == nil, c.err
			}
			return false, nil
		})
		if had != c.had || !errors.Is(err, c.err) || tries > c.after {
			t.Errorf("%s: had %v, %v, after %d tries", c.name, had, err, tries)
		}
	}
}

// Take is of the node's table. The test sees a /run of its own.
func TestTakeOfTheNode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a /run of its own needs root")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, with its mounts, ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", "/run", "tmpfs", 0, "")); err != nil {
				return err
			}
			unix.Umask(0o022) // of this thread alone, by now
			release, err := Take(now(t), "a", "object a")
			if err != nil {
				return err
			}
			if _, err := Take(now(t), "a", "object a"); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
				return fmt.Errorf("it is had twice: %v", err)
			}
			release()
			if release, err = Take(now(t), "a", "object a"); err != nil {
				return err
			}
			release()
			st, err := os.Stat(filepath.Dir(string(Node)))
			if err == nil && st.Mode().Perm() != 0o755 {
				err = fmt.Errorf("the folder has mode %v: users of pods cannot pass it to their sockets", st.Mode())
			}
			return err
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
