package engine

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// stuckNetworks are networks with executables: alone, behind and before a built-in, and for
// the addresses of one.
const stuckNetworks = "executed,between,script,static"

// stick has executables that refuse DEL for good, as one does that does not take the recorded
// CNI_ARGS, and one that is not there any more.
func stick(t *testing.T, n *node) {
	t.Helper()
	n.failPlugin("DEL", "first", true)
	for _, gone := range []string{"last", "addresses"} {
		if err := os.Remove(filepath.Join(n.dir, "bin", gone)); err != nil {
			t.Fatal(err)
		}
	}
}

// made is what executables alone have made, and what plexus has to undo.
func made(n *node) (byExecutables, byPlexus []string) {
	for _, what := range n.left() {
		if strings.HasPrefix(what, "bin/made/") {
			byExecutables = append(byExecutables, strings.ReplaceAll(strings.TrimPrefix(what, "bin/made/"), ","+sandboxOfPod, ""))
		} else {
			byPlexus = append(byPlexus, what)
		}
	}
	return byExecutables, byPlexus
}

// Executables that do not undo what they have made are in the way of DEL. The error names each
// of them with the way out, all else is undone. An operator gives the attachments up: DEL
// succeeds, again and again, while the pod and its networks are still there.
func TestAbandonedAttachments(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.mustAdd(stuckNetworks)
	stick(t, n)
	err := n.Del(t.Context(), r)
	says(t, err, "first: first was told to fail", `last: plugin "last" is neither built in nor in`, "ipam addresses: ")
	for _, ifName := range []string{"net1", "net2", "net3"} {
		says(t, err, "plexusctl reclaim "+sandboxOfPod+" --abandon "+ifName)
	}
	if strings.Contains(err.Error(), "--abandon net4") || strings.Contains(err.Error(), "--abandon eth0") {
		t.Errorf("what is undone is to be abandoned: %v", err)
	}
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil || rec == nil || len(n.world.Ports()) > 0 {
		t.Fatalf("%v, %v; ports %q", rec, err, n.world.Ports())
	}
	if InUse(rec) {
		t.Error("a sandbox that the runtime removes is in use")
	}
	_, err = n.Reclaim(t.Context(), sandboxOfPod, "net1", "net9")
	says(t, err, `has no attachment "net9": plexusctl show lists them`)
	given, err := n.Reclaim(t.Context(), sandboxOfPod, "net1")
	says(t, err, "net2", "net3", "--abandon net3")
	if len(given) != 1 || given[0].Kind != KindAbandoned || !strings.Contains(given[0].What, "net1 (network default/executed): abandoned by an operator; left may be link net1, address 192.0.2.7/24: ") || given[0].Pod == nil {
		t.Errorf("given up: %+v", given)
	}
	if rec, err = n.Journal.Read(sandboxOfPod); err != nil || len(rec.Transactions[0].Abandoned) != 1 {
		t.Errorf("recorded: %+v, %v", rec, err)
	}
	s := &steps{at: -1}
	err = s.do(t.Context(), func(ctx context.Context) error {
		given, err = n.Reclaim(ctx, sandboxOfPod, "default/between", "net3")
		return err
	})
	if err != nil || len(given) != 2 || !slices.ContainsFunc(s.seen, func(step string) bool {
		return strings.Contains(step, "net3: abandon net3 (network default/script): abandoned by an operator")
	}) {
		t.Errorf("%+v, %v, steps %q", given, err, s.seen)
	}
	wantGivenUp(t, n)
	for range 2 {
		if err := n.Del(t.Context(), r); err != nil {
			t.Errorf("DEL: %v", err)
		}
	}
	wantGivenUp(t, n)
}

// wantGivenUp wants that nothing is left but what the stuck executables have made.
func wantGivenUp(t *testing.T, n *node) {
	t.Helper()
	byExecutables, byPlexus := made(n)
	if want := []string{"addresses,net3", "first,net1", "first,net2", "last,net1", "last,net2"}; !slices.Equal(byExecutables, want) || len(byPlexus) > 0 {
		t.Errorf("left: %q, want %q; %q", byExecutables, want, byPlexus)
	}
}

// DEL after one that met a plugin which is not there runs the others of its list.
func TestAMissingPluginHidesNoOther(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.mustAdd("executed")
	if err := os.Rename(filepath.Join(n.dir, "bin", "last"), filepath.Join(n.dir, "bin", "away")); err != nil {
		t.Fatal(err)
	}
	says(t, n.Del(t.Context(), r), "last: ", "--abandon net1")
	if byExecutables, _ := made(n); !slices.Equal(byExecutables, []string{"last,net1"}) {
		t.Errorf("left: %q", byExecutables)
	}
	if err := os.Rename(filepath.Join(n.dir, "bin", "away"), filepath.Join(n.dir, "bin", "last")); err != nil {
		t.Fatal(err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// What plexus undoes itself is never given up: it waits for its vswitch.
func TestABuiltinIsNotAbandoned(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.mustAdd("between")
	stick(t, n)
	n.world.SetAway(switchA, true)
	given, err := n.Reclaim(t.Context(), sandboxOfPod, "net1")
	says(t, err, switchA)
	if len(given) > 0 || strings.Contains(err.Error(), "--abandon") {
		t.Errorf("given up: %+v; %v", given, err)
	}
	n.world.SetAway(switchA, false)
	if err := n.Del(t.Context(), n.request("between")); err != nil { // the operator's decision is recorded
		t.Error(err)
	}
	if _, byPlexus := made(n); len(byPlexus) > 0 {
		t.Errorf("left: %q", byPlexus)
	}
}

// A change of a running pod's networks meets a plugin that is gone: giving up what it detaches
// cuts nothing else, and is no cut of a running pod.
func TestAbandonInARunningPod(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.mustAdd("executed,static@net2")
	stick(t, n)
	n.api.ask("static@net2")
	_, err := n.Update(t.Context(), sandboxOfPod, n.api.asked())
	says(t, err, "--abandon net1")
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	for names, want := range map[string]bool{"": true, "net1": false, "net2": true, "net1,net2": true} {
		if got := InUse(rec, strings.FieldsFunc(names, func(r rune) bool { return r == ',' })...); got != want {
			t.Errorf("in use without %q: %v", names, got)
		}
	}
	if given, err := n.Reclaim(t.Context(), sandboxOfPod, "net1"); err != nil || len(given) != 1 {
		t.Errorf("%+v, %v", given, err)
	}
	if _, err := n.Update(t.Context(), sandboxOfPod, n.api.asked()); err != nil {
		t.Error(err)
	}
	if err := n.Check(t.Context(), n.request("static@net2")); err != nil {
		t.Error(err)
	}
}

// An operator's decision holds wherever the process is stopped behind it: the next Reclaim ends
// it.
func TestEveryStepOfAbandonIsStopped(t *testing.T) {
	t.Parallel()
	reclaim := func(ctx context.Context, n *node) error {
		_, err := n.Reclaim(ctx, sandboxOfPod, "net1", "net2", "net3")
		return err
	}
	stuck := func(n *node) { n.mustAdd(stuckNetworks); stick(t, n) }
	eachStep(t, true, stuck, reclaim, func(t *testing.T, n *node, _ error) {
		rec, err := n.Journal.Read(sandboxOfPod)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, entry := range entriesNamed(rec, []string{"net1", "net2", "net3"}) {
			names = append(names, entry.IfName)
		}
		if _, err := n.Reclaim(t.Context(), sandboxOfPod, names...); err != nil {
			t.Errorf("the next Reclaim: %v", err)
		}
		if _, byPlexus := made(n); len(byPlexus) > 0 {
			t.Errorf("left: %q", byPlexus)
		}
	})
}
