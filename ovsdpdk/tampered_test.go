package ovsdpdk

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/shareddir"
)

// A state that was tampered with leads to no file that is not plexus's.
func TestTamperedState(t *testing.T) {
	for name, keys := range map[string]map[string]any{
		"a folder of the host":       {"dir": "HOST", "own": true},
		"a folder made for a volume": {"dir": "HOST/empty", "made": true, "file": "../x"},
		"another sandbox's folder":   {"dir": "DIR/ffffffffffff", "own": true},
		"a relative folder":          {"dir": "run", "own": true},
		"the root":                   {"dir": "HOST/..", "own": true},
		"a file as configuration":    {"dir": "HOST", "config": "passwd"},
		"a file as short link":       {"dir": "HOST/none", "link": "HOST/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			host := tempDir(t) + "/host"
			write(t, host+"/passwd", "root")
			if err := os.Mkdir(host+"/empty", 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, r.dir+"/ffffffffffff/sock", "of another sandbox")
			before, err := node.Tree(host, r.dir)
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]any{"port": "vhu1", "ovsdb": r.address, "bridge": testBridge, "mode": "client", "file": "sock", "gid": -1}
			for k, v := range keys {
				if text, ok := v.(string); ok {
					v = strings.NewReplacer("HOST", host, "DIR", r.dir).Replace(text)
				}
				all[k] = v
			}
			r.vsctl("add-br", testBridge, "--", "add-port", testBridge, "vhu1", "--", "set", "Interface", "vhu1",
				"external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox="+sandbox, "external_ids:plexus-ifname=net1",
				fmt.Sprintf("external_ids:plexus-state=%s", toJSON(t, string(toJSON(t, all)))))
			wantError(t, r.sweep(newDelegate(t), []string{r.address}, keepNone), "vhu1")
			after, err := node.Tree(host, r.dir)
			if err != nil {
				t.Fatal(err)
			}
			sameWorld(t, before, after)
		})
	}
}

// Nothing that a pod leaves in its folder keeps it from being deleted.
func TestPodCannotBlockDel(t *testing.T) {
	for _, volume := range []bool{false, true} {
		c := ways[3].begin(t)
		dir := c.dir + "/" + shareddir.OwnName(sandbox)
		if volume {
			c.a, dir = shared(c.a, c.dir+"/volume"), c.dir+"/volume"
		}
		mustAttach(t, c.d, c.a)
		name := dir + "/" + shareddir.ConfigFile(c.a.Sandbox, c.a.IfName)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		write(t, name+"/not/empty", "")
		mustDetach(t, c.d, c.a)
		if exists(name) != volume {
			t.Errorf("volume %v: what stands at the configuration's name exists: %v", volume, exists(name))
		}
		_ = os.Remove(strings.TrimPrefix(c.address, "unix:"))
	}
}

// A row names both the sandbox and the folder that is its own: that the two go
// together does not make a folder of the host the sandbox's.
func TestTamperedSandboxAndFolder(t *testing.T) {
	r := newRig(t)
	host := tempDir(t) + "/host"
	write(t, host+"/etc/passwd", "root")
	state := map[string]any{"port": "vhu1", "ovsdb": r.address, "bridge": testBridge, "mode": "client", "file": "sock", "gid": -1, "dir": host + "/etc", "own": true}
	r.vsctl("add-br", testBridge, "--", "add-port", testBridge, "vhu1", "--", "set", "Interface", "vhu1",
		"external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox=etc", "external_ids:plexus-ifname=net1",
		fmt.Sprintf("external_ids:plexus-state=%s", toJSON(t, string(toJSON(t, state)))))
	wantError(t, r.sweep(newDelegate(t), []string{r.address}, keepNone), "vhu1")
	if _, err := os.Stat(host + "/etc/passwd"); err != nil {
		t.Errorf("a folder of the host was removed: %v", err)
	}
}
