package core

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// The auxiliary chain runs last, its plugins in the order of their files, and is
// undone first; a list has the plugins of the subfolder with its name.
func TestAuxiliaryChain(t *testing.T) {
	s := site.New(t, map[string]any{"auxiliaryCNIChainName": "extra"})
	s.InstallRecorder()
	net := filepath.Join(s.Dir, "net.d")
	log := filepath.Join(s.Dir, "log")
	write := func(name string, keys map[string]any) {
		t.Helper()
		file := filepath.Join(net, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, must.JSON(t, keys), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plugin := func(mark string) map[string]any {
		return map[string]any{"type": site.Recorder, "log": filepath.Join(s.Dir, mark)}
	}
	write("10-cluster.conflist", map[string]any{"cniVersion": "1.0.0", "name": "cluster", "plugins": []any{plugin("log")}})
	write("cluster/5-more.conf", plugin("log"))
	write("cluster/ignored.json", plugin("ignored"))
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.0.0", "name": "node", "type": "plexus", "dataDir": s.DataDir, "confDir": net,
		"clusterNetwork": filepath.Join(net, "10-cluster.conflist"), "auxiliaryCNIChainName": "extra",
	})
	p := site.NewPod(t, "chain")
	const sandbox = "0123456789ab"
	s.MustAdd(sandbox, p, "") // without the folder there is no chain
	s.MustDel(sandbox, p, "")
	if got, want := site.Recorded(t, log), []string{"ADD eth0", "ADD eth0", "DEL eth0", "DEL eth0"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	write("extra/b.conf", plugin("log"))
	write("extra/a.conf", plugin("log"))
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	s.MustAdd(sandbox, p, "")
	if err := s.Check(sandbox, p, ""); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	s.MustDel(sandbox, p, "")
	want := []string{"ADD eth0", "ADD eth0", "ADD net1", "ADD net1", "CHECK eth0", "CHECK eth0", "CHECK net1", "CHECK net1", "DEL net1", "DEL net1", "DEL eth0", "DEL eth0"}
	if got := site.Recorded(t, log); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "ignored")); err == nil {
		t.Error("a file that is no *.conf was run")
	}
	write("extra/c.conf", nil)
	if err := os.WriteFile(filepath.Join(net, "extra/c.conf"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	s.MustAdd(sandbox, p, "") // a file that is no plugin is left out
	s.MustDel(sandbox, p, "")
	want = []string{"ADD eth0", "ADD eth0", "ADD net1", "ADD net1", "DEL net1", "DEL net1", "DEL eth0", "DEL eth0"}
	if got := site.Recorded(t, log); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
}
