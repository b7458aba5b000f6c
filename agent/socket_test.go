package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plexusRequest is a request as a plexus of a former version sends it.
func plexusRequest(body string) string {
	return fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// confirmedRequest is a request as plexus sends it to an agent that confirms.
func confirmedRequest(body string) string {
	return fmt.Sprintf("POST /v1/cni HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// A client of HTTP/1.1 hears that its request is begun, one of HTTP/1.0 hears the answer
// alone; the name that the socket was bound to says that there will be a confirmation.
func TestConfirmation(t *testing.T) {
	a := serving(t)
	body := requestBody("", "version=1", "CNI_COMMAND=VERSION")
	if text := a.send(plexusRequest(body)); !strings.HasPrefix(text, "HTTP/1.0 200") {
		t.Errorf("HTTP/1.0: %q", text)
	}
	for _, request := range []string{confirmedRequest(body), "GET /healthz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"} {
		conn := a.dial()
		if !confirms(conn) {
			t.Errorf("the name of the peer is %s", conn.RemoteAddr())
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200") {
			t.Errorf("%q %v", text, err)
		}
	}
}

// A request whose connection is closed before the confirmation is not begun, however it was closed.
func TestNotBegunWithoutConfirmation(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	listener, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan string, 100)
	server := &http.Server{Handler: confirmed(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { begun <- r.URL.Path }))}
	dial := func(path string) *net.UnixConn {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			_, err = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: agent\r\nContent-Length: 3\r\n\r\nabc")
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn.(*net.UnixConn)
	}
	// None of these is accepted yet, as when the process is stopped.
	for range 20 {
		_ = dial("/closed").Close()
		shut := dial("/shut")
		raw, err := shut.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
		if err != nil {
			t.Fatal(err)
		}
		defer shut.Close()
	}
	last := dial("/open")
	defer last.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(checkedListener{listener}) }()
	_ = last.SetDeadline(time.Now().Add(time.Minute))
	for answers, want := bufio.NewReader(last), []int{102, 200}; len(want) > 0; want = want[1:] {
		if r, err := http.ReadResponse(answers, nil); err != nil || r.StatusCode != want[0] {
			t.Errorf("%v %v, want %d", r, err, want[0])
		}
	}
	if err := server.Shutdown(bound(t)); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	close(begun)
	for path := range begun {
		if path != "/open" {
			t.Errorf("%s is begun", path)
		}
	}
}

// All requests are read by net/http: a header behind an empty line belongs to the body,
// a request of two lengths is refused.
func TestOneReader(t *testing.T) {
	a := serving(t)
	body := requestBody("", "version=1", "CNI_COMMAND=VERSION")
	for _, text := range []string{
		fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nX: y\n\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST /v1/cni HTTP/1.0\r\n\nX: y\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\nContent-Length: 1\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\nX : y\r\n\r\n%s", len(body), body),
	} {
		if answer := a.send(text); strings.HasPrefix(answer, "HTTP/1.0 200") || strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Errorf("%q: %.200q", text, answer)
		}
	}
	a.serves()
}
