package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A plugin that plexus executes cannot execute plexus with a configuration of its own,
// by whatever name; a built-in delegate it can.
func TestWithinPlexus(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "plexus")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for as, refused := range map[string]bool{"plexus": true, "plexus-canary": true, "multus": true, "multus-shim": true, "ovsdpdk": false} {
		for _, within := range []string{"", "1"} {
			cmd := exec.Command(bin)
			cmd.Args[0] = "/opt/cni/bin/" + as
			cmd.Env = []string{"CNI_COMMAND=STATUS", "CNI_PATH=/nonexistent", withinEnv + "=" + within}
			cmd.Stdin = strings.NewReader(`{"cniVersion": "1.1.0", "name": "n", "type": "multus", "binDir": "/tenant"}`)
			out, err := cmd.CombinedOutput()
			got := strings.Contains(string(out), "cannot be a delegate of itself") && strings.Contains(string(out), `"code": 7`)
			if got != (refused && within != "") || err == nil {
				t.Errorf("as %s, within %q: %v, %s", as, within, err, out)
			}
		}
	}
}
