// Package plugins is tests of the reference plugins, each alone and in chains.
package plugins

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
