// Package hung is tests with vswitches that hang.
package hung

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
