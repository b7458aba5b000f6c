package journal

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
)

// Records are listed by their sandboxes; a damaged file is set aside beside those that were
// set aside before.
func TestSandboxesAndDamagedFiles(t *testing.T) {
	j := Open(t.TempDir())
	if all, err := j.Sandboxes(); err != nil || len(all) > 0 {
		t.Errorf("%q, %v", all, err)
	}
	for _, sandbox := range []string{"b", "a"} {
		if err := j.Write(t.Context(), &Record{Sandbox: sandbox}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(j.DataDir(), "sandboxes", "-x.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := j.Sandboxes(); err != nil || !slices.Equal(all, []string{"a", "b"}) {
		t.Errorf("%q, %v", all, err)
	}
	var places []string
	for range 2 {
		place, err := j.SetAside(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, place)
		if err := j.Write(t.Context(), &Record{Sandbox: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(places)
	if all, err := j.Damaged(); err != nil || !slices.Equal(all, places) || places[0] == places[1] {
		t.Errorf("%q, %v, want %q", all, err, places)
	}
	for range 2 { // it need not be there
		if err := j.Remove(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	if rec, err := j.Read("a"); rec != nil || err != nil {
		t.Errorf("%v, %v", rec, err)
	}
}

// The transaction that network-status is about is the last one of a pod.
func TestLatest(t *testing.T) {
	at := func(second int, pod *conf.Pod) *Transaction {
		return &Transaction{Started: time.Unix(int64(second), 0), Pod: pod, Conf: []byte("{}")}
	}
	rec := &Record{Transactions: []*Transaction{at(1, &conf.Pod{}), at(3, &conf.Pod{}), at(2, &conf.Pod{}), at(4, nil)}}
	if got := rec.Latest(); got != rec.Transactions[1] {
		t.Errorf("%+v", got)
	}
	if got := (*Record)(nil).Latest(); got != nil {
		t.Errorf("%+v", got)
	}
}

// Work on one sandbox after the other skips those that are locked, and says so.
func TestSkipping(t *testing.T) {
	j := Open(t.TempDir())
	j.Locks = lock.Table(filepath.Join(j.DataDir(), "locks"))
	ctx, held, err := j.Lock(t.Context(), "a")
	if err != nil || lock.Of(ctx) != held {
		t.Fatal(err)
	}
	defer held.Release()
	skipping := j.Skipping(t.Context(), time.Millisecond)
	for range 2 {
		if _, _, err := j.Lock(skipping, "a"); !IsLocked(err) {
			t.Errorf("%v, want that it is locked", err)
		}
	}
	_, free, err := j.Lock(skipping, "b")
	if err != nil {
		t.Fatal(err)
	}
	free.Release()
}
