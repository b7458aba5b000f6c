// Package ovs is tests of pods at a real OVS-DPDK.
package ovs

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
