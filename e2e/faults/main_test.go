// Package faults is tests in which each step of ADD and DEL, and each call of the kernel, fails or is the last.
package faults

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

func TestMain(m *testing.M) { os.Exit(site.Main(m)) }
