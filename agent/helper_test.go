package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// unserved is an agent of which nothing runs yet, and its log.
func unserved(t testing.TB) (*agent, *logged) {
	t.Helper()
	a, log := unservedWith(t, "")
	return a, log
}

// unservedWith is one with an API server, unless its address is "".
func unservedWith(t testing.TB, server string) (*agent, *logged) {
	t.Helper()
	log := &logged{}
	s := Settings{
		Socket: filepath.Join(t.TempDir(), "a.sock"), DataDir: t.TempDir(), Standalone: server == "", Node: "n", Reconcile: time.Hour, Grace: time.Second,
		Log: slog.New(slog.NewTextHandler(log, nil)), Stderr: io.Discard,
	}
	if server != "" {
		s.Kubeconfig = kubeconfigOf(t, server)
	}
	a, err := open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.engines.close)
	return a, log
}

// apiOf is a stand-in for the API server, at the wire: it knows one pod that
// runs, and no networks.
func apiOf(t testing.TB, pod string) *httptest.Server {
	t.Helper()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		list := strings.HasSuffix(r.URL.Path, "/pods") || strings.HasSuffix(r.URL.Path, "/network-attachment-definitions")
		switch {
		case list && r.URL.Query().Get("watch") != "":
			kind, version := "NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1"
			if strings.HasSuffix(r.URL.Path, "/pods") {
				kind, version = "Pod", "v1"
			}
			if kind == "Pod" && pod != "" {
				fmt.Fprintf(w, `{"type":"ADDED","object":%s}`, `{"kind":"Pod","apiVersion":"v1",`+pod[1:])
			}
			fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"1","annotations":{"k8s.io/initial-events-end":"true"}}}}`, kind, version)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/pods"):
			fmt.Fprintf(w, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[%s]}`, pod)
		case list:
			fmt.Fprint(w, `{"kind":"NetworkAttachmentDefinitionList","apiVersion":"k8s.cni.cncf.io/v1","metadata":{"resourceVersion":"1"},"items":[]}`)
		default:
			w.WriteHeader(201)
			fmt.Fprint(w, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"x"}}`)
		}
	}))
	t.Cleanup(api.CloseClientConnections)
	return api
}

// kubeconfigOf is a kubeconfig file for a server.
func kubeconfigOf(t testing.TB, server string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],"clusters":[{"name":"a","cluster":{"server":%q}}],"users":[{"name":"a","user":{}}]}`, server)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// follow lets an agent watch its pods until the test ends, and waits until it has them.
func follow(t testing.TB, a *agent) {
	t.Helper()
	if err := a.cluster.Follow(t.Context(), a.follower.podChanged); err != nil {
		t.Fatal(err)
	}
	for wait := bound(t); a.cluster.Synced() != nil; runtime.Gosched() {
		if wait.Err() != nil {
			t.Fatal(a.cluster.Synced())
		}
	}
}

// handled is the answer of an agent that serves no socket.
func handled(t testing.TB, a *agent, body string) cniAnswer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a/v1/cni", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	w := &kept{header: http.Header{}, status: 200}
	a.cni.ServeHTTP(w, r)
	return answered(t, w.body.Bytes())
}

// bound is what a test waits for at most; it is no measure.
func bound(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// running is an agent of a test, without an API server.
type running struct {
	t      testing.TB
	socket string
	data   string
	log    *logged
	stop   func() error // ends it, and says how
}

// logged is a log that is read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serveAt lets an agent serve a socket and returns when it does.
func serveAt(t testing.TB, socket, data string) *running {
	t.Helper()
	log := &logged{}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Settings{
			Socket: socket, DataDir: data, ConfDir: filepath.Join(data, "net.d"), Standalone: true, Node: "n",
			Reconcile: time.Hour, Grace: time.Hour, Log: slog.New(slog.NewTextHandler(log, nil)), Stderr: io.Discard,
		}, func() { close(ready) })
	}()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the agent ends: %v\n%s", err, log)
	case <-bound(t).Done():
		t.Fatalf("the agent does not serve\n%s", log)
	}
	return &running{t: t, socket: socket, data: data, log: log, stop: stop}
}

func serving(t testing.TB) *running {
	t.Helper()
	dir := t.TempDir()
	return serveAt(t, filepath.Join(dir, "a.sock"), filepath.Join(dir, "data"))
}

// dial is a connection to the agent, which ends with the test.
func (a *running) dial() net.Conn {
	a.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(bound(a.t), "unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// send sends a text as it is and returns all that comes back.
func (a *running) send(text string) string {
	a.t.Helper()
	conn := a.dial()
	_, _ = io.WriteString(conn, text) // the agent may have had enough before the end
	_ = conn.(*net.UnixConn).CloseWrite()
	answer, _ := io.ReadAll(conn) // reset by a peer that had enough: what came is what counts
	return string(answer)
}

// serves wants that the agent answers VERSION, and has not panicked.
func (a *running) serves() {
	a.t.Helper()
	status, answer := a.post(requestBody("", "version=1", "id=x", "as=plexus", "CNI_COMMAND=VERSION"))
	if status != 200 || answer.Status != 0 || !strings.Contains(string(answer.Stdout), `"1.1.0"`) {
		a.t.Errorf("VERSION: %d %+v", status, answer)
	}
	if log := a.log.String(); strings.Contains(log, "panic") {
		a.t.Errorf("it panicked:\n%s", log)
	}
}

// requestBody is the body of a request.
func requestBody(stdin string, pairs ...string) string {
	return strings.Join(pairs, "\x00") + "\x00\x00" + stdin
}

// post is POST /v1/cni as plexus makes it.
func (a *running) post(body string) (int, cniAnswer) {
	a.t.Helper()
	conn := a.dial()
	_, _ = io.WriteString(conn, plexusRequest(body)) // what is wrong with it the answer says
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, a.log)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if r.StatusCode != 200 {
		return r.StatusCode, cniAnswer{}
	}
	return r.StatusCode, answered(a.t, data)
}

// cniAnswer is an answer that was read.
type cniAnswer struct {
	Status int
	Stdout []byte
	Stderr string
}

// answered reads the body of an answer.
func answered(t testing.TB, body []byte) cniAnswer {
	t.Helper()
	var answer cniAnswer
	pairs, stdout, whole := bytes.Cut(body, []byte("\x00\x00"))
	_, stderr, _ := strings.Cut(string(pairs), "\x00stderr=")
	if _, err := fmt.Sscanf(string(pairs), "version=1\x00status=%d", &answer.Status); err != nil || !whole {
		t.Fatalf("%v: %.300q", err, body)
	}
	answer.Stdout, answer.Stderr = stdout, stderr
	return answer
}

// ask is a request for people.
func (a *running) ask(method, path string) (int, string) {
	a.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
	}}}
	request, err := http.NewRequestWithContext(bound(a.t), method, "http://agent"+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := client.Do(request)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// record is a sandbox of one pod with one attachment by a delegate that only a
// test has.
func record(sandbox, uid, netns string) *journal.Record {
	c := json.RawMessage(`{"cniVersion":"1.1.0","name":"node","type":"plexus","delegates":[{"type":"passthru"}]}`)
	return &journal.Record{Sandbox: sandbox, Transactions: []*journal.Transaction{{
		Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Started: time.Unix(1700000000, 0).UTC(), Netns: netns, NetnsID: "4:17", Conf: c,
		Pod: &conf.Pod{Namespace: "ns", Name: "pod", UID: uid},
		Attachments: []*journal.Entry{{
			Network: conf.Network{Name: "one", IfName: "eth0", Default: true, List: conf.List{CNIVersion: "1.1.0", Name: "one", Plugins: []json.RawMessage{json.RawMessage(`{"type":"passthru"}`)}}},
			Result:  json.RawMessage(`{"cniVersion":"1.1.0"}`),
		}},
	}}}
}

// write puts records into an agent's journal.
func write(t testing.TB, data string, records ...*journal.Record) {
	t.Helper()
	for _, rec := range records {
		if err := journal.Open(data).Write(context.Background(), rec); err != nil {
			t.Fatal(err)
		}
	}
}
