package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

// FromMultus reads what Multus and libcni know of a pod, and changes nothing.
func TestFromMultus(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	r.put("multus/folder/x", "no sandbox")
	before := r.files()
	m := r.read()
	if diff := cmp.Diff(before, r.files()); diff != "" {
		t.Error(diff)
	}
	if len(m.Records) != 1 {
		t.Fatalf("%d records", len(m.Records))
	}
	tx := m.Records[0].Transactions[0]
	tx.Started = time.Time{}
	if origin := string(tx.Attachments[1].Origin); !strings.Contains(origin, "macRequest") {
		t.Errorf("what Multus has recorded is %s", origin)
	}
	for _, e := range tx.Attachments {
		e.Origin = nil
	}
	got, err := json.MarshalIndent(m.Records[0], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/migrated.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Error(diff)
	}
	if m.From != filepath.Join(r.ConfDir, "00-multus.conf") || !slices.Equal(m.Dropped, []string{"socketDir"}) || len(m.Left)+len(m.Missing) > 0 || len(m.Results) != 2 {
		t.Errorf("from %s, dropped %q, left %q, missing %q, %d results", m.From, m.Dropped, m.Left, m.Missing, len(m.Results))
	}
	if c, err := conf.Parse(m.Conf); err != nil || c.DataDir != r.dataDir || c.Name != "multus-cni-network" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Apply moves the node: the journal has the pod, plexus is the runtime's first, Multus'
// configuration is aside, and its files about the pod are gone.
func TestApply(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	before := r.files()
	m := r.read()
	if err := m.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := r.files()
	want := map[string]string{
		"net.d/00-plexus.conf":                            string(m.Conf),
		"net.d/00-multus.conf.before-plexus":              before["net.d/00-multus.conf"],
		"net.d/99-pods.conf":                              before["net.d/99-pods.conf"],
		"plexus/results/pods-" + multusSandbox + "-eth0":  before["multus/results/pods-"+multusSandbox+"-eth0"],
		"plexus/results/fast-" + multusSandbox + "-fast0": before["multus/results/fast-"+multusSandbox+"-fast0"],
		"plexus/sandboxes/" + multusSandbox + ".json":     after["plexus/sandboxes/"+multusSandbox+".json"],
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Error(diff)
	}
	if !r.recorded(multusSandbox) || r.first() != "plexus" {
		t.Errorf("recorded %v, %s is first", r.recorded(multusSandbox), r.first())
	}
	for _, name := range []string{"net.d/00-plexus.conf", "plexus/results/pods-" + multusSandbox + "-eth0"} {
		if st, err := os.Stat(filepath.Join(r.dir, name)); err != nil || st.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if _, err := FromMultus(r.Multus); err == nil || !strings.Contains(err.Error(), "00-plexus.conf comes first") {
		t.Errorf("a second run: %v", err)
	}
}

// With cniDir, Multus' folder is plexus' data folder: libcni's results stay there.
func TestApplyWithCNIDir(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	r.put("net.d/00-multus.conf", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n", "type": "multus", "cniDir": %q, "clusterNetwork": "pods"}`, r.Delegates))
	r.dataDir, r.Delegates = r.Delegates, ""
	before := r.files()
	if err := r.read().Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := r.files()
	if name := "multus/results/pods-" + multusSandbox + "-eth0"; after[name] != before[name] || !r.recorded(multusSandbox) {
		t.Errorf("the result is %q, the pod is recorded: %v", after[name], r.recorded(multusSandbox))
	}
	if _, left := after["multus/"+multusSandbox]; left {
		t.Error("Multus' file about the sandbox is left")
	}
}

// Apply fails, or is killed, at each step: whoever is the runtime's first configuration
// then can undo the pod, and the next Apply ends as an undisturbed one.
func TestApplyStopsAtEachStep(t *testing.T) {
	for _, name := range []string{"00-multus.conf", "70-multus.conf"} {
		for _, dead := range []bool{false, true} {
			undisturbed := newMultusRig(t, name)
			if err := undisturbed.read().Apply(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := slices.Sorted(maps.Keys(undisturbed.files()))
			for stop := 1; ; stop++ {
				r := newMultusRig(t, name)
				disk := &stoppedDisk{stop: stop, dead: dead}
				r.disk = disk
				err := r.read().Apply(t.Context())
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
				_, atMultus := r.files()["multus/"+multusSandbox]
				switch first := r.first(); {
				case first == "multus" && !atMultus, first == "plexus" && !r.recorded(multusSandbox), first == "bridge":
					t.Errorf("%s: %s is first, Multus has the pod: %v, plexus: %v", at, first, atMultus, r.recorded(multusSandbox))
				}
				r.disk = nil
				m, err := FromMultus(r.Multus)
				if err == nil {
					err = m.Apply(t.Context())
				} else if strings.Contains(err.Error(), "00-plexus.conf comes first") { // it was done but for what is Multus'
					err = os.RemoveAll(r.Delegates)
				}
				if err != nil {
					t.Errorf("%s: the next run: %v", at, err)
				}
				if diff := cmp.Diff(want, slices.Sorted(maps.Keys(r.files()))); diff != "" || r.first() != "plexus" || !r.recorded(multusSandbox) {
					t.Errorf("%s: after the next run: %s", at, diff)
				}
			}
		}
	}
}

// Nothing of Multus' goes before all that takes its place is on the disk.
func TestApplyIsDurable(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	disk := &stoppedDisk{}
	gone := 0
	disk.moves = func(path string) {
		if path != filepath.Join(r.ConfDir, r.name) && !strings.HasPrefix(path, r.Delegates) {
			return
		}
		gone++
		for changed := range disk.unsynced {
			if !strings.HasPrefix(changed, r.Delegates) {
				t.Errorf("%s goes while %s is not on the disk", path, changed)
			}
		}
	}
	r.disk = disk
	if err := r.read().Apply(t.Context()); err != nil || gone != 4 {
		t.Errorf("%v; %d files of Multus' go, want 4", err, gone)
	}
}

// A journal that cannot be written is an error before anything of Multus' is changed.
func TestApplyWithoutJournal(t *testing.T) {
	r := newMultusRig(t, "00-multus.conf")
	r.put("plexus", "no folder")
	before := r.files()
	if err := r.read().Apply(t.Context()); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff(before, r.files()); diff != "" {
		t.Error(diff)
	}
}
