package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// An interface that differs in two ways is reported twice, once for each, however
// often they are seen.
func TestTwoDifferencesOfAnInterfaceAreReportedOnce(t *testing.T) {
	a, log := unserved(t)
	rec := record("aaaa", "u1", "/none")
	found := []engine.Finding{
		{Sandbox: "aaaa", IfName: "eth0", Kind: engine.KindDifferent, What: "the port is gone"},
		{Sandbox: "aaaa", IfName: "eth0", Kind: engine.KindDifferent, What: "the MAC is another"},
	}
	for range 5 {
		a.reconciler.reporter.report(rec.Sandbox, found)
	}
	if got := strings.Count(log.String(), "kind=different"); got != 2 {
		t.Errorf("reported %d times, want 2:\n%s", got, log)
	}
	if got := differences(t, a); got == 0 {
		t.Errorf("no differences are counted")
	}
}

func differences(t testing.TB, a *agent) int {
	t.Helper()
	w := &kept{header: http.Header{}, status: 200}
	a.inspection.nodeInfo(w, nil)
	var info NodeInfo
	if err := json.Unmarshal(w.body.Bytes(), &info); err != nil {
		t.Fatal(err)
	}
	return info.Differences
}

// What concerned the sandbox as a whole is forgotten when it is over, and reported
// again when it comes again.
func TestAFailureThatIsOverIsForgotten(t *testing.T) {
	a, log := unserved(t)
	rec := record("aaaa", "u1", "/none")
	failed := []engine.Finding{{Sandbox: "aaaa", Kind: engine.KindFailed, What: "lock sandbox aaaa"}}
	a.reconciler.reporter.report(rec.Sandbox, failed)
	a.reconciler.reporter.report(rec.Sandbox, nil)
	if got := differences(t, a); got != 0 {
		t.Errorf("%d differences when all is well", got)
	}
	a.reconciler.reporter.report(rec.Sandbox, failed)
	if got := strings.Count(log.String(), "kind=failed"); got != 2 {
		t.Errorf("reported %d times, want 2:\n%s", got, log)
	}
}

// Nothing is remembered of sandboxes that are gone, by whatever way they went.
func TestGoneSandboxesAreForgotten(t *testing.T) {
	a, _ := unserved(t)
	rec := record("aaaa", "u1", "/none")
	write(t, a.store.journal.DataDir(), rec)
	a.store.add(rec)
	a.reconciler.reaper.reapOrphans(t.Context()) // begins its time of grace
	a.reconciler.reporter.report(rec.Sandbox, []engine.Finding{{Sandbox: "aaaa", IfName: "eth0", Kind: engine.KindDifferent, What: "the port is gone"}})
	if err := a.store.journal.Remove(t.Context(), "aaaa"); err != nil { // DEL or GC, by plexusd cni
		t.Fatal(err)
	}
	a.reconciler.reconcile(t.Context(), nil)
	if got := differences(t, a); got != 0 {
		t.Errorf("%d differences of no sandbox", got)
	}
	if len(a.store.known) != 0 {
		t.Errorf("known: %v", a.store.known)
	}
}

// A running pod keeps its networks when none of its sandboxes' namespaces can be
// seen, a former one's beside its own: nobody knows that the newest one is dead.
func TestARunningPodIsNotReapedWithItsFormerSandbox(t *testing.T) {
	api := apiOf(t, `{"metadata":{"namespace":"ns","name":"pod","uid":"u1"},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}`)
	a, log := unservedWith(t, api.URL)
	follow(t, a)
	former, now := record("former", "u1", "/none"), record("now", "u1", "/none")
	now.Transactions[0].Started = former.Transactions[0].Started.Add(time.Minute)
	write(t, a.store.journal.DataDir(), former, now)
	a.store.add(former)
	a.store.add(now)
	a.reconciler.reaper.grace = 0
	a.reconciler.reaper.reapOrphans(t.Context())
	left, err := a.store.journal.Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "now" {
		t.Errorf("left %v, %v, want the newest sandbox alone\n%s", left, err, log)
	}
}

// A sandbox that another request works on is skipped, with one wait for all, and reported
// with the process; the others are compared. Its reported differences are not forgotten.
func TestLockedSandboxesAreSkipped(t *testing.T) {
	a, log := unserved(t)
	gone := record("free", "u0", "/none")
	write(t, a.store.journal.DataDir(), gone)
	for n := range 20 {
		sandbox := fmt.Sprintf("locked%d", n)
		write(t, a.store.journal.DataDir(), record(sandbox, "u1", "/none"))
		_, held, err := a.store.journal.Lock(t.Context(), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		defer held.Release()
	}
	findings := []engine.Finding{{Sandbox: "locked0", IfName: "eth0", Kind: engine.KindDifferent, What: "the port is gone"}}
	a.reconciler.reporter.report("locked0", findings)
	began := time.Now()
	found := a.reconciler.reconcile(t.Context(), nil)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
	kinds := map[engine.Kind]int{}
	for _, f := range found {
		kinds[f.Kind]++
		if f.Kind == engine.KindLocked && (!strings.Contains(f.What, f.Sandbox) || !strings.Contains(f.What, fmt.Sprintf("(pid %d)", os.Getpid()))) {
			t.Errorf("%+v, want the sandbox and this process", f)
		}
	}
	if kinds[engine.KindLocked] != 20 || kinds[engine.KindGone] != 1 {
		t.Errorf("found %v, want 20 that are locked and one that is gone", kinds)
	}
	a.reconciler.reporter.report("locked0", findings)
	if got := strings.Count(log.String(), "the port is gone"); got != 1 {
		t.Errorf("reported %d times, want once:\n%s", got, log)
	}
	if got := differences(t, a); got != 2 {
		t.Errorf("%d differences, want the reported one and the namespace that is gone", got)
	}
	w := &kept{header: http.Header{}, status: 200}
	a.inspection.check(w, httptest.NewRequest("POST", "/v1/check", nil))
	var checked []Checked
	if err := json.Unmarshal(w.body.Bytes(), &checked); err != nil || len(checked) != 21 {
		t.Errorf("%v, %v, want all sandboxes", checked, err)
	}
}

// An unfinished request is undone when the agent begins; what is whole stays.
func TestUnfinishedIsUndoneAtTheBeginning(t *testing.T) {
	dir := t.TempDir()
	whole, half, removing := record("whole", "u1", "/none"), record("half", "u2", "/none"), record("removing", "u3", "/none")
	half.Transactions[0].Phase, removing.Transactions[0].Phase = journal.PhaseAdding, journal.PhaseRemoving
	data := filepath.Join(dir, "data")
	write(t, data, whole, half, removing)
	a := serveAt(t, filepath.Join(dir, "a.sock"), data)
	if status, text := a.ask("POST", "/v1/resync"); status != 200 {
		t.Fatal(text)
	}
	left, err := journal.Open(data).Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "whole" {
		t.Errorf("left: %v %v", left, err)
	}
	if _, text := a.ask("GET", "/metrics"); !strings.Contains(text, `plexus_reconcile_findings_total{kind="unfinished"} 2`) {
		t.Errorf("the metrics lack it:\n%s", text)
	}
}
