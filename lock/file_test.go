package lock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fileHolder is the environment of this test's executable as a process that holds the
// lock of a file. It says that it has it, releases it when a line is read, and ends with
// its standard input.
const fileHolder = "LOCK_TEST_FILE_HOLDER"

func holdFile(file string) error {
	release, err := TakeFile(context.Background(), file, "the file")
	if err != nil {
		return err
	}
	fmt.Println("had")
	in := bufio.NewReader(os.Stdin)
	_, _ = in.ReadString('\n')
	release()
	fmt.Println("released")
	_, _ = in.ReadString('\n')
	return nil
}

// startFileHolder gives a process that holds the lock, and what makes it release it.
func startFileHolder(t *testing.T, file string) (p *os.Process, release func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fileHolder+"="+file)
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	hear := func(want string) {
		t.Helper()
		if lines.Scan(); lines.Text() != want {
			t.Fatalf("the holder says %q, want %q", lines.Text(), want)
		}
	}
	hear("had")
	return cmd.Process, func() {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		hear("released")
	}
}

// takeSoon takes the lock of a file in another goroutine.
func takeSoon(t *testing.T, file string) <-chan error {
	ctx, had := soon(t), make(chan error, 1)
	go func() {
		release, err := TakeFile(ctx, file, "the file")
		if err == nil {
			release()
		}
		had <- err
	}()
	return had
}

// Processes exclude each other by a file. It is had by one that waits when the holder
// releases it, which removes the file, and when the holder is killed, which does not.
func TestAFileLocksOtherProcessesOut(t *testing.T) {
	for _, killed := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "run", "a.lock")
		p, release := startFileHolder(t, file)
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(enough)
		_, err := TakeFile(ctx, file, "the file")
		var held *HeldError
		if !errors.As(err, &held) || !held.Temporary() || !errors.Is(err, enough) {
			t.Errorf("%v, want a HeldError with the cause", err)
		}
		if want := "lock the file: another operation on it is under way (enough): try again"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		waiting := takeSoon(t, file)
		if killed {
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		} else {
			release()
		}
		if err := <-waiting; err != nil {
			t.Errorf("killed %v: %v", killed, err)
		}
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("killed %v: the file is left: %v", killed, err)
		}
	}
}

// A lock file that was removed by hand keeps nobody out: the lock is of the file that has
// the name.
func TestALockedFileThatWasRemoved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.lock")
	startFileHolder(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := <-takeSoon(t, file); err != nil {
		t.Error(err)
	}
}

// What cannot be made or opened is an error that names lock and path, at once.
func TestABadFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "f", "a.lock"), filepath.Join(dir, "f", "x", "a.lock"), dir} {
		_, err := TakeFile(soon(t), file, "the file")
		var held *HeldError
		if err == nil || errors.As(err, &held) || !strings.Contains(err.Error(), "lock the file") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
