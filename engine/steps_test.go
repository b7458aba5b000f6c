package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// everyNetwork are networks of all kinds: a built-in with an executed plugin behind it,
// neighbours of two backends, and a list of two built-ins. One plugin is executed alone: an
// execution takes ten milliseconds, and a hundred steps are many.
const everyNetwork = "probed,static,other,pair"

// eachStep does a request on a new node once for each of its steps. Each time that step fails,
// or the process is stopped there; then it calls check with what the request answered. The
// request is prepared by before. It says how many steps there were.
func eachStep(t *testing.T, stop bool, before func(*node), request func(context.Context, *node) error, check func(*testing.T, *node, error)) {
	t.Helper()
	n := newNode(t)
	before(n)
	all := &steps{at: -1}
	if err := all.do(t.Context(), func(ctx context.Context) error { return request(ctx, n) }); err != nil {
		t.Fatal(err)
	}
	if len(all.seen) < 10 {
		t.Fatalf("%d steps alone: %q", len(all.seen), all.seen)
	}
	what := map[bool]string{true: "stopped", false: "failed"}[stop]
	t.Logf("%d steps, each of them %s", len(all.seen), what)
	for at, step := range all.seen {
		t.Run(fmt.Sprintf("%s at %d", what, at), func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			before(n)
			s := &steps{at: at}
			if stop {
				s.stop = n.toys.Kill
			}
			err := s.do(t.Context(), func(ctx context.Context) error { return request(ctx, n) })
			if (err == errStopped{}) != stop || err == nil {
				t.Fatalf("%v at step %q", err, step)
			}
			if stop {
				n.start()
			} else {
				says(t, err, "told to fail at")
			}
			if check(t, n, err); t.Failed() {
				t.Logf("%s at step %q", what, step)
			}
		})
	}
}

// insideNetworks are networks for which nothing is executed.
const insideNetworks = "hosted,pair,static,other"

func add(ctx context.Context, n *node) error       { return addTo(ctx, n, everyNetwork) }
func addInside(ctx context.Context, n *node) error { return addTo(ctx, n, insideNetworks) }

func addTo(ctx context.Context, n *node, networks string) error {
	_, err := n.Add(ctx, n.request(networks))
	return err
}

func del(ctx context.Context, n *node) error { return n.Del(ctx, n.request(everyNetwork)) }

// Every step of ADD fails in turn: ADD says so and has undone all of it.
func TestEveryStepOfAddFails(t *testing.T) {
	t.Parallel()
	eachStep(t, false, builtinCluster, add, func(t *testing.T, n *node, _ error) {
		n.wantNothingLeft("after ADD")
		if err := del(t.Context(), n); err != nil {
			t.Errorf("DEL: %v", err)
		}
	})
}

// The process is stopped at every step of ADD in turn. A new one finds in the journal, or by
// marks, what DEL has to undo.
func TestEveryStepOfAddIsStopped(t *testing.T) {
	t.Parallel()
	eachStep(t, true, func(*node) {}, add, func(t *testing.T, n *node, _ error) {
		if err := del(t.Context(), n); err != nil {
			t.Errorf("DEL: %v", err)
		}
		n.wantNothingLeft("after DEL")
	})
}

// The same, when the runtime never comes back: the agent undoes what is recorded, and GC what
// is not.
func TestEveryStepOfAddIsStoppedAndCollected(t *testing.T) {
	t.Parallel()
	eachStep(t, true, builtinCluster, addInside, func(t *testing.T, n *node, _ error) {
		found, err := n.Reconcile(t.Context(), sandboxOfPod, nil)
		if err != nil {
			t.Errorf("Reconcile: %v", err)
		}
		for _, f := range found {
			if f.Kind != KindUnfinished {
				t.Errorf("Reconcile: %+v", f)
			}
		}
		if err := n.GC(t.Context(), n.request(""), nil); err != nil {
			t.Errorf("GC: %v", err)
		}
		n.wantNothingLeft("after GC")
	})
}

// An ADD that comes again after one that was stopped undoes that first and succeeds.
func TestAddAfterOneThatWasStopped(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	s := &steps{at: 12, stop: n.toys.Kill}
	if err := s.do(t.Context(), func(ctx context.Context) error { return add(ctx, n) }); !errors.Is(err, errStopped{}) {
		t.Fatal(err)
	}
	n.start()
	says(t, n.Check(t.Context(), n.request(everyNetwork)), "cut short (adding): DEL it")
	if err := add(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context(), n.request(everyNetwork)); err != nil {
		t.Error(err)
	}
	if err := del(t.Context(), n); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
}

// Every step of DEL fails in turn: DEL says so, and the next one ends it. The steps behind the
// one that fails are tried.
func TestEveryStepOfDelFails(t *testing.T) {
	t.Parallel()
	eachStep(t, false, added, del, func(t *testing.T, n *node, _ error) {
		if ports := len(n.world.Ports()) + len(n.other.Ports()); ports > 4 {
			t.Errorf("%d ports are left", ports)
		}
		if err := del(t.Context(), n); err != nil {
			t.Errorf("the next DEL: %v", err)
		}
		n.wantNothingLeft("after the next DEL")
	})
}

// The process is stopped at every step of DEL in turn: the next DEL ends it.
func TestEveryStepOfDelIsStopped(t *testing.T) {
	t.Parallel()
	eachStep(t, true, addedInside, del, func(t *testing.T, n *node, _ error) {
		if err := del(t.Context(), n); err != nil {
			t.Errorf("the next DEL: %v", err)
		}
		n.wantNothingLeft("after the next DEL")
	})
}

// builtinCluster has a cluster network for which nothing is executed.
func builtinCluster(n *node) { n.configureCluster("passthru", "") }

// added has a pod that runs.
func added(n *node) {
	builtinCluster(n)
	n.mustAdd(everyNetwork)
}

// addedInside has a pod that runs, for whose networks nothing is executed.
func addedInside(n *node) {
	builtinCluster(n)
	n.mustAdd(insideNetworks)
}

// changed are the networks that a running pod asks for instead of insideNetworks: some go, and
// some come.
const changed = "static,bare,pair@net8,hosted@net9"

func update(ctx context.Context, n *node) error {
	n.api.ask(changed)
	_, err := n.Update(ctx, sandboxOfPod, n.api.asked())
	return err
}

// wantChanged wants that the pod has what it asks for: after another Update, which the agent
// makes, at the latest.
func wantChanged(t *testing.T, n *node) {
	t.Helper()
	if err := update(t.Context(), n); err != nil {
		t.Fatalf("the next Update: %v", err)
	}
	if err := n.Check(t.Context(), n.request(changed)); err != nil {
		t.Error(err)
	}
	rec, err := n.Journal.Read(sandboxOfPod)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range rec.Transactions[0].Attachments {
		if name, asked := strings.CutPrefix(entry.Name, "default/"); asked && entry.Phase == "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	want := strings.Split(strings.NewReplacer("@net8", "", "@net9", "").Replace(changed), ",")
	if slices.Sort(want); !slices.Equal(names, want) {
		t.Errorf("the pod has %q, want %q", names, want)
	}
	status := n.api.published()[placeOf(n.api.pod)]["k8s.v1.cni.cncf.io/network-status"]
	if got := strings.Count(status, `"name":"default/`); got != len(want) {
		t.Errorf("network-status has %d of %d networks: %s", got, len(want), status)
	}
	if err := n.Del(t.Context(), n.request(changed)); err != nil {
		t.Error(err)
	}
	if err := n.GC(t.Context(), n.request(""), nil); err != nil { // what an Update has reserved that was stopped before its record
		t.Error(err)
	}
	n.wantNothingLeft("after DEL and GC")
}

// Every step of a change of a running pod's networks fails in turn. The next Update comes to
// what the pod asks for.
func TestEveryStepOfUpdateFails(t *testing.T) {
	t.Parallel()
	eachStep(t, false, addedInside, update, func(t *testing.T, n *node, _ error) { wantChanged(t, n) })
}

// The process is stopped at every step of a change in turn. A new one undoes what is not
// whole, and the next Update comes to what the pod asks for; so it does without.
func TestEveryStepOfUpdateIsStopped(t *testing.T) {
	t.Parallel()
	eachStep(t, true, addedInside, update, func(t *testing.T, n *node, _ error) {
		if strings.HasSuffix(t.Name(), "0") || strings.HasSuffix(t.Name(), "5") {
			wantChanged(t, n)
			return
		}
		if _, err := n.Reconcile(t.Context(), sandboxOfPod, nil); err != nil {
			t.Errorf("Reconcile: %v", err)
		}
		if err := n.Check(t.Context(), n.request(changed)); err != nil {
			t.Errorf("CHECK after Reconcile: %v", err)
		}
		wantChanged(t, n)
	})
}

// The process is stopped at every step of a change, and the pod goes.
func TestDelAfterAnUpdateThatWasStopped(t *testing.T) {
	t.Parallel()
	eachStep(t, true, addedInside, update, func(t *testing.T, n *node, _ error) {
		if err := n.Del(t.Context(), n.request(changed)); err != nil {
			t.Error(err)
		}
		left := slices.DeleteFunc(n.left(), func(what string) bool { return strings.HasSuffix(what, "reserved") })
		if len(left) > 0 {
			t.Errorf("after DEL, this is left: %q", left)
		}
		if err := n.GC(t.Context(), n.request(""), []types.GCAttachment{}); err != nil {
			t.Error(err)
		}
		n.wantNothingLeft("after GC")
	})
}
