package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
)

// One damaged journal file does not keep Prometheus from all metrics.
func TestMetricsBesideADamagedFile(t *testing.T) {
	a := serving(t)
	write(t, a.data, record("aaaa", "u1", "/none"))
	if err := os.WriteFile(filepath.Join(a.data, "sandboxes", "bbbb.json"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, text := a.ask("GET", "/metrics")
	if status != 200 || !strings.Contains(text, `plexus_attachments{delegate="passthru",network="one",phase="attached"} 1`) {
		t.Errorf("%d %.300s", status, text)
	}
}

// unserved is an agent of which nothing runs yet.
func unserved(t testing.TB) (*Server, *logged) {
	t.Helper()
	log := &logged{}
	s, err := newServer(Settings{
		Socket: filepath.Join(t.TempDir(), "a.sock"), DataDir: t.TempDir(), Standalone: true, Node: "n", Reconcile: time.Hour, Grace: time.Second,
		Log: slog.New(slog.NewTextHandler(log, nil)), Stderr: io.Discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, log
}

// An interface that differs in two ways is told of twice, once for each, however
// often they are seen.
func TestTwoDifferencesOfAnInterfaceAreToldOnce(t *testing.T) {
	s, log := unserved(t)
	rec := record("aaaa", "u1", "/none")
	found := []delegates.Finding{
		{Sandbox: "aaaa", IfName: "eth0", Kind: delegates.FoundDifferent, What: "the port is gone"},
		{Sandbox: "aaaa", IfName: "eth0", Kind: delegates.FoundDifferent, What: "the MAC is another"},
	}
	for range 5 {
		s.keeper.report(rec, found)
	}
	if got := strings.Count(log.String(), "kind=different"); got != 2 {
		t.Errorf("told %d times, want 2:\n%s", got, log)
	}
	if got := s.differences(t); got == 0 {
		t.Errorf("no differences are counted")
	}
}

func (s *Server) differences(t testing.TB) int {
	t.Helper()
	w := &kept{header: http.Header{}, status: 200}
	s.node(w, nil)
	var info NodeInfo
	if err := json.Unmarshal(w.body.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	return info.Differences
}

// What concerned the sandbox as a whole is forgotten when it is over, and told
// again when it comes again.
func TestAFailureThatIsOverIsForgotten(t *testing.T) {
	s, log := unserved(t)
	rec := record("aaaa", "u1", "/none")
	failed := []delegates.Finding{{Sandbox: "aaaa", Kind: delegates.FoundFailed, What: "lock sandbox aaaa"}}
	s.keeper.report(rec, failed)
	s.keeper.report(rec, nil)
	if got := s.differences(t); got != 0 {
		t.Errorf("%d differences when all is well", got)
	}
	s.keeper.report(rec, failed)
	if got := strings.Count(log.String(), "kind=failed"); got != 2 {
		t.Errorf("told %d times, want 2:\n%s", got, log)
	}
}

// Nothing is remembered of sandboxes that are gone, by whatever way they went.
func TestGoneSandboxesAreForgotten(t *testing.T) {
	s, _ := unserved(t)
	rec := record("aaaa", "u1", "/none")
	write(t, s.DataDir, rec)
	s.index.note(rec)
	s.keeper.bury(t.Context()) // begins its time of grace
	s.keeper.report(rec, []delegates.Finding{{Sandbox: "aaaa", IfName: "eth0", Kind: delegates.FoundDifferent, What: "the port is gone"}})
	if err := s.keeper.journal.Remove(t.Context(), "aaaa"); err != nil { // DEL or GC, by plexusd cni
		t.Fatal(err)
	}
	s.keeper.reconcile(t.Context(), nil)
	if got := s.differences(t); got != 0 {
		t.Errorf("%d differences of no sandbox", got)
	}
	if len(s.keeper.gone) != 0 || len(s.index.sandboxes("u1")) != 0 {
		t.Errorf("remembered: gone %v, sandboxes of the pod %v", s.keeper.gone, s.index.sandboxes("u1"))
	}
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

// A running pod keeps its networks when none of its sandboxes' namespaces can be
// seen, a former one's beside its own: nobody knows that the newest one is dead.
func TestARunningPodIsNotBuriedWithItsFormerSandbox(t *testing.T) {
	api := apiOf(t, `{"metadata":{"namespace":"ns","name":"pod","uid":"u1"},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}`)
	s, log := unserved(t)
	connected, err := kube.Connect(kubeconfigOf(t, api.URL))
	if err != nil {
		t.Fatal(err)
	}
	s.cluster = &kube.Cluster{API: connected, Node: "n", Log: s.Log}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := s.cluster.Follow(ctx, func(*conf.Pod) {}); err != nil {
		t.Fatal(err)
	}
	for wait := bound(t); s.cluster.Synced() != nil; runtime.Gosched() {
		if wait.Err() != nil {
			t.Fatal(s.cluster.Synced())
		}
	}
	former, now := record("former", "u1", "/none"), record("now", "u1", "/none")
	now.Transactions[0].Started = former.Transactions[0].Started.Add(time.Minute)
	write(t, s.DataDir, former, now)
	s.index.note(former)
	s.index.note(now)
	s.Grace = 0
	s.keeper.bury(ctx)
	left, err := s.keeper.journal.Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "now" {
		t.Errorf("left %v, %v, want the newest sandbox alone\n%s", left, err, log)
	}
}

// An agent that writes a log file has the same number of goroutines after many
// requests as after one.
func TestLogFileLeaksNoGoroutines(t *testing.T) {
	dir := t.TempDir()
	node := &Node{history: &history{now: time.Now}, index: newIndex(func(*delegates.Record) {}), metrics: newMetrics(delegates.OpenJournal(dir), func() int { return 0 })}
	node.publisher = newPublisher(node)
	defer node.Close()
	file := filepath.Join(dir, "log")
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","dataDir":%q,"logFile":%q,"logLevel":"debug","logToStderr":false,"delegates":[{"type":"passthru"}]}`, dir, file)
	ask := func() {
		for _, verb := range []string{"ADD", "DEL"} {
			var out bytes.Buffer
			env := Environ("CNI_COMMAND="+verb, "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net")
			if status := Answer(t.Context(), Call{As: "plexus", Node: node, Getenv: env, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: io.Discard}); status != 0 {
				t.Fatalf("%s: %s", verb, &out)
			}
		}
	}
	ask()
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "attached") {
		t.Fatalf("the log file has %q, %v", text, err)
	}
	before := runtime.NumGoroutine()
	for range 100 {
		ask()
	}
	if after := runtime.NumGoroutine(); after > before+10 {
		t.Errorf("%d goroutines, %d after 100 requests", before, after)
	}
}

// The agent has refused an ADD, and this process has no other source of pods: it
// does not take the pod for one that asks for nothing.
func TestAddWithoutTheAgentAndWithoutASource(t *testing.T) {
	dir := t.TempDir()
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","dataDir":%q,"agent":{"socket":"/none"},"delegates":[{"type":"passthru"}]}`, dir)
	var out bytes.Buffer
	env := Environ("CNI_COMMAND=ADD", "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net", "CNI_ARGS=K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u1")
	status := Answer(t.Context(), Call{As: "plexus", Getenv: env, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: io.Discard})
	var e answerError
	if err := json.Unmarshal(out.Bytes(), &e); status == 0 || err != nil || e.Code != 11 || !strings.Contains(e.Msg, "/none") {
		t.Errorf("%d %s: want code 11", status, &out)
	}
}

// fake is a delegate that has nothing to attach to, so that a test sees what the
// engine and the agent do around one.
type fake struct{}

func (fake) Prepare(context.Context, conf.Attachment) (json.RawMessage, error) {
	return json.RawMessage(`{}`), nil
}
func (fake) Add(_ context.Context, a conf.Attachment, _ json.RawMessage) (*types100.Result, error) {
	return &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns, SocketPath: "/s"}}, IPs: a.IPAM.IPs}, nil
}
func (fake) Check(context.Context, conf.Attachment, json.RawMessage) error { return nil }
func (fake) Del(context.Context, conf.Attachment, json.RawMessage) error   { return nil }

// Plugins that run at the same time and complain both are heard whole: run with
// -race. Their complaints go into one buffer of the agent's.
func TestComplaintsOfParallelPlugins(t *testing.T) {
	s, _ := unserved(t)
	s.delegates = map[string]delegates.Delegate{"ovsdpdk": fake{}, "passthru": fake{}}
	bin, dir := t.TempDir(), t.TempDir()
	line := strings.Repeat("c", 500)
	script := "#!/bin/sh\ncat >/dev/null\nfor i in 1 2 3 4 5 6 7 8 9 10; do echo " + line + " >&2; done\n[ \"$CNI_COMMAND\" = ADD ] && echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.0.0.7/24\"}]}'\nexit 0\n"
	if err := os.WriteFile(filepath.Join(bin, "chatty"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	const networks = 8
	var lists []string
	for i := range networks {
		lists = append(lists, fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n%d","type":"ovsdpdk","ipam":{"type":"chatty"}}`, i))
	}
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","parallel":true,"logLevel":"debug","dataDir":%q,"delegates":[%s]}`, dir, strings.Join(lists, ","))
	body := asked(stdin, "version=1", "as=plexus", "CNI_COMMAND=ADD", "CNI_CONTAINERID=aaaa", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH="+bin)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://a/v1/cni", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	w := &kept{header: http.Header{}, status: 200}
	s.cni(w, r)
	answer := answered(t, w.body.Bytes())
	if answer.Status != 0 {
		t.Fatalf("%s", w.body.Bytes())
	}
	if got := strings.Count(answer.Stderr, line+"\n"); got != 10*networks {
		t.Errorf("%d complaints are whole, want %d", got, 10*networks)
	}
}

// A sandbox with a request that names no pod, beside one that does, is explained.
func TestExplainBesideARequestWithoutAPod(t *testing.T) {
	a := serving(t)
	rec := record("aaaa", "u1", "/none")
	other := record("aaaa", "", "/none").Transactions[0]
	other.IfName, other.Pod = "eth1", nil
	rec.Transactions = append(rec.Transactions, other)
	write(t, a.data, rec)
	if status, text := a.ask("GET", "/v1/explain?pod=ns/pod"); status != 200 || !strings.Contains(text, `"pod":"ns/pod"`) {
		t.Errorf("%d %.300s", status, text)
	}
	a.serves()
}

// Who may not read, or whom nobody has asked about, cannot hold connections open
// for ever.
func TestTheTCPListenerIsBounded(t *testing.T) {
	api := apiOf(t, "")
	s, _ := unserved(t)
	connected, err := kube.Connect(kubeconfigOf(t, api.URL))
	if err != nil {
		t.Fatal(err)
	}
	s.cluster = &kube.Cluster{API: connected, Node: "n", Log: s.Log}
	s.Listen = "127.0.0.1:0"
	remote, err := s.listenTCP(make(chan error, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	if remote.IdleTimeout <= 0 || remote.ReadTimeout <= 0 {
		t.Errorf("idle connections: %v, requests: %v; 0 is for ever", remote.IdleTimeout, remote.ReadTimeout)
	}
}

// A sandbox that another request works on is skipped, with one wait for all, and told
// with the process; the others are looked at. What was told of it is not forgotten.
func TestLockedSandboxesAreSkipped(t *testing.T) {
	s, log := unserved(t)
	gone := record("free", "u0", "/none")
	write(t, s.DataDir, gone)
	for n := range 20 {
		sandbox := fmt.Sprintf("locked%d", n)
		write(t, s.DataDir, record(sandbox, "u1", "/none"))
		held, err := s.keeper.journal.Lock(t.Context(), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
	}
	told := []delegates.Finding{{Sandbox: "locked0", IfName: "eth0", Kind: delegates.FoundDifferent, What: "the port is gone"}}
	s.keeper.report(record("locked0", "u1", "/none"), told)
	began := time.Now()
	found := s.keeper.reconcile(t.Context(), nil)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	kinds := map[delegates.Kind]int{}
	for _, f := range found {
		kinds[f.Kind]++
		if f.Kind == delegates.FoundLocked && (!strings.Contains(f.What, f.Sandbox) || !strings.Contains(f.What, fmt.Sprintf("(pid %d)", os.Getpid()))) {
			t.Errorf("%+v, want the sandbox and this process", f)
		}
	}
	if kinds[delegates.FoundLocked] != 20 || kinds[delegates.FoundGone] != 1 {
		t.Errorf("found %v, want 20 that are locked and one that is gone", kinds)
	}
	s.keeper.report(record("locked0", "u1", "/none"), told)
	if got := strings.Count(log.String(), "the port is gone"); got != 1 {
		t.Errorf("told %d times, want once:\n%s", got, log)
	}
	if got := s.differences(t); got != 2 {
		t.Errorf("%d differences, want what is told and what is gone", got)
	}
	w := &kept{header: http.Header{}, status: 200}
	s.check(w, httptest.NewRequest("POST", "/v1/check", nil))
	var checked []Checked
	if err := json.Unmarshal(w.body.Bytes(), &checked); err != nil || len(checked) != 21 {
		t.Errorf("%v, %v, want all sandboxes", checked, err)
	}
}
