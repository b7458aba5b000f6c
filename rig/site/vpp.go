package site

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/rig/vpp"
)

// VPP is the API socket that the tests of memif run against, and what is
// there: that of the VPP which PLEXUS_VPP_API names and which has to see the
// node's folders, else of the machine's VPP, started here, else of a stand-in.
func VPP(t testing.TB) (api string, state func() string) {
	t.Helper()
	dir := filepath.Join(node.Dir(), "vpp")
	text := func(state func() (string, error)) func() string {
		return func() string {
			text, err := state()
			if err != nil {
				t.Error(err)
			}
			return text
		}
	}
	if api := os.Getenv("PLEXUS_VPP_API"); api != "" {
		version, err := vpp.Version(api)
		must.Do(t, err)
		t.Logf("against VPP %s at %s", version, api)
		return api, text(func() (string, error) { return vpp.State(api) })
	}
	if program := vpp.Find(); program != "" {
		p, err := vpp.Start(must.Deadline(t), program, dir, filepath.Join(dir, standin.SocketName))
		must.Do(t, err)
		t.Cleanup(p.Kill)
		version, err := vpp.Version(p.Socket())
		must.Do(t, err)
		t.Logf("against VPP %s, %s", version, program)
		return p.Socket(), text(p.State)
	}
	s, err := standin.Start(context.Background(), dir, standin.Options{})
	must.Do(t, err)
	t.Cleanup(s.Close)
	t.Logf("PLEXUS_VPP_API names no VPP and none is installed: against the stand-in")
	return s.Socket(), s.State
}
