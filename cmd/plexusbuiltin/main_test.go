package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// Under a name of the meta-plugin it does nothing.
func TestOwnNames(t *testing.T) {
	for _, as := range []string{"plexus", "plexusbuiltin", "multus"} {
		if status := run(as); status != 2 {
			t.Errorf("%s: status %d", as, status)
		}
	}
}

// It knows no pods, and takes back the status file of an interface that plexus has attached.
func TestSource(t *testing.T) {
	if pod, err := (noPods{}).Pod(t.Context(), "a", "b", ""); pod != nil || err != nil {
		t.Error(pod, err)
	}
	if d, err := (noPods{}).Network(t.Context(), conf.Reference{}); d != nil || err == nil {
		t.Error(d, err)
	}
	file := filepath.Join(t.TempDir(), "a.status.json")
	for sandbox, stays := range map[string]bool{"s1": false, "s2": true} {
		if err := os.WriteFile(file, []byte(`{"metadata": {"annotations": {"plexus-cni.io/sandbox": "s1"}}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (noPods{}).Retract(t.Context(), file, sandbox); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); (err == nil) != stays {
			t.Errorf("sandbox %s: %v", sandbox, err)
		}
	}
}
