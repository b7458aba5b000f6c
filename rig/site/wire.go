package site

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
)

// WireName is the interface that WireCommands make.
const WireName = "memif50/0"

// WireCommands are commands of VPP's CLI that make an interface which stands for a NIC. Its wire
// is a memif: see Wire.
func WireCommands(dir string) []string {
	return []string{
		fmt.Sprintf("create memif socket id 50 filename %s", wireSocket(dir)),
		"create interface memif id 0 socket-id 50 master",
		"set interface state " + WireName + " up",
	}
}

// Wire is a peer at the wire. It connects when there is one, again after a restart of VPP.
func Wire(t testing.TB, dir string) *memif.Peer {
	t.Helper()
	p, err := memif.Dial(must.Deadline(t), wireSocket(dir), 0, memif.Options{})
	must.Do(t, err)
	t.Cleanup(p.Close)
	return p
}

func wireSocket(dir string) string { return filepath.Join(dir, "wire.sock") }
