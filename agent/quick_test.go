package agent

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// plexusRequest is a request as plexus sends it.
func plexusRequest(body string) string {
	return fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// Only plexus' request, whole, is served quickly.
func TestQuickBody(t *testing.T) {
	body := "version=1\x00\x00{}\r\n\r\n"
	whole := plexusRequest(body)
	if got := string(quickBody([]byte(whole))); got != body {
		t.Errorf("%q", got)
	}
	for n := range len(whole) {
		if got := quickBody([]byte(whole[:n])); got != nil {
			t.Errorf("%q of %q", got, whole[:n])
		}
	}
	for _, other := range []string{
		whole + "x", "GET" + whole[4:], strings.Replace(whole, "HTTP/1.0", "HTTP/1.1", 1), strings.Replace(whole, "/v1/cni", "/v1/check", 1),
		strings.Replace(whole, "Content-Length: ", "Content-Length: -", 1), strings.Replace(whole, "Content-Length: ", "X-Content-Length: ", 1),
		"POST /v1/cni HTTP/1.0\r\nContent-Length: 0\r\n\r\n", "POST /v1/cni HTTP/1.0\r\n\r\nContent-Length: 3\r\n\r\nabc",
		strings.Replace(whole, fmt.Sprint(len(body)), "99999999999999999999", 1),
	} {
		if got := quickBody([]byte(other)); got != nil {
			t.Errorf("%q of %q", got, other)
		}
	}
}

// A connection whose request has come whole goes one way, any other one the other, with
// all that has come.
func TestListener(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	inner, err := listenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	bodies, others := make(chan string, 1), make(chan net.Conn, 1)
	l := &checkedListener{UnixListener: inner, quick: func(conn net.Conn, asked *Request) {
		bodies <- string(asked.Stdin)
		_ = conn.Close()
	}}
	ended := make(chan error, 1)
	accept := func() { // until one is given to net/http
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		others <- conn
	}
	dial := func(first string) net.Conn {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	whole := plexusRequest("version=1\x00\x00{}")
	dial(whole)
	cut := dial(whole[:40])
	go accept()
	if got := <-bodies; got != "{}" {
		t.Errorf("%q", got)
	}
	rest := <-others
	if _, err := io.WriteString(cut, whole[40:]); err != nil {
		t.Fatal(err)
	}
	_ = cut.Close()
	if got, err := io.ReadAll(rest); err != nil || string(got) != whole {
		t.Errorf("%q %v", got, err)
	}
	_ = rest.Close()
	silent := dial("")
	accept()
	_ = silent.Close()
	rest = <-others
	if got, err := io.ReadAll(rest); err != nil || len(got) != 0 {
		t.Errorf("%q %v", got, err)
	}
	go accept()
	_ = inner.Close()
	if err := <-ended; err == nil {
		t.Error("it goes on without a socket")
	}
}
