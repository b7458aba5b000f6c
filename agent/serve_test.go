package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What is no request is refused or dropped, and the agent goes on.
func TestGarbageOnTheSocket(t *testing.T) {
	a := serving(t)
	long := strings.Repeat("x", 3<<20)
	for _, text := range []string{
		"", "\x00", "\n\n\n", "GET", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00", long,
		"POST /v1/cni HTTP/1.0\r\n", "POST /v1/cni HTTP/1.0\r\nContent-Length: x\r\n\r\n", "POST /v1/cni HTTP/1.0\r\nContent-Length: -1\r\n\r\n{}",
		"POST /v1/cni HTTP/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
		"POST /v1/cni HTTP/1.0\r\nContent-Length: 1000\r\n\r\n{\"version\":", "POST /v1/cni HTTP/1.0\r\nContent-Length: 3\r\n\r\n{\"version\": 1}",
		"POST /v1/cni HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "POST /v1/cni HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{",
		"GET /" + long + " HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nX: " + long + "\r\n\r\n",
		"PUT /v1/cni HTTP/1.0\r\n\r\n", "GET /v1/cni HTTP/1.0\r\n\r\n", "POST /v1/../v1/cni HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if answer := a.send(text); strings.HasPrefix(answer, "HTTP/1.0 200") {
			t.Errorf("%.80q: %.200q", text, answer)
		}
		a.serves()
	}
}

// Bodies that never end, and connections that say nothing, keep nobody from
// being served, and do not keep the agent from ending.
func TestHalfRequests(t *testing.T) {
	a := serving(t)
	for i := range 200 {
		conn := a.dial()
		text := "POST /v1/cni HTTP/1.0\r\nContent-Length: 1000\r\n\r\nversion=1\x00CNI_COMMAND=VERSION\x00\x00"
		if _, err := io.WriteString(conn, text[:i*len(text)/200]); err != nil {
			t.Fatal(err)
		}
	}
	a.serves()
}

// Connections by the thousand: those above what the process may have wait, the
// agent answers when they have gone.
func TestManyConnections(t *testing.T) {
	a := serving(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	most := 10000
	if room := int(limit.Cur)/2 - 200; room < most { // both ends are this process'
		most = room
	}
	var open []net.Conn
	dialing := bound(t)
	for len(open) < most {
		conn, err := (&net.Dialer{}).DialContext(dialing, "unix", a.socket)
		if errors.Is(err, unix.EAGAIN) && dialing.Err() == nil { // plexus' connect would wait (unix(7))
			runtime.Gosched()
			continue
		}
		if err != nil {
			t.Fatalf("connection %d: %v", len(open), err)
		}
		open = append(open, conn)
	}
	t.Logf("%d connections", len(open))
	a.serves()
	for _, conn := range open {
		_ = conn.Close()
	}
	a.serves()
	ctx := bound(t)
	for runtime.NumGoroutine() > 200 {
		if ctx.Err() != nil {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

// The socket is its owner's alone, and who comes by another way is refused by
// what the kernel says of it.
func TestWhoMayConnect(t *testing.T) {
	a := serving(t)
	st, err := os.Stat(a.socket)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Fatalf("mode %v, %v, want a socket of mode 0600", st.Mode(), err)
	}
	if os.Getuid() != 0 {
		t.Fatal("only root can be somebody else")
	}
	const nobody = 65534
	if got := connectAs(t, nobody, a.socket); !errors.Is(got.err, unix.EACCES) {
		t.Errorf("nobody connects: %v, want permission denied", got.err)
	}
	// Given away by mistake.
	for dir := filepath.Dir(a.socket); dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, st.Mode()|0o011); err != nil {
			t.Fatal(err)
		}
		if dir == os.TempDir() {
			break
		}
	}
	if err := os.Chmod(a.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{nobody, 1000} {
		if got := connectAs(t, uid, a.socket); got.err != nil || got.answer != "" {
			t.Errorf("user %d: %v, answer %q; want no answer", uid, got.err, got.answer)
		}
	}
	if got := connectAs(t, 0, a.socket); got.err != nil || !strings.HasPrefix(got.answer, "HTTP/1.0 200") {
		t.Errorf("root: %v, answer %q", got.err, got.answer)
	}
	a.serves()
}

type reply struct {
	answer string
	err    error
}

// connectAs asks as a user, from a thread that is that user's and ends with it.
func connectAs(t *testing.T, uid int, socket string) reply {
	t.Helper()
	result := make(chan reply)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			result <- reply{err: errno}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			result <- reply{err: err}
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
			result <- reply{err: err}
			return
		}
		_, _ = unix.Write(fd, []byte("GET /healthz HTTP/1.0\r\n\r\n")) // EPIPE: refused already
		var answer []byte
		part := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, part)
			if n <= 0 || err != nil {
				break
			}
			answer = append(answer, part[:n]...)
		}
		result <- reply{answer: string(answer)}
	}()
	return <-result
}

// A socket that a killed agent has left is replaced, in one step: whoever
// connects in a loop always finds one.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "a.sock")
	for _, name := range []string{socket, socket + confirming} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var missing error
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			if _, err := os.Lstat(socket); err != nil {
				missing = err
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 5 {
		a := serveAt(t, socket, filepath.Join(dir, "data"))
		a.serves()
		if err := a.stop(); err != nil {
			t.Fatalf("%v\n%s", err, a.log)
		}
	}
	close(done)
	watcher.Wait()
	if missing != nil {
		t.Errorf("there was a moment without a socket: %v", missing)
	}
	left, err := filepath.Glob(socket + ".*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// A second agent waits until the first has ended, and takes its place.
func TestTwoAgents(t *testing.T) {
	dir := t.TempDir()
	socket, data := filepath.Join(dir, "a.sock"), filepath.Join(dir, "data")
	first := serveAt(t, socket, data)
	before, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan *running, 1)
	var group sync.WaitGroup
	group.Go(func() { second <- serveAt(t, socket, data) })
	for range 20 {
		first.serves()
	}
	if now, err := os.Stat(socket); err != nil || !os.SameFile(before, now) || len(second) > 0 {
		t.Fatalf("the second agent serves beside the first: %v", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-second:
		b.serves()
	case <-bound(t).Done():
		t.Fatal("the second agent never serves")
	}
	group.Wait()
}
