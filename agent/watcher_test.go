package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// recordAt is the record of a sandbox whose pod is attached to an OVSDB.
func recordAt(sandbox, address string) *journal.Record {
	rec := record(sandbox, "uid-"+sandbox, "/none")
	rec.Transactions[0].Pod = &conf.Pod{Namespace: "ns", Name: sandbox}
	rec.Transactions[0].Attachments[0].List.Plugins = []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"type":"ovsdpdk","bridge":"br0","ovsdb":%q}`, address))}
	return rec
}

// witness is an API server that notes events.
type witness struct {
	standalone
	events []string
}

func (w *witness) Event(pod *conf.Pod, warning bool, reason, message string) {
	w.events = append(w.events, fmt.Sprint(pod, " ", warning, " ", reason, " ", message))
}

// A vswitch that is down is an event on its pods, once, and on no others; readiness, the node's
// state and the metrics say so until it works again.
func TestVswitchDown(t *testing.T) {
	a, log := unserved(t)
	w := &witness{}
	a.reconciler.reporter.cluster = w
	const address = "unix:/run/a/db.sock"
	for sandbox, at := range map[string]string{"here": address, "elsewhere": "unix:/run/b/db.sock"} {
		rec := recordAt(sandbox, at)
		write(t, a.store.journal.DataDir(), rec)
		a.store.add(rec)
	}
	at := endpoint{"ovsdpdk", address}
	states := func(readyz int, up string) {
		t.Helper()
		for len(a.watcher.changed) > 0 {
			a.reconciler.follow(t.Context(), <-a.watcher.changed)
		}
		w := &kept{header: map[string][]string{}, status: 200}
		a.inspection.nodeInfo(w, nil)
		var info NodeInfo
		if err := json.Unmarshal(w.body.Bytes(), &info); err != nil || info.Ready != (readyz == 200) || len(info.Vswitches) != 2 {
			t.Errorf("node: %s, %v", w.body.String(), err)
		}
		answer := httptest.NewRecorder()
		a.telemetry.metrics.handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		for place, value := range map[string]string{address: up, "unix:/run/b/db.sock": "1"} {
			if line := fmt.Sprintf(`plexus_vswitch_up{delegate="ovsdpdk",endpoint=%q} %s`, place, value); !strings.Contains(answer.Body.String(), line) {
				t.Errorf("the metrics lack %s:\n%s", line, answer.Body)
			}
		}
	}
	states(200, "1")
	for range 3 {
		a.watcher.report(at, errors.New("ovs-vswitchd hangs"))
	}
	states(503, "0")
	if want := "ns/here true VswitchDown ovs-vswitchd hangs"; len(w.events) != 1 || w.events[0] != want {
		t.Errorf("events %q, want %q\n%s", w.events, want, log)
	}
	a.watcher.report(at, nil)
	states(200, "1")
	a.watcher.report(at, errors.New("ovs-vswitchd hangs"))
	if err := a.store.journal.Remove(t.Context(), "here"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is new
		a.reconciler.reconcile(t.Context(), nil)
	}
	if got := a.watcher.states(); len(got) != 1 || got[0].Address != "unix:/run/b/db.sock" {
		t.Errorf("watched without an attachment: %v", got)
	}
}

// The agent's own probes: nobody listens at the OVSDB of a recorded sandbox.
func TestReadyNamesTheVswitchThatIsDown(t *testing.T) {
	dir := t.TempDir()
	address := "unix:" + filepath.Join(dir, "db.sock")
	data := filepath.Join(dir, "data")
	write(t, data, recordAt("here", address))
	a := serveAt(t, filepath.Join(dir, "a.sock"), data)
	for ctx := bound(t); ; time.Sleep(time.Millisecond) {
		status, text := a.ask("GET", "/readyz")
		if status == 503 && strings.Contains(text, address) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("readyz: %d %s", status, text)
		}
	}
}

// What could not be compared when a vswitch came back is compared again, until it can be.
func TestAFailedComparisonIsRepeated(t *testing.T) {
	a, log := unserved(t)
	e := endpoint{"ovsdpdk", "unix:/none/a.sock"}
	write(t, a.store.journal.DataDir(), recordAt("aaaa", e.address))
	_, held, err := a.store.journal.Lock(t.Context(), "aaaa")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		a.reconciler.follow(t.Context(), e)
		if again := <-a.watcher.changed; again != e {
			t.Errorf("%v is compared again, want %v", again, e)
		}
	}
	held.Release()
	a.reconciler.follow(t.Context(), e)
	if len(a.reconciler.pauses) != 0 {
		t.Errorf("it is compared for ever\n%s", log)
	}
}
