// Package peers compares plexus with recordings of its peers: each case of testdata has a
// node configuration, networks and a pod, and what the real Multus did with them. What
// plexus does otherwise stands in testdata/differences.json, with the section of
// docs/differences.md that says why.
package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

func TestMain(m *testing.M) {
	if dir := probeDir(); dir != "" {
		os.Exit(probe(dir, filepath.Base(os.Args[0])))
	}
	node.Enter()
	// What the kubelet and plugins keep below /var/lib stays in this node's memory.
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mount /var/lib:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
