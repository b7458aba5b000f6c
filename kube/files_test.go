package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A network file is remembered, and read again when it, or what stands beside it, has
// changed in any way.
func TestRememberedNetwork(t *testing.T) {
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
	settle := func() {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			load()
			if st, err := os.Stat(file); err == nil && cachedDefinition(file, st) != nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("it is not remembered")
			}
		}
	}
	const one, other = `{"name": "a", "plugins": [{"type": "x"}]}`, `{"name": "a", "plugins": [{"type": "y"}]}`
	write(file, one)
	settle()
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
	settle()
	write(file+".new", one)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	if got := load(); got != one {
		t.Errorf("replaced: %s", got)
	}
	settle()
	write(filepath.Join(dir, "a", "1.conf"), `{"type": "z"}`)
	if got := load(); !strings.Contains(got, `"z"`) {
		t.Errorf("a plugin in its subfolder: %s", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	settle()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if d, err := loadNetwork(file); err == nil {
		t.Errorf("removed: %s", d.Config)
	}
}
