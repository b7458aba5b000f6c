package kube_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/rig/kube"
)

// A cluster whose test is killed is gone with it, but for files and control groups,
// which the next one removes.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(victim); dir != "" {
		c, err := kube.Start(t.Context(), options())
		if err != nil {
			t.Fatal(err)
		}
		run(t, c, "a", "")
		if err := os.WriteFile(filepath.Join(dir, "ready"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	before := traces(t)
	dir := t.TempDir()
	timed(t, "a test that is killed", func() error {
		out, err := again(t, dir)
		if _, errReady := os.Stat(filepath.Join(dir, "ready")); errReady != nil {
			return fmt.Errorf("it did not come to that: %w: %s", err, out)
		}
		return nil
	})
	c, err := kube.Start(t.Context(), kube.Options{ControlPlane: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	compare(t, before)
}

const victim = "PLEXUS_KUBE_VICTIM"

// again runs TestKilled in a process of its own, which kills itself.
func again(t *testing.T, dir string) (string, error) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), victim+"="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
