package kube_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/kube"
)

// standIn is a stand-in for the API server, at the wire. It answers what it is
// told to, by path, and keeps what it was asked.
type standIn struct {
	*httptest.Server
	mu      sync.Mutex
	asked   []asked
	answers map[string]http.HandlerFunc // by "METHOD path"
}

type asked struct {
	what, body, kind string
}

func newStandIn(t testing.TB) *standIn {
	t.Helper()
	s := &standIn{answers: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		what := r.Method + " " + r.URL.Path
		s.mu.Lock()
		s.asked = append(s.asked, asked{what, string(body), r.Header.Get("Content-Type")})
		answer := s.answers[what]
		s.mu.Unlock()
		if answer == nil {
			status(404, "NotFound")(w, r)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *standIn) on(what string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[what] = answer
}

// requests are those whose method and path begin with what.
func (s *standIn) requests(what string) []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []asked
	for _, a := range s.asked {
		if strings.HasPrefix(a.what, what) {
			list = append(list, a)
		}
	}
	return list
}

// status answers as the API server does when it does not do it.
func status(code int, reason string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "told to answer " + reason})
	}
}

func object(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, text)
	}
}

// hang answers nothing until whoever asked has gone.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// truncated ends in the middle of an object that it said was longer.
func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","annotations":{"left":"over"`)
}

// hangUp ends the connection without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// kubeconfig is a kubeconfig file for a server.
func kubeconfig(t testing.TB, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],"clusters":[{"name":"a","cluster":{"server":%q}}],"users":[{"name":"a","user":{"token":"secret-token"}}]}`, server)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func cluster(t testing.TB, server string) *kube.Cluster {
	return &kube.Cluster{Kubeconfig: kubeconfig(t, server), Node: "n", Log: slog.New(slog.DiscardHandler)}
}

func podText(uid, annotations string) string {
	return fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"namespace":"shop","name":"web","uid":%q,"annotations":{%s}},"spec":{"nodeName":"n"},"status":{"phase":"Pending"}}`, uid, annotations)
}

const (
	podPath    = "/api/v1/namespaces/shop/pods/web"
	nadPath    = "/apis/k8s.cni.cncf.io/v1/namespaces/shop/network-attachment-definitions/fast"
	eventsPath = "/api/v1/namespaces/shop/events"
)
