// Package agent is tests of the node agent: killed, stopped and updated in the middle of requests.
package agent

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
