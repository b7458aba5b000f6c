// Package stopped is tests of a node agent that is stopped, as a process that is frozen is.
package stopped

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
