// Package hostile is tests with a tenant's values, a tenant's links and servers that lie.
package hostile

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
