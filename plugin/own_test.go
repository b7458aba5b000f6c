package plugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// No name leads back to plexus: its executables are known by the file, as a
// plugin and as an ipam plugin, beside a link and beside what it points at.
func TestPlexusIsNoPlugin(t *testing.T) {
	home, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{"plexus", "plexusd", "plexusbuiltin", "plexusctl"} {
		script(t, home, name, "exit 1 # "+name)
	}
	script(t, dir, "honest", "exit 1")
	script(t, home, "neighbour", "exit 1")
	hard := func(name, of string) {
		if err := os.Link(filepath.Join(home, of), filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	soft := func(in, name, to string) {
		if err := os.Symlink(to, filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	hard("hard", "plexus")
	hard("hardd", "plexusd")
	soft(home, "beside", "plexus")
	soft(dir, "away", filepath.Join(home, "plexus"))
	soft(dir, "awayd", filepath.Join(home, "plexusd"))
	soft(dir, "again", "away")
	soft(dir, "plain", filepath.Join(home, "neighbour"))
	path := []string{dir, home}
	for _, name := range []string{"plexus", "plexusd", "plexusbuiltin", "plexusctl", "hard", "hardd", "beside", "away", "awayd", "again"} {
		c := chainOf(t, Request{Path: path}, `{"type": "x"}`)
		_, err := c.FindInPath(name, path)
		says(t, err, name, "plexus cannot be a delegate of itself")
		i := c.newIPAM([]byte(`{"ipam": {"type": "`+name+`"}}`), &delegates.Attachment{})
		says(t, i.checkType(), name, "plexus cannot be a delegate of itself")
		_, err = i.allocate(t.Context())
		says(t, err, name, "plexus cannot be a delegate of itself")
		says(t, i.execute(t.Context(), "DEL", i.config), name, "plexus cannot be a delegate of itself")
		// One that attached pods before plexus took its name.
		c.Executed = true
		_, err = c.FindInPath(name, path)
		says(t, err, name, "put the former executable")
	}
	c := chainOf(t, Request{Path: path}, `{"type": "x"}`)
	for _, name := range []string{"honest", "neighbour", "plain"} {
		if found, err := c.FindInPath(name, path); err != nil || filepath.Base(found) != name {
			t.Errorf("%s: %q, %v", name, found, err)
		}
	}
}

func says(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}
