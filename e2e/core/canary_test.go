package core

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// A plexus of another name runs beside the node's meta-plugin, with a
// configuration and a data folder of its own.
func TestCanary(t *testing.T) {
	s := site.New(t, map[string]any{"type": "plexus-canary", "delegates": []any{map[string]any{"cniVersion": "1.0.0", "name": "cluster", "type": site.Recorder}}})
	s.InstallRecorder()
	must.Do(t, os.Symlink(filepath.Join(site.BinDir(t), "plexus"), filepath.Join(s.Dir, "plugins", "plexus-canary")))
	rel, err := filepath.Rel(site.BinDir(t), filepath.Join(s.Dir, "plugins", "plexus-canary"))
	must.Do(t, err)
	s.As = rel
	p := site.NewPod(t, "canary")
	s.MustAdd("0123456789ab", p, "")
	must.Do(t, s.Check("0123456789ab", p, ""))
	s.MustDel("0123456789ab", p, "")
	s.NAD("nested", map[string]any{"cniVersion": "1.0.0", "type": "plexus-canary"})
	s.Pod("nested", "nested")
	_, err = s.Add("0123456789ab", p, "nested")
	site.Says(t, err, "plexus cannot be a delegate of itself")
}
