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
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// holder is the environment of this test's executable as a process that holds a lock:
// "TABLE OBJECT". It starts a child that inherits the lock, says the child's PID when it
// has it, and ends when its standard input does.
const holder = "LOCK_TEST_HOLDER"

func TestMain(m *testing.M) {
	if of := os.Getenv(holder); of != "" {
		if err := hold(strings.Fields(of)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if file := os.Getenv(fileHolder); file != "" {
		if err := holdFile(file); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func hold(of []string) error {
	l, err := Table(of[0]).Take(context.Background(), of[1], "object "+of[1])
	if err != nil {
		return err
	}
	child := exec.Command("sleep", "1000")
	child.ExtraFiles = []*os.File{l.File()}
	if err := child.Start(); err != nil {
		return err
	}
	fmt.Println(child.Process.Pid)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	l.Release()
	fmt.Println("released")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return nil
}

// process is a holder in execution.
type process struct {
	cmd   *exec.Cmd
	say   func()
	hear  func() string
	child int
}

func startHolder(t *testing.T, table Table, object string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", holder, table, object))
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	p.hear = func() string { lines.Scan(); return lines.Text() }
	p.say = func() { _, _ = fmt.Fprintln(in) }
	if _, err := fmt.Sscan(p.hear(), &p.child); err != nil {
		t.Fatalf("the holder says %q", lines.Text())
	}
	t.Cleanup(func() {
		_ = unix.Kill(p.child, unix.SIGKILL)
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	return p
}

// soon bounds what a test waits for; it is no measure.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// now is a context that is done: a lock is had at once, or not.
func now(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func table(t *testing.T) Table { return Table(filepath.Join(t.TempDir(), "run", "objects")) }

func isFree(t *testing.T, table Table, object string) bool {
	t.Helper()
	l, err := table.Take(now(t), object, object)
	var held *HeldError
	switch {
	case err == nil:
		l.Release()
	case !errors.As(err, &held):
		t.Fatal(err)
	}
	return err == nil
}

// Goroutines exclude each other, and other objects are free.
func TestGoroutinesExcludeEachOther(t *testing.T) {
	table := table(t)
	inside, most := 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 20 {
				l, err := table.Take(soon(t), "a", "object a")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				if !isFree(t, table, "b") {
					t.Error("another object is locked")
				}
				mu.Lock()
				inside--
				mu.Unlock()
				l.Release()
			}
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d held the lock at once", most)
	}
	entries, err := os.ReadDir(filepath.Dir(string(table)))
	if err != nil || len(entries) != 1 {
		t.Errorf("files %v, %v, want the table alone", entries, err)
	}
}

// Processes exclude each other. The error names them; a release frees the object
// although a child has the descriptor.
func TestProcessesExcludeEachOther(t *testing.T) {
	table := table(t)
	p := startHolder(t, table, "a")
	_, err := table.Take(now(t), "a", "object a")
	var held *HeldError
	if !errors.As(err, &held) || !held.Temporary() || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, want a HeldError", err)
	}
	for _, want := range []string{"object a", fmt.Sprintf("(pid %d)", p.cmd.Process.Pid), fmt.Sprintf("sleep (pid %d)", p.child)} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	if !isFree(t, table, "b") {
		t.Error("another object is locked")
	}
	had := make(chan error, 1)
	go func() {
		l, err := table.Take(soon(t), "a", "object a")
		if err == nil {
			l.Release()
		}
		had <- err
	}()
	p.say()
	if got := p.hear(); got != "released" {
		t.Fatalf("the holder says %q", got)
	}
	if err := <-had; err != nil {
		t.Errorf("after a release, which a child survives: %v", err)
	}
	if err := unix.Kill(p.child, 0); err != nil {
		t.Errorf("the child: %v", err)
	}
}

// A child of a killed process keeps the lock until it ends.
func TestAChildHoldsTheLockOfAKilledProcess(t *testing.T) {
	table := table(t)
	p := startHolder(t, table, "a")
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = p.cmd.Process.Wait()
	_, err := table.Take(now(t), "a", "object a")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("held by sleep (pid %d)", p.child)) || strings.Contains(err.Error(), fmt.Sprint(p.cmd.Process.Pid)) {
		t.Fatalf("%v, want the child %d alone", err, p.child)
	}
	if err := unix.Kill(p.child, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l, err := table.Take(soon(t), "a", "object a")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// Waiting ends with the context, whose cause is told. A free lock is had all the same.
func TestWaitingEndsWithTheContext(t *testing.T) {
	table := table(t)
	l, err := table.Take(now(t), "a", "object a")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, enough)
	defer cancel()
	if _, err := table.Take(ctx, "a", "object a"); !errors.Is(err, enough) {
		t.Errorf("%v, want the cause", err)
	}
}

// A lock needs no inode once its table is there.
func TestALockNeedsNoInode(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=3"); err != nil {
		t.Skip("mount tmpfs:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	table := Table(filepath.Join(dir, "objects"))
	if !isFree(t, table, "a") {
		t.Fatal("it is locked")
	}
	for n := 0; ; n++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range 100 {
		l, err := table.Take(now(t), fmt.Sprint(n), "object")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
	}
}

// A budget is spent by all locks together, names every holder, and does not delay what
// is free.
func TestABudget(t *testing.T) {
	table := table(t)
	for n := range 50 {
		l, err := table.Take(now(t), fmt.Sprint(n), "object")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Release()
	}
	b := NewBudget(table, 50*time.Millisecond)
	began := time.Now()
	for n := range 60 {
		l, err := b.Take(t.Context(), fmt.Sprint(n), "object "+fmt.Sprint(n))
		if n >= 50 {
			if err != nil {
				t.Errorf("one that is free: %v", err)
			} else {
				l.Release()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("object %d", n)) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("%v, want the object and this process", err)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s: the budget is that of each", took)
	}
}

// What cannot be a table is an error that names object and file.
func TestABadTable(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range []Table{Table(dir), Table(filepath.Join(dir, "f", "objects"))} {
		if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bad.Take(soon(t), "a", "object a"); err == nil || !strings.Contains(err.Error(), "object a") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v, want object and file", err)
		}
	}
}

// A lock with a file of its own excludes, waits, and leaves no file.
func TestALockedFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run", "a.lock")
	inside, most := 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				release, err := TakeFile(soon(t), file, "the file")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				release()
			}
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d held the lock at once", most)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	release, err := TakeFile(now(t), file, "the file")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeFile(now(t), file, "the file"); err == nil || !strings.Contains(err.Error(), "the file") {
		t.Errorf("%v, want that it is held", err)
	}
	release()

	// As the former version of plexus holds it.
	former, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(former.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if _, err := TakeFile(now(t), file, "the file"); err == nil {
		t.Error("it is had beside the former version of plexus")
	}
	_ = former.Close()
	if release, err = TakeFile(now(t), file, "the file"); err != nil {
		t.Error(err)
	} else {
		release()
	}
	if _, err := TakeFile(soon(t), filepath.Dir(file), "the folder"); err == nil || !strings.Contains(err.Error(), "the folder") {
		t.Errorf("%v, want that it is a folder", err)
	}
}
