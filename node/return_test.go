package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/journal"
)

// Sandboxes of the journal in testdata/sandboxes.
const (
	fromMultus   = "3f1c9d0a7b52e4d68c10" // Multus has attached it
	byExecutable = "5be20c771d904fa3"     // plexus has, by executables
	byBuiltin    = "c0ffee00deadbeef"     // plexus has, one network by itself
	cutShort     = "ad00000000000001"     // its ADD has not ended
)

// builtin is what plexus attaches itself in the tests.
func builtin(typ string) bool { return typ == "ovsdpdk" }

// newPlexusRig is a node that was moved from Multus to plexus, with these sandboxes.
func newPlexusRig(t *testing.T, name string, sandboxes ...string) *multusRig {
	t.Helper()
	r := newMultusRig(t, name)
	if err := os.RemoveAll(r.Delegates); err != nil {
		t.Fatal(err)
	}
	if err := r.read().Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range sandboxes {
		data, err := os.ReadFile("testdata/sandboxes/" + sandbox + ".json")
		if err != nil {
			t.Fatal(err)
		}
		r.put("plexus/sandboxes/"+sandbox+".json", string(data))
	}
	return r
}

func (r *multusRig) readBack() *Return {
	r.t.Helper()
	b, err := ToMultus(r.Multus, builtin)
	if err != nil {
		r.t.Fatal(err)
	}
	return b
}

// The way back gives Multus what it recorded itself, and what it would have recorded of
// what plexus has attached by executables; the journal is empty then.
func TestToMultus(t *testing.T) {
	r := newPlexusRig(t, "00-multus.conf", fromMultus, byExecutable)
	r.put("plexus/results/pods-"+byExecutable+"-eth0", "a result")
	before := r.files()
	b := r.readBack()
	if diff := cmp.Diff(before, r.files()); diff != "" {
		t.Errorf("reading changes %s", diff)
	}
	if b.From != filepath.Join(r.ConfDir, "00-plexus.conf") || b.To != filepath.Join(r.ConfDir, "00-multus.conf") || len(b.Left) > 0 {
		t.Errorf("from %s to %s, left %q", b.From, b.To, b.Left)
	}
	if err := b.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := r.files()
	want := map[string]string{
		"net.d/00-multus.conf":                          before["net.d/00-multus.conf.before-plexus"],
		"net.d/99-pods.conf":                            before["net.d/99-pods.conf"],
		"multus/" + fromMultus:                          after["multus/"+fromMultus],
		"multus/" + byExecutable:                        after["multus/"+byExecutable],
		"multus/results/pods-" + byExecutable + "-eth0": "a result",
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Error(diff)
	}
	if st, err := os.Stat(filepath.Join(r.Delegates, fromMultus)); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	// The second run of a plugin's DEL needs the keys that plexus does not know, too.
	if text := after["multus/"+fromMultus]; !strings.Contains(text, `"macRequest":"02:00:00:00:00:07"`) || !strings.Contains(text, `"MasterPlugin":true`) {
		t.Errorf("Multus' own record is %s", text)
	}
	var all []struct {
		Conf          struct{ Name string }
		ConfList      struct{ Name string }
		Name          string
		IfnameRequest string
		Bytes         []byte
	}
	if err := json.Unmarshal([]byte(after["multus/"+byExecutable]), &all); err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if d := all[0]; d.Name != "pods" || d.IfnameRequest != "eth0" || d.ConfList.Name != "pods" || !json.Valid(d.Bytes) || !strings.Contains(string(d.Bytes), `"bridge"`) {
		t.Errorf("%+v, %s", d, d.Bytes)
	}
	if _, err := ToMultus(r.Multus, builtin); err == nil || !strings.Contains(err.Error(), "has 0 files *.before-plexus") {
		t.Errorf("a second way back: %v", err)
	}
}

// The way there and back changes nothing.
func TestThereAndBack(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	before := r.files()
	if err := r.read().Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.readBack().Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := r.files()
	for _, files := range []map[string]string{before, after} {
		var v any
		if err := json.Unmarshal([]byte(files["multus/"+multusSandbox]), &v); err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(v)
		files["multus/"+multusSandbox] = string(text)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

// With cniDir, the results are where they were.
func TestBackWithCNIDir(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	r.put("net.d/00-multus.conf", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n", "type": "multus", "cniDir": %q, "clusterNetwork": "pods"}`, r.Delegates))
	r.Delegates = ""
	want := slices.Sorted(maps.Keys(r.files()))
	if err := errors.Join(r.read().Apply(t.Context()), r.readBack().Apply(t.Context())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(r.files()))); diff != "" {
		t.Error(diff)
	}
}

// What no executable can undo is named with its pod, and Apply changes nothing.
func TestToMultusLeaves(t *testing.T) {
	damaged := func(r *multusRig) {
		r.put("plexus/sandboxes/"+byExecutable+".json", "{}")
	}
	damagedBehind := func(r *multusRig) {
		name := "plexus/sandboxes/" + byExecutable + ".json"
		r.put(name, r.files()[name]+`{"plexusJournal":1,`)
	}
	for name, c := range map[string]struct {
		sandbox string
		spoil   func(*multusRig)
		says    []string
	}{
		"by a built-in":       {byBuiltin, nil, []string{byBuiltin, "pod default/native", "net1", "ovsdpdk", "delete the pod first"}},
		"cut short":           {cutShort, nil, []string{cutShort, "DEL it first"}},
		"damaged":             {byExecutable, damaged, []string{byExecutable, "is not usable"}},
		"damaged at its end":  {byExecutable, damagedBehind, []string{byExecutable, "damaged behind its last whole record"}},
		"a result of no kind": {byExecutable, func(r *multusRig) { r.put("plexus/results/pods-"+byExecutable+"-eth0/x", "") }, []string{byExecutable, "is a directory"}},
	} {
		r := newPlexusRig(t, "00-multus.conf", fromMultus, c.sandbox)
		if c.spoil != nil {
			c.spoil(r)
		}
		before := r.files()
		b := r.readBack()
		for _, says := range c.says {
			if len(b.Left) != 1 || !strings.Contains(b.Left[0], says) {
				t.Errorf("%s: left %q, want %q", name, b.Left, says)
			}
		}
		if err := b.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "1 sandboxes cannot be moved") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(before, r.files()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A node that was not moved is refused, and so is one of which it is not sure how.
func TestToMultusRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(r *multusRig)
		says  string
	}{
		"never moved": {func(r *multusRig) { r.drop("net.d/00-multus.conf.before-plexus") }, "has 0 files"},
		"moved twice": {func(r *multusRig) { r.put("net.d/x.before-plexus", "{}") }, "has 2 files"},
		"no plexus":   {func(r *multusRig) { r.drop("net.d/00-plexus.conf") }, "00-plexus.conf: no such file"},
		"broken":      {func(r *multusRig) { r.put("net.d/00-plexus.conf", "{") }, "00-plexus.conf: "},
		"no journal":  {func(r *multusRig) { r.drop("plexus/sandboxes"); r.put("plexus/sandboxes", "") }, "read journal: "},
		"other settings": {func(r *multusRig) {
			r.put("net.d/70-multus.conf", r.files()["net.d/00-multus.conf.before-plexus"])
			r.drop("net.d/00-multus.conf.before-plexus")
			r.put("net.d/00-plexus.conf", migrated)
		}, "has 0 files"},
	} {
		r := newPlexusRig(t, "00-multus.conf", fromMultus)
		c.spoil(r)
		before := r.files()
		if _, err := ToMultus(r.Multus, builtin); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
		if diff := cmp.Diff(before, r.files()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func (r *multusRig) drop(name string) {
	r.t.Helper()
	if err := os.RemoveAll(filepath.Join(r.dir, name)); err != nil {
		r.t.Fatal(err)
	}
}

// The way back fails, or is killed, at each step: whoever is the runtime's first
// configuration then can undo the pods, and the next run ends as an undisturbed one.
func TestReturnStopsAtEachStep(t *testing.T) {
	for _, name := range []string{"00-multus.conf", "70-multus.conf"} {
		for _, dead := range []bool{false, true} {
			for stop := 1; ; stop++ {
				r := newPlexusRig(t, name, fromMultus, byExecutable)
				r.put("plexus/results/pods-"+byExecutable+"-eth0", "a result")
				disk := &stoppedDisk{stop: stop, dead: dead}
				r.disk = disk
				err := r.readBack().Apply(t.Context())
				if disk.calls < stop {
					if err != nil || stop < 10 {
						t.Errorf("%s: %d steps, %v", name, disk.calls, err)
					}
					break
				}
				at := fmt.Sprintf("%s, stopped at step %d (killed: %v)", name, stop, dead)
				if !errors.Is(err, errStopped) {
					t.Errorf("%s: %v", at, err)
				}
				r.canUndo(at, fromMultus, byExecutable)
				_, errStat := os.Stat(filepath.Join(r.ConfDir, plexusConf))
				r.disk = nil
				b, err := ToMultus(r.Multus, builtin)
				if err == nil {
					err = b.Apply(t.Context())
				} else if errors.Is(errStat, fs.ErrNotExist) { // it was done but for what is plexus'
					r.drop("plexus")
					err = nil
				}
				want := []string{"multus/" + fromMultus, "multus/" + byExecutable, "multus/results/pods-" + byExecutable + "-eth0", "net.d/99-pods.conf", "net.d/" + name}
				slices.Sort(want)
				if diff := cmp.Diff(want, slices.Sorted(maps.Keys(r.files()))); err != nil || diff != "" || r.first() != "multus" {
					t.Errorf("%s: the next run: %v, %s", at, err, diff)
				}
			}
		}
	}
}

// canUndo fails the test unless the runtime's first plugin knows the sandboxes.
func (r *multusRig) canUndo(at string, sandboxes ...string) {
	r.t.Helper()
	for _, sandbox := range sandboxes {
		text := r.files()["multus/"+sandbox]
		switch first := r.first(); {
		case first == "multus" && json.Valid([]byte(text)):
		case first == "plexus" && r.recorded(sandbox):
		default:
			r.t.Errorf("%s: %s is first, Multus' record of %s is %q, plexus has it: %v", at, first, sandbox, text, r.recorded(sandbox))
		}
	}
}

// The journal is not removed before all that takes its place is on the disk.
func TestReturnIsDurable(t *testing.T) {
	r := newPlexusRig(t, "00-multus.conf", fromMultus)
	r.put("plexus/results/pods-"+fromMultus+"-eth0", "a result")
	disk := &stoppedDisk{}
	gone := 0
	disk.moves = func(path string) {
		if strings.HasSuffix(path, aside) || strings.HasPrefix(path, r.dataDir) {
			gone++
			if len(disk.unsynced) > 0 {
				t.Errorf("%s goes while %v are not on the disk", path, disk.unsynced)
			}
		}
	}
	r.disk = disk
	if err := r.readBack().Apply(t.Context()); err != nil || gone != 2 {
		t.Errorf("%v; %d files go, want 2", err, gone)
	}
	if sandboxes, err := journal.Open(r.dataDir).Sandboxes(); err != nil || len(sandboxes) > 0 {
		t.Errorf("the journal has %q, %v", sandboxes, err)
	}
}
