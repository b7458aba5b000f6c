package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
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

// Clients that may not read, or were not reviewed yet, cannot hold connections open
// for ever.
func TestTheTCPListenerIsBounded(t *testing.T) {
	api := apiOf(t, "")
	a, _ := unservedWith(t, api.URL)
	remote, err := a.inspection.remoteServer(a.cluster.Allowed)
	if err != nil {
		t.Fatal(err)
	}
	if remote.IdleTimeout <= 0 || remote.ReadTimeout <= 0 {
		t.Errorf("idle connections: %v, requests: %v; 0 is for ever", remote.IdleTimeout, remote.ReadTimeout)
	}
}

// Whatever comes in the addresses of what people ask, there is an answer.
func TestHostileQuestions(t *testing.T) {
	a := serving(t)
	long := strings.Repeat("a", 60000)
	for _, q := range []struct{ method, path string }{
		{"GET", "/v1/history?limit=0"}, {"GET", "/v1/history?limit=-1"}, {"GET", "/v1/history?limit=99999999999999999999"}, {"GET", "/v1/history?limit=x&about=" + long},
		{"GET", "/v1/explain"}, {"GET", "/v1/explain?pod=a"}, {"GET", "/v1/explain?pod=/"}, {"GET", "/v1/explain?pod=../.."}, {"GET", "/v1/explain?pod=" + long + "/" + long},
		{"GET", "/v1/explain?pod=a/b/c"}, {"GET", "/v1/explain?pod=%00/%ff"}, {"POST", "/v1/reclaim"}, {"POST", "/v1/reclaim?sandbox="}, {"POST", "/v1/reclaim?sandbox=../../etc/passwd&force=true"},
		{"POST", "/v1/reclaim?sandbox=%00"}, {"POST", "/v1/reclaim?sandbox=" + long}, {"GET", "/v1/reclaim?sandbox=a"}, {"GET", "/v1/resync"}, {"GET", "/v1/check"}, {"DELETE", "/v1/attachments"}, {"GET", "/"}, {"GET", "/v2/node"},
	} {
		if status, text := a.ask(q.method, q.path); status < 400 || status >= 500 {
			t.Errorf("%s %.60s: %d %.200s", q.method, q.path, status, text)
		}
	}
	for _, path := range []string{"/v1/node", "/v1/attachments", "/v1/history?limit=1000000&about=%00", "/v1/explain?pod=a/b", "/healthz", "/metrics"} {
		if status, text := a.ask("GET", path); status != 200 || len(text) > 1<<20 {
			t.Errorf("%s: %d %.200s", path, status, text)
		}
	}
	a.serves()
}

// The history is a ring; one transaction's steps are bounded, those left out are
// counted.
func TestHistoryIsBounded(t *testing.T) {
	h := &history{now: time.Now}
	for i := range 3 * maxHistory {
		e := h.begin("ADD", fmt.Sprintf("s%d", i), "ns/p")
		for n := range maxSteps + 7 {
			if err := e.step(fmt.Sprintf("net1: step %d", n)); err != nil {
				t.Fatal(err)
			}
		}
		e.end(nil)
	}
	all := h.last("", 1<<30)
	if len(all) != maxHistory || all[0].Sandbox != fmt.Sprintf("s%d", 3*maxHistory-1) || all[maxHistory-1].Sandbox != fmt.Sprintf("s%d", 2*maxHistory) {
		t.Fatalf("%d transactions, from %s", len(all), all[0].Sandbox)
	}
	if len(all[0].Steps) != maxSteps || all[0].Left != 7 || all[0].Took <= 0 {
		t.Errorf("%d steps, %d left out, %v ms", len(all[0].Steps), all[0].Left, all[0].Took)
	}
	if got := h.last("ns/p", 3); len(got) != 3 {
		t.Errorf("of a pod: %d", len(got))
	}
	if got := h.last(fmt.Sprintf("s%d", 3*maxHistory-1), 3); len(got) != 1 {
		t.Errorf("of a sandbox: %d", len(got))
	}
}

// However things are called, the names of steps that Prometheus gets are few: no
// sandbox, pod, port, path, address or number is among them.
func TestStepNamesAreFew(t *testing.T) {
	hostile := []string{"net1", "a: b", "x y z", "ns/pod", "plain", "UPPER", "über", "/run/a b", "\x00", "", ": ", "undo: ", "a, b: c", "vhu0123456789a", strings.Repeat("q", 300)}
	names := map[string]bool{}
	for i := range 1000 {
		for _, h := range append(hostile, fmt.Sprintf("n%d", i)) {
			for _, format := range []string{
				"journal: write sandbox %s", "journal: remove sandbox %s", "publish network-status of pod %s", "retract network-status of pod %s",
				"net1: add br%[1]s0", "net1: insert ports into OVSDB at %s", "net1: make folder %s", "net1: link the socket to %s", "net1: delete port %s", "net1: ipam %s: allocate",
			} {
				names[stepName(fmt.Sprintf(format, h))] = true
			}
		}
	}
	if len(names) > 40 {
		t.Errorf("%d names: %v", len(names), names)
	}
	for name := range names {
		if name == "" || len(name) > 60 || strings.ContainsAny(name, "/0123456789:\x00") {
			t.Errorf("name %q", name)
		}
	}
}

// A journal file that cannot be used hides none of the others, and is named.
func TestDamagedFileBesideOthers(t *testing.T) {
	a := serving(t)
	write(t, a.data, record("aaaa", "u1", "/none"), record("cccc", "u2", "/none"))
	if err := os.WriteFile(filepath.Join(a.data, "sandboxes", "bbbb.json"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	var found []engine.Finding
	status, text := a.ask("POST", "/v1/resync")
	if err := json.Unmarshal([]byte(text), &found); status != 200 || err != nil || len(found) != 2 {
		t.Errorf("resync: %d %v %s", status, err, text)
	}
	var all Attachments
	_, text = a.ask("GET", "/v1/attachments")
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all.Sandboxes) != 2 || len(all.Damaged) != 1 || !strings.Contains(all.Damaged[0], "bbbb.json") {
		t.Errorf("attachments: %v %s", err, text)
	}
	var info NodeInfo
	_, text = a.ask("GET", "/v1/node")
	if err := json.Unmarshal([]byte(text), &info); err != nil || info.Sandboxes != 2 || info.Damaged != 1 || info.Attachments != 2 {
		t.Errorf("node: %v %s", err, text)
	}
}

// A sandbox is undone by an operator: one that is there, by enough of its ID.
func TestReclaim(t *testing.T) {
	a := serving(t)
	write(t, a.data, record("abc1", "u1", "/none"), record("abc2", "u2", "/none"))
	for _, c := range []struct {
		sandbox string
		want    int
	}{{"abc", 404}, {"abd", 404}, {"abc10", 404}, {"abc1", 200}} {
		if status, text := a.ask("POST", "/v1/reclaim?sandbox="+c.sandbox); status != c.want {
			t.Errorf("%s: %d %s", c.sandbox, status, text)
		}
	}
	left, err := journal.Open(a.data).Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "abc2" {
		t.Errorf("left: %v %v", left, err)
	}
}
