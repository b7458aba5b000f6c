package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

// standIn is a stand-in for the agent at the wire: each connection is given to
// answer, with the request that came.
type standIn struct {
	socket string
	mu     sync.Mutex
	bodies [][]byte // of all requests
}

func newStandIn(t *testing.T, answer func(n int, conn net.Conn)) *standIn {
	t.Helper()
	s := &standIn{socket: filepath.Join(t.TempDir(), "a.sock")}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				s.mu.Lock()
				s.bodies = append(s.bodies, body)
				n := len(s.bodies)
				s.mu.Unlock()
				answer(n, conn)
			}()
		}
	}()
	return s
}

func (s *standIn) requests() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.bodies...)
}

func say(body string) func(int, net.Conn) {
	return func(_ int, conn net.Conn) {
		fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

// An agent of a later version is understood, keys that are new are passed over.
func TestALaterAgentsAnswer(t *testing.T) {
	t.Setenv("CNI_COMMAND", "ADD")
	s := newStandIn(t, say("version=2\x00trace=a=b\x00status=1\x00stderr=err\x00more\x00\x00out\x00\x00"))
	a, err := callAgent(s.socket, "plexus", []byte("{}"))
	if err != nil || a.status != 1 || a.stdout != "out\x00\x00" || a.stderr != "err" {
		t.Errorf("%+v %v", a, err)
	}
}

// The request is as the agent reads it: environment, standard input, an ID.
func TestTheRequest(t *testing.T) {
	t.Setenv("CNI_COMMAND", "DEL")
	t.Setenv("CNI_ARGS", `K8S_POD_NAME=a"b;X=<&>`)
	t.Setenv("SECRET", "x")
	s := newStandIn(t, say("version=1\x00\x00"))
	stdin := "{\"a\": \"\\u0000<\u2028\x00\x00>\"}\n"
	if _, err := callAgent(s.socket, "plexus-canary", []byte(stdin)); err != nil {
		t.Fatal(err)
	}
	pairs, rest, _ := strings.Cut(string(s.requests()[0]), "\x00\x00")
	got := strings.Split(pairs, "\x00")
	for _, want := range []string{"version=1", "as=plexus-canary", `CNI_ARGS=K8S_POD_NAME=a"b;X=<&>`, "CNI_COMMAND=DEL", "CNI_NETNS="} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if rest != stdin || !strings.HasPrefix(got[1], "id=") || len(got[1]) < 10 {
		t.Errorf("%q %q", got, rest)
	}
	if strings.Contains(pairs, "SECRET") {
		t.Error("it hands on what is none of the agent's business")
	}
}

// An agent that goes away in the middle is asked the same again, under the same
// ID, and whatever part of its answer came is not believed.
func TestTheSameAgain(t *testing.T) {
	whole := "HTTP/1.0 200 OK\r\nContent-Length: 26\r\n\r\n" + "version=1\x00status=0\x00\x00whole!"
	for _, verb := range []string{"ADD", "DEL"} {
		t.Setenv("CNI_COMMAND", verb)
		for _, cut := range []int{0, 1, 9, 12, 17, 36, 39, 41, len(whole) - 20, len(whole) - 6, len(whole) - 1} {
			s := newStandIn(t, func(n int, conn net.Conn) {
				if n < 3 {
					_, _ = io.WriteString(conn, whole[:cut])
					return
				}
				_, _ = io.WriteString(conn, whole)
			})
			a, err := callAgent(s.socket, "plexus", []byte("{}"))
			if err != nil || a.stdout != "whole!" {
				t.Errorf("%s, cut at %d: %+v %v", verb, cut, a, err)
				continue
			}
			all := s.requests()
			if len(all) != 3 || string(all[0]) != string(all[1]) || string(all[1]) != string(all[2]) {
				t.Errorf("%s, cut at %d: %d requests: %q", verb, cut, len(all), all)
			}
		}
	}
}

// No agent: every verb but ADD is told at once, ADD after its patience; the text
// names the socket and what to do.
func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"DEL", "ADD"} {
		t.Setenv("CNI_COMMAND", verb)
		for _, socket := range []string{filepath.Join(dir, "none"), stale, file, strings.Repeat("/x", 100)} {
			if verb == "ADD" && socket != stale {
				continue // as patient
			}
			_, err := callAgent(socket, "plexus", []byte("{}"))
			if err == nil || !err.silent || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), "plexusd serve") {
				t.Errorf("%s %.40s: %v", verb, socket, err)
			}
		}
	}
}

// What an agent refuses it refuses once.
func TestARefusal(t *testing.T) {
	t.Setenv("CNI_COMMAND", "ADD")
	for _, status := range []string{"400 Bad Request", "404 Not Found", "405 Method Not Allowed", "500 Internal Server Error"} {
		s := newStandIn(t, func(_ int, conn net.Conn) {
			fmt.Fprintf(conn, "HTTP/1.0 %s\r\nContent-Length: 7\r\n\r\nbecause", status)
		})
		_, err := callAgent(s.socket, "plexus", []byte("{}"))
		if err == nil || err.silent || !strings.Contains(err.Error(), status) || !strings.Contains(err.Error(), "because") || len(s.requests()) != 1 {
			t.Errorf("%s: %v, %d requests", status, err, len(s.requests()))
		}
	}
}

// Whatever the configuration is, where the agent is follows from the one key.
func TestWhereTheAgentIs(t *testing.T) {
	for text, want := range map[string]string{
		`{"agent": {"socket": "/s"}}`: "/s", `{"agent": {}}`: "", `{}`: "", ``: "", `[]`: "", `{"agent": "x"}`: "", `{"agent": {"socket": 7}}`: "", `{"agent": null}`: "", `{"agent": {"socket": "/s"}`: "",
		` { "a" : [ 1.5e+3 , {"agent": {"socket": "/no"}} , [ ] , { } , true ] , "agent" : { "x" : "\"}" , "socket" : "\/r\u0075n\/\ud83d\ude00\n" , "y" : null } } ` + "\n": "/run/\U0001f600\n",
		`{"agent": {"socket": "/s"}} {}`: "", `{"agent": {"socket": "/s"}},`: "", `{"agent": {"socket": "/s",}}`: "", `{"agent" {"socket": "/s"}}`: "", `{"agent": {"socket": "/s}}`: "",
		`{"agent": {"socket": "\x"}}`: "", `{"agent": {"socket": "\u00"}}`: "", `"agent"`: "", `{"agent": {"socket": "/s"}, "b": }`: "", `{"deep": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `, "agent": {"socket": "/s"}}`: "",
	} {
		if got := agentSocket(text); got != want {
			t.Errorf("%.200s: %q, want %q", text, got, want)
		}
	}
}

// FuzzAgentOf holds the scanner against encoding/json: of what that reads it finds
// the same socket.
func FuzzAgentOf(f *testing.F) {
	f.Add(`{"agent": {"socket": "/run/plexus/agent.sock"}, "delegates": [{"type": "bridge", "n": -1.5e3, "t": true}]}`)
	f.Add(`{"agent": {"socket": "\ud800\u0041\udc00\/"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		var keys map[string]json.RawMessage
		var inner map[string]json.RawMessage
		want := ""
		if json.Unmarshal([]byte(text), &keys) != nil || !utf8.ValidString(text) {
			agentSocket(text) // ends
			return
		}
		if json.Unmarshal(keys["agent"], &inner) == nil && json.Unmarshal(inner["socket"], &want) != nil {
			want = ""
		}
		if got := agentSocket(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// FuzzQuote: what fail writes is JSON, and says the same.
func FuzzQuote(f *testing.F) {
	f.Add("a \"b\" \\ \n\t\x00\x7f\u2028 \xff")
	f.Fuzz(func(t *testing.T, text string) {
		var got string
		if err := json.Unmarshal([]byte(quote(text)), &got); err != nil || got != strings.ToValidUTF8(text, "\ufffd") && utf8.ValidString(text) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	})
}
