package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A network is that of its file, and of what stands beside it, however they have changed.
func TestChangedNetwork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "10-a.conflist")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	load := func() string {
		t.Helper()
		d, err := loadNetwork(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(d.Config)
	}
	const one, other = `{"name": "a", "plugins": [{"type": "x"}]}`, `{"name": "a", "plugins": [{"type": "y"}]}`
	write(file, one)
	load()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	write(file, other)
	if err := os.Chtimes(file, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := load(); got != other {
		t.Errorf("written over, of the same size and time: %s", got)
	}
	write(file+".new", one)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if got := load(); got != one {
		t.Errorf("replaced: %s", got)
	}
	write(filepath.Join(dir, "a", "1.conf"), `{"type": "z"}`)
	if got := load(); !strings.Contains(got, `"z"`) {
		t.Errorf("a plugin in its subfolder: %s", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if d, err := loadNetwork(file); err == nil {
		t.Errorf("removed: %s", d.Config)
	}
}
