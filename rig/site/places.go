package site

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// DefaultPlaces makes the node one whose OVS is where Open vSwitch puts it by
// default, and whose /usr/local, where userspace-cni has its sockets, takes
// files that are gone after the test.
func DefaultPlaces(t testing.TB, v *ovs.Switch) {
	t.Helper()
	must.Do(t, os.Mkdir("/run/openvswitch", 0o755))
	t.Cleanup(func() { must.Do(t, os.RemoveAll("/run/openvswitch")) })
	must.Do(t, os.Symlink(filepath.Join(v.Dir(), "db.sock"), "/run/openvswitch/db.sock"))

	const place = "/usr/local"
	aside := t.TempDir()
	must.Do(t, unix.Mount(place, aside, "", unix.MS_BIND, ""))
	must.Do(t, unix.Mount("tmpfs", place, "tmpfs", 0, ""))
	t.Cleanup(func() {
		must.Do(t, unix.Unmount(place, unix.MNT_DETACH))
		must.Do(t, unix.Unmount(aside, unix.MNT_DETACH))
	})
	entries, err := os.ReadDir(aside)
	must.Do(t, err)
	for _, e := range entries {
		if e.Name() != "var" {
			must.Do(t, os.Symlink(filepath.Join(aside, e.Name()), filepath.Join(place, e.Name())))
		}
	}
}
