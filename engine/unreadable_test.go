package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/journal"
)

// rewrite changes the record of a sandbox, as a former version, or a hand, may have
// written it.
func rewrite(t *testing.T, j *journal.Journal, sandbox string, change func(*journal.Transaction)) {
	t.Helper()
	rec, err := j.Read(sandbox)
	if err != nil || rec == nil {
		t.Fatal(rec, err)
	}
	change(rec.Transactions[0])
	if err := j.Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
}

// An attachment whose recorded list cannot be read stays recorded and is told of; it keeps
// no other from being undone.
func TestAnUnreadableListStaysAlone(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	var list json.RawMessage
	rewrite(t, h.Journal, "a", func(tx *journal.Transaction) {
		list = tx.Attachments[2].List.Plugins[0]
		tx.Attachments[2].List.Plugins[0] = json.RawMessage(`{"nothing": 1}`)
	})
	h.says(h.Del(t.Context(), h.request("a")), "net2", "type")
	if h.m.begun["net1"] || !h.m.begun["net2"] || h.addresses() != "" || !strings.Contains(h.read(filepath.Join(h.dir, "calls")), "DEL a") {
		t.Errorf("left: %v, addresses of %s", h.m.begun, h.addresses())
	}
	rewrite(t, h.Journal, "a", func(tx *journal.Transaction) {
		if len(tx.Attachments) != 1 {
			t.Fatalf("recorded are %d attachments", len(tx.Attachments))
		}
		tx.Attachments[0].List.Plugins[0] = list
	})
	if err := h.Del(t.Context(), h.request("a")); err != nil || len(h.m.begun) != 0 {
		t.Errorf("%v, left: %v", err, h.m.begun)
	}
}

// libcni's file of a result that cannot be read keeps nothing from being undone.
func TestACachedResultThatCannotBeRead(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	for _, name := range h.cached() {
		file := filepath.Join(h.dir, "results", name)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(file, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Del(t.Context(), h.request("a")); err != nil {
		t.Error(err)
	}
	if len(h.m.begun) != 0 || h.addresses() != "" || len(h.cached()) != 0 {
		t.Errorf("left: %v, addresses of %s, cached %v", h.m.begun, h.addresses(), h.cached())
	}
}

// A recorded result with a null in it is an error of CHECK, and no reason to panic.
func TestARecordedResultWithNull(t *testing.T) {
	h := newHouse(t)
	h.mustAdd("a")
	rewrite(t, h.Journal, "a", func(tx *journal.Transaction) {
		tx.Attachments[1].Result = json.RawMessage(`{"cniVersion": "1.1.0", "interfaces": [null]}`)
	})
	h.says(h.Check(t.Context(), h.request("a")), "net1", "null")
	if _, err := h.Reconcile(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
	if err := h.Del(t.Context(), h.request("a")); err != nil || len(h.m.begun) != 0 {
		t.Errorf("%v, left: %v", err, h.m.begun)
	}
}

// A recorded attachment whose configuration names no backend any more is not forgotten.
func TestABackendThatIsNotNamedAnyMore(t *testing.T) {
	h := newHouse(t)
	h.Delegates["userspace ovs-dpdk"], h.Delegates["userspace vpp"] = h.m, h.m
	h.mustAdd("a")
	rewrite(t, h.Journal, "a", func(tx *journal.Transaction) {
		entry := tx.Attachments[1]
		entry.List.Plugins[0] = json.RawMessage(`{"type": "userspace", "host": {"engine": "vppx"}}`)
		entry.State = map[string]json.RawMessage{"userspace": json.RawMessage(`{}`)}
	})
	h.says(h.Del(t.Context(), h.request("a")), "net1", `"host.engine"`)
	if rec, err := h.Journal.Read("a"); err != nil || rec == nil || len(rec.Transactions[0].Attachments) != 1 {
		t.Errorf("%+v, %v", rec, err)
	}
}
