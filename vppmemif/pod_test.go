package vppmemif

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

var pods atomic.Int64

// newPod is the network namespace of a new sandbox.
func newPod(t testing.TB) string {
	t.Helper()
	p, err := node.NewPod(fmt.Sprintf("p%d", pods.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p.Path()
}
