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
	if api := os.Getenv(node.VPPVariable); api != "" {
		version, err := vpp.Version(api)
		must.Do(t, err)
		t.Logf("against VPP %s at %s", version, api)
		return api, stateOf(t, func() (string, error) { return vpp.State(api) })
	}
	return VPPAt(t, filepath.Join(node.Dir(), "vpp", standin.SocketName))
}

// VPPAt is VPP with the API socket at a path in the node. It is never that of PLEXUS_VPP_API.
func VPPAt(t testing.TB, socket string) (api string, state func() string) {
	t.Helper()
	if program := vpp.Find(); program != "" {
		p, err := vpp.Start(must.Deadline(t), program, filepath.Join(node.Dir(), "vpp"), socket)
		must.Do(t, err)
		t.Cleanup(p.Kill)
		version, err := vpp.Version(p.Socket())
		must.Do(t, err)
		t.Logf("against VPP %s, %s", version, program)
		return p.Socket(), stateOf(t, p.State)
	}
	s, err := standin.StartAt(context.Background(), socket, standin.Options{})
	must.Do(t, err)
	t.Cleanup(s.Close)
	t.Logf("against the stand-in")
	return s.Socket(), s.State
}

func stateOf(t testing.TB, state func() (string, error)) func() string {
	return func() string {
		text, err := state()
		if err != nil {
			t.Error(err)
		}
		return text
	}
}
