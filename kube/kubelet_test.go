package kube_test

import (
	"testing"

	"github.com/plexus-cni/plexus/kube"
)

// The configured folder counts, without its links; without one it is the default where no
// kubelet of another place is found.
func TestKubeletDir(t *testing.T) {
	dir := t.TempDir()
	for configured, want := range map[string]string{dir: dir, "/no/such/folder": "/no/such/folder", "/proc/self/../../no": "/proc/self/../../no"} {
		if got := kube.KubeletDir(configured); got != want {
			t.Errorf("%q: %s, want %s", configured, got, want)
		}
	}
}
