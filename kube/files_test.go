package kube

import (
	"errors"
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

// A list whose plugins are all files of its subfolder (CNI specification 1.1.0, section 1) is a
// list like another.
func TestListOfFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	wantError := func(err error, parts ...string) {
		t.Helper()
		if (err == nil) != (len(parts) == 0) {
			t.Fatalf("error %v, want %q", err, parts)
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %v, want %q", err, part)
			}
		}
	}
	put("10-main.conflist", `{"cniVersion": "1.0.0", "name": "main"}`)
	_, err := networkAt(filepath.Join(dir, "10-main.conflist"))
	wantError(err, "10-main.conflist", filepath.Join(dir, "main"), "*.conf")
	put("main/10-a.conf", `{"type": "calico"}`)
	put("main/20-b.conf", `{"type": "tuning"}`)
	d, err := networkAt(filepath.Join(dir, "10-main.conflist"))
	wantError(err)
	list, err := d.ParseList("")
	wantError(err)
	if got := strings.Join(list.Types(), " "); got != "calico tuning" || list.Name != "main" {
		t.Errorf("%s has %s", list.Name, got)
	}
	put("main/15-broken.conf", `{`)
	_, err = networkAt(filepath.Join(dir, "10-main.conflist"))
	wantError(err, "main/15-broken.conf")
	put("20-alone.conflist", `{"name": "main", "loadOnlyInlinedPlugins": true}`)
	d, err = networkAt(filepath.Join(dir, "20-alone.conflist"))
	wantError(err)
	_, err = d.ParseList("")
	wantError(err, "type")
}

// A file of the auxiliary chain that is no plugin costs no pod its networks: the others run,
// and a warning names the file.
func TestBrokenFileOfChain(t *testing.T) {
	for name, broken := range map[string]string{
		"no JSON": "{ this is none", "no object": "[]", "no type": `{"level": 3}`, "a list": `{"plugins": [{"type": "a"}]}`, "a type that is a path": `{"type": "../sh"}`,
		"plexus": `{"type": "plexus"}`,
	} {
		dir := t.TempDir()
		chain := filepath.Join(dir, "vendor")
		err := errors.Join(os.Mkdir(chain, 0o755), os.WriteFile(filepath.Join(chain, "10-a.conf"), []byte(`{"type": "audit"}`), 0o600),
			os.WriteFile(filepath.Join(chain, "20-b.conf"), []byte(broken), 0o600), os.Symlink("/no/such/file", filepath.Join(chain, "30-c.conf")))
		if err != nil {
			t.Fatal(err)
		}
		d, err := chainAt(dir, "vendor")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		list, err := d.ParseList("")
		if err != nil || strings.Join(list.Types(), " ") != "passthru audit" {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		if len(d.Warnings) != 2 || !strings.Contains(d.Warnings[0], "20-b.conf") || !strings.Contains(d.Warnings[1], "30-c.conf") {
			t.Errorf("%s: warnings %q", name, d.Warnings)
		}
	}
}
