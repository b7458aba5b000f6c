// Package migrate is tests of a node that comes from Multus, and goes back.
package migrate

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
