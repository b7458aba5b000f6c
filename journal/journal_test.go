package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/lock"
)

func record() *Record {
	return &Record{Sandbox: "abc", Transactions: []*Transaction{{
		Network: "node", IfName: "eth0", Phase: PhaseAttached, Started: time.Unix(1700000000, 0).UTC(), Netns: "/run/netns/a", NetnsID: "4:17",
		Pod: &conf.Pod{Namespace: "default", Name: "a", UID: "u-1", Volumes: []conf.Volume{{Name: "shared-dir", HostPath: "/v"}}}, Path: []string{"/opt/cni/bin"},
		Attachments: []*Entry{{
			Network: conf.Network{Name: "default/fast", IfName: "net1", List: conf.List{CNIVersion: "1.1.0", Name: "fast", Plugins: []json.RawMessage{json.RawMessage(`{"type":"ovsdpdk"}`)}}},
			State:   map[string]json.RawMessage{"ovsdpdk": json.RawMessage(`{"port":"vhu1"}`)},
		}},
	}}}
}

func written(t *testing.T) (*Journal, string) {
	t.Helper()
	j := openTest(t)
	if err := j.Write(context.Background(), record()); err != nil {
		t.Fatal(err)
	}
	return j, filepath.Join(j.dir, "sandboxes", "abc.json")
}

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	j, _ := written(t)
	got, err := j.Read("abc")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(record(), got, cmpopts.IgnoreUnexported(Entry{}, Transaction{})); diff != "" {
		t.Error(diff)
	}
	if list, err := j.Sandboxes(); err != nil || !slices.Equal(list, []string{"abc"}) {
		t.Errorf("sandboxes %v, %v", list, err)
	}
	if err := j.Remove(context.Background(), "abc"); err != nil {
		t.Fatal(err)
	}
	if rec, err := j.Read("abc"); rec != nil || err != nil {
		t.Errorf("after Remove: %v, %v", rec, err)
	}
	if err := j.Remove(context.Background(), "abc"); err != nil {
		t.Errorf("the second Remove: %v", err)
	}
}

// Whatever part of a file is missing or changed, it is called damaged; it is
// never taken for a record, and never for the absence of one.
func TestEveryDamageIsSeen(t *testing.T) {
	j, file := written(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := j.Read("abc")
		var d *DamagedError
		if rec != nil || !errors.As(err, &d) || d.File != file || d.Why == "" {
			t.Errorf("%s: record %v, error %v", what, rec, err)
		}
	}
	for n := range len(whole) - 1 { // the last byte is a line feed
		damaged("truncated", whole[:n])
	}
	for n := range len(whole) - 1 {
		flipped := bytes.Clone(whole)
		flipped[n] ^= 1
		if rec, why := Decode("abc", flipped); why == "" && cmp.Diff(record(), rec, cmpopts.IgnoreUnexported(Entry{}, Transaction{})) != "" {
			t.Errorf("byte %d flipped: a different record is read", n)
		}
	}
	damaged("foreign JSON", []byte(`[{"type": "flannel"}]`))
	damaged("foreign text", []byte("hello\n"))
	damaged("a later version", bytes.Replace(whole, []byte(`"plexusJournal":1`), []byte(`"plexusJournal":2`), 1))
	other := record()
	other.Sandbox = "xyz"
	if err := j.Write(context.Background(), other); err != nil {
		t.Fatal(err)
	}
	copied, err := os.ReadFile(filepath.Join(j.dir, "sandboxes", "xyz.json"))
	if err != nil {
		t.Fatal(err)
	}
	damaged("another sandbox's", copied)
}

// A record that was committed is in force. When it was cut short anywhere, or changed,
// the one before it is, and the damage is told.
func TestCommit(t *testing.T) {
	ctx := context.Background()
	j, file := written(t)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	later := record()
	later.Transactions[0].Phase = PhaseRemoving
	data, err := Encode(later)
	if err != nil {
		t.Fatal(err)
	}
	refusing := delegates.WithSteps(ctx, func(string) error { return errors.New("no") })
	if j.Commit(refusing, later) == nil {
		t.Error("it was not refused")
	}
	if err := j.Commit(ctx, later); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(whole, slices.Concat(before, data)) {
		t.Fatalf("the file holds %s, %v", whole, err)
	}
	reads := func(what string, data []byte, phase Phase, damaged bool) {
		t.Helper()
		rec, why := Decode("abc", data)
		if why != "" || rec.Transactions[0].Phase != phase || (rec.Damage != "") != damaged {
			t.Fatalf("%s: record %+v, why %q", what, rec, why)
		}
	}
	reads("whole", whole, PhaseRemoving, false)
	reads("without its last line feed", whole[:len(whole)-1], PhaseRemoving, false)
	for end := len(before) + 1; end < len(whole)-1; end++ { // the last byte is a line feed
		reads("cut", whole[:end], PhaseAttached, true)
		reads("cut and filled with zeros", slices.Concat(whole[:end], make([]byte, len(whole)-end)), PhaseAttached, true)
	}
	for at := len(before); at < len(whole)-1; at++ {
		for bit := range 8 {
			flipped := bytes.Clone(whole)
			flipped[at] ^= 1 << bit
			rec, why := Decode("abc", flipped)
			if why != "" {
				t.Fatalf("byte %d, bit %d: %s", at, bit, why)
			}
			// JSON says the same of a key in capitals.
			if rec.Transactions[0].Phase == PhaseAttached != (rec.Damage != "") {
				t.Fatalf("byte %d, bit %d: %s %q", at, bit, rec.Transactions[0].Phase, rec.Damage)
			}
		}
	}
	for at := range before { // the first record is damaged: the later one stands for itself
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		reads("a bit of the first record", flipped, PhaseRemoving, false)
	}
	reads("a third record that is torn", slices.Concat(whole, before[:len(before)/2]), PhaseRemoving, true)

	if err := os.WriteFile(file, whole[:len(whole)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	rec, err := j.Read("abc")
	if err != nil || !strings.Contains(rec.Damage, file) {
		t.Errorf("the damage does not name the file: %+v, %v", rec, err)
	}
	if err := j.Write(ctx, later); err != nil {
		t.Fatal(err)
	}
	if rec, err := j.Read("abc"); err != nil || rec.Transactions[0].Phase != PhaseRemoving || rec.Damage != "" {
		t.Errorf("written anew: %+v, %v", rec, err)
	}
}

func TestADamagedFileIsKeptAside(t *testing.T) {
	j, file := written(t)
	for range 2 {
		if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := j.SetAside(context.Background(), "abc"); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := j.Damaged()
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v, want both", kept, err)
	}
}

// The lock is exclusive and is handed on.
func TestLockIsExclusive(t *testing.T) {
	j := openTest(t)
	inside, most := 0, 0
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 20 {
				_, held, err := j.Lock(t.Context(), "abc")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				held.Release()
			}
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d held the lock at once", most)
	}
}

func TestALockThatIsHeldIsReported(t *testing.T) {
	j := openTest(t)
	_, held, err := j.Lock(t.Context(), "abc")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := j.Lock(ctx, "abc"); err == nil || !strings.Contains(err.Error(), "abc") {
		t.Errorf("error %v, want one that names the sandbox", err)
	}
	_, free, err := j.Lock(t.Context(), "other")
	if err != nil {
		t.Fatalf("another sandbox: %v", err)
	}
	free.Release()
}

func FuzzDecodeRecord(f *testing.F) {
	j := Open(f.TempDir())
	if err := j.Write(context.Background(), record()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(j.File("abc"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(slices.Concat(whole, whole))
	f.Add(whole[:40])
	f.Add([]byte(`{"plexusJournal":1,"sha256":"74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"}` + "\nnull"))
	f.Add([]byte("{}\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, why := Decode("abc", data)
		if (rec == nil) == (why == "") {
			t.Errorf("record %v, reason %q", rec, why)
		}
	})
}

// openTest is a journal whose locks are beside it, so that no privilege is needed.
func openTest(t *testing.T) *Journal {
	j := Open(t.TempDir())
	j.Locks = lock.Table(filepath.Join(j.DataDir(), "locks"))
	return j
}
