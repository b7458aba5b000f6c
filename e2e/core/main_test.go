// Package core is tests of whole executables: every verb, the reference plugins, formats of configurations, faults
// of the surroundings.
package core

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
