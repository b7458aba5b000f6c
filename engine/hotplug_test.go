package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// interfaces are the recorded ones with their networks: "eth0 cluster".
func (n *node) interfaces() (all []string) {
	n.t.Helper()
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, entry := range rec.Transactions[0].Attachments {
		all = append(all, strings.TrimSpace(fmt.Sprint(entry.IfName, " ", entry.Name, " ", entry.Phase)))
	}
	return all
}

func (n *node) mustUpdate(networks, want string) {
	n.t.Helper()
	n.api.ask(networks)
	change, err := n.Update(n.t.Context(), sandboxOfPod, n.api.asked())
	if err != nil {
		n.t.Fatal(err)
	}
	got := ""
	if change != nil {
		got = change.String()
	}
	if got != want {
		n.t.Errorf("Update to %q did %q, want %q", networks, got, want)
	}
}

// Networks of a running pod come and go, those of the cluster stay. What others have written
// into network-status stays too.
func TestNetworksComeAndGo(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.mustAdd("static,between")
	theirs := `{"name":"theirs","interface":"net9"}`
	status := n.api.published()[placeOf(n.api.pod)]
	status[conf.NetworkStatusAnnotation] = strings.TrimSuffix(status[conf.NetworkStatusAnnotation], "]") + "," + theirs + "]"
	n.mustUpdate("static,between", "")
	n.mustUpdate("between,probed", "detached net1 (default/static); attached net1 (default/probed)")
	compareLines(t, "interfaces", n.interfaces(), []string{"eth0 cluster", "net2 default/between", "net1 default/probed"})
	n.mustUpdate("between,probed,bare,script,other", "attached net3 (default/bare), net4 (default/script), net5 (default/other)")
	if err := n.Check(t.Context(), r); err != nil {
		t.Error(err)
	}
	text := n.api.published()[placeOf(n.api.pod)][conf.NetworkStatusAnnotation]
	if !strings.Contains(text, theirs) || strings.Count(text, `"name"`) != 7 {
		t.Errorf("network-status: %s", text)
	}
	n.mustUpdate("", "detached net2 (default/between), net1 (default/probed), net3 (default/bare), net4 (default/script), net5 (default/other)")
	compareLines(t, "interfaces", n.interfaces(), []string{"eth0 cluster"})
	text = n.api.published()[placeOf(n.api.pod)][conf.NetworkStatusAnnotation]
	if !strings.Contains(text, theirs) || strings.Count(text, `"name"`) != 2 {
		t.Errorf("network-status: %s", text)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
	n.mustUpdate("static", "")
}

// A change that cannot be made leaves what the pod had, as far as it still asks for it, and is
// told.
func TestAChangeThatFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.mustAdd("static,bare")
	done := ""
	update := func(networks string) error {
		n.api.ask(networks)
		change, err := n.Update(t.Context(), sandboxOfPod, n.api.asked())
		if done = ""; change != nil {
			done = change.String()
		}
		return err
	}
	had := n.interfaces()
	for networks, want := range map[string]string{
		"static,bare,":        "annotation",
		"static,bare,absent":  "not found",
		"static,bare,foreign": "no endpoint that this node allows",
		"static,bare,missing": "neither built in nor in",
	} {
		says(t, update(networks), want)
		compareLines(t, "interfaces after "+networks, n.interfaces(), had)
		if done != "" {
			t.Errorf("after %s: %s", networks, done)
		}
	}
	n.failPlugin("ADD", "last", true)
	says(t, update("static,bare,between,other"), "add net3 (network default/between)", "last was told to fail")
	compareLines(t, "interfaces", n.interfaces(), had)
	n.other.Fail("attach", "net2", errors.New("no room"))
	says(t, update("static,other"), "net2 (network default/other): no room")
	compareLines(t, "interfaces", n.interfaces(), had[:2])
	if done != "detached net2 (default/bare)" {
		t.Errorf("of a change that failed, this is in force: %q", done)
	}
	if text := n.api.published()[placeOf(n.api.pod)][conf.NetworkStatusAnnotation]; strings.Contains(text, "bare") || !strings.Contains(text, "static") {
		t.Errorf("network-status: %s", text)
	}
	n.other.Fail("attach", "net2", nil)
	n.world.Fail("detach", "net1", errors.New("it is busy"))
	says(t, update("other"), "undo net1 (network default/static): toy: it is busy")
	compareLines(t, "interfaces", n.interfaces(), []string{"eth0 cluster", "net1 default/static removing"})
	says(t, n.Check(t.Context(), r), "a change of the pod's networks was cut short (removing)")
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	if d := n.Inspect(t.Context(), rec)[1]; !strings.Contains(d.Differences, "cut short") {
		t.Errorf("Inspect: %+v", d)
	}
	_, err = n.Reconcile(t.Context(), sandboxOfPod, nil)
	says(t, err, "it is busy")
	n.world.Fail("detach", "net1", nil)
	found, err := n.Reconcile(t.Context(), sandboxOfPod, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindUnfinished || found[0].IfName != "net1" {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	n.api.failures["Publish"] = errors.New("the API server is away")
	says(t, update("other,static"), "the API server is away")
	if done != "" { // what was attached is undone again
		t.Errorf("of a change that was not published, this is in force: %q", done)
	}
	compareLines(t, "interfaces", n.interfaces(), []string{"eth0 cluster"})
	n.api.failures["Publish"] = nil
	if err := update("other,static"); err != nil {
		t.Error(err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// What keeps a change, or a look, from being made.
func TestAChangeThatIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	n.mustAdd("static")
	n.api.ask("bare")
	pod := n.api.asked()
	change := func(how func(*journal.Transaction)) {
		t.Helper()
		rec, err := n.Journal.Read(sandboxOfPod)
		if err != nil {
			t.Fatal(err)
		}
		how(rec.Transactions[0])
		if err := n.Journal.Write(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	other := *pod
	other.UID = "another pod of this name"
	if did, err := n.Update(t.Context(), sandboxOfPod, &other); err != nil || did != nil {
		t.Errorf("%v, %v", did, err)
	}
	change(func(tx *journal.Transaction) { tx.Conf = []byte(`{"type": "plexus"}`) })
	_, err := n.Update(t.Context(), sandboxOfPod, pod)
	says(t, err, "recorded configuration")
	change(func(tx *journal.Transaction) { tx.Conf, tx.NetnsID = []byte(n.text), "0:0:0" })
	_, err = n.Update(t.Context(), sandboxOfPod, pod)
	says(t, err, "network namespace /proc/self/ns/net is gone")
	says(t, n.Check(t.Context(), n.request("bare")), "network namespace /proc/self/ns/net is gone")
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	says(t, n.CheckAll(t.Context(), rec, nil), "is gone")
	if d := n.Inspect(t.Context(), rec)[1]; !strings.Contains(d.Differences, "is gone") || Alive(rec) {
		t.Errorf("Inspect: %+v", d)
	}
	found, err := n.Reconcile(t.Context(), sandboxOfPod, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindGone {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	if _, err := n.Reclaim(t.Context(), sandboxOfPod); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after Reclaim")
	if found, err := n.Reconcile(t.Context(), sandboxOfPod, nil); found != nil || err != nil {
		t.Errorf("Reconcile of nothing: %v, %v", found, err)
	}
	if _, err := n.Reclaim(t.Context(), sandboxOfPod); err != nil {
		t.Errorf("Reclaim of nothing: %v", err)
	}
}

// A pod's networks are not changed, and nothing is published, where the record is damaged
// behind its last whole form.
func TestAChangeBesideDamage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	builtinCluster(n)
	r := n.mustAdd("static")
	f, err := openAppend(n.Journal.File(sandboxOfPod))
	if err == nil {
		_, err = f.WriteString(`{"plexusJournal":1`)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	n.api.ask("bare")
	_, err = n.Update(t.Context(), sandboxOfPod, n.api.asked())
	says(t, err, "its networks are not changed before the pod is made anew")
	if did, err := n.Republish(t.Context(), sandboxOfPod, &conf.Pod{}); did || err != nil {
		t.Errorf("Republish: %v, %v", did, err)
	}
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	if d := n.Inspect(t.Context(), rec); !slices.ContainsFunc(d, func(d Datapath) bool { return strings.Contains(d.Differences, "it is undone by DEL") }) {
		t.Errorf("Inspect: %+v", d)
	}
	found, err := n.Reconcile(t.Context(), sandboxOfPod, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindDamaged {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}
