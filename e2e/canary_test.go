package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// A plexus of another name runs beside the node's meta-plugin, with a
// configuration and a data folder of its own.
func TestCanary(t *testing.T) {
	s := newSite(t, map[string]any{"type": "plexus-canary", "delegates": []any{map[string]any{"cniVersion": "1.0.0", "name": "cluster", "type": recorder}}})
	s.installRecorder()
	must(t, os.Symlink(filepath.Join(binDir(t), "plexus"), filepath.Join(s.dir, "plugins", "plexus-canary")))
	rel, err := filepath.Rel(binDir(t), filepath.Join(s.dir, "plugins", "plexus-canary"))
	must(t, err)
	s.as = rel
	p := newPod(t, "canary")
	s.mustAdd("0123456789ab", p, "")
	must(t, s.check("0123456789ab", p, ""))
	s.mustDel("0123456789ab", p, "")
	s.nad("nested", map[string]any{"cniVersion": "1.0.0", "type": "plexus-canary"})
	s.pod("nested", "nested")
	_, err = s.add("0123456789ab", p, "nested")
	says(t, err, "plexus cannot be a delegate of itself")
}
