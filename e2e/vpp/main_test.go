// Package vpp is tests of memif, on a VPP or on the stand-in.
package vpp

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
