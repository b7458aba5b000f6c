package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listenAs listens at a socket whose name is another one than it was bound to.
func listenAs(t *testing.T, suffix string) (*net.UnixListener, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "a.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket + suffix})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Rename(socket+suffix, socket); err != nil {
		t.Fatal(err)
	}
	return l, socket
}

// hang is far more than any request here takes.
const hang = time.Minute

// asking asks, and wants an answer or an error before long.
func asking(t *testing.T, socket, stdin string) (*reply, *agentError) {
	t.Helper()
	type heard struct {
		a   *reply
		err *agentError
	}
	done := make(chan heard, 1)
	go func() {
		a, err := callAgent(socket, "plexus", []byte(stdin))
		done <- heard{a, err}
	}()
	select {
	case h := <-done:
		return h.a, h.err
	case <-time.After(hang):
		t.Fatal("it still asks")
	}
	return nil, nil
}

// A request that a stopped agent does not take is left to plexusd, for every verb and
// of any length, and the agent cannot confirm it later.
func TestStopped(t *testing.T) {
	for _, verb := range []string{"ADD", "DEL"} {
		t.Setenv("CNI_COMMAND", verb)
		for _, stdin := range []string{"{}", strings.Repeat(" ", 4<<20)} {
			l, socket := listenAs(t, confirmSuffix) // accepts nothing
			_, failed := asking(t, socket, stdin)
			if failed == nil || failed.silent || failed.sent || !strings.Contains(failed.Error(), socket) {
				t.Fatalf("%s of %d bytes: %v", verb, len(stdin), failed)
			}
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err = io.WriteString(conn, "HTTP/1.1 102 Processing\r\n\r\n"); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%s of %d bytes is confirmed later: %v", verb, len(stdin), err)
			}
			_ = conn.Close()
		}
	}
}

// So many wait for a stopped agent that the kernel queues no more of them.
func TestStoppedWithAFullQueue(t *testing.T) {
	t.Setenv("CNI_COMMAND", "ADD")
	l, socket := listenAs(t, confirmSuffix)
	raw, err := l.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) })
	}
	if err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", socket)
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, failed := asking(t, socket, "{}"); failed == nil || failed.silent || failed.sent {
		t.Errorf("%v", failed)
	}
}

// An agent that has confirmed may take its time, and so may one of a former version,
// which never confirms: neither is stopped.
func TestSlowAnswers(t *testing.T) {
	t.Setenv("CNI_COMMAND", "ADD")
	for suffix, interim := range map[string]string{
		confirmSuffix: "HTTP/1.1 102 Processing\r\n\r\n", confirmSuffix + confirmSuffix: "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
		".new": "", ".102.new": "",
	} {
		t.Run(suffix, func(t *testing.T) {
			l, socket := listenAs(t, suffix)
			spoken := make(chan string, 10)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				spoken <- r.Proto
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(conn, interim)
				time.Sleep(confirmTimeout + 500*time.Millisecond) // slower than a confirmation may be
				body := "version=1\x00status=7\x00\x00out"
				fmt.Fprintf(conn, "%s 200 OK\r\nContent-Length: %d\r\n\r\n%s", r.Proto, len(body), body)
			}()
			a, failed := asking(t, socket, "{}")
			if failed != nil || a.status != 7 || a.stdout != "out" {
				t.Errorf("%+v %v", a, failed)
			}
			want := "HTTP/1.0"
			if interim != "" {
				want = "HTTP/1.1"
			}
			if got := <-spoken; got != want {
				t.Errorf("it speaks %s, want %s", got, want)
			}
		})
	}
}

// A confirmation that came before the request was withdrawn is seen, one that comes
// after it fails.
func TestWithdraw(t *testing.T) {
	for _, before := range []bool{true, false} {
		l, socket := listenAs(t, confirmSuffix)
		fd, err := connect(socket)
		if err != nil || !confirms(fd) {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if before {
			_, err = conn.Write([]byte("H"))
		}
		if withdrawn := withdraw(fd); err != nil || withdrawn == before {
			t.Errorf("confirmed before %v: withdrawn %v, %v", before, withdrawn, err)
		}
		if _, err := conn.Write([]byte("H")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%v", err)
		}
		_ = conn.Close()
		_ = syscall.Close(fd)
	}
}
