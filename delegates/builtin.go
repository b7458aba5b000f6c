package delegates

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/ovsdpdk"
	"github.com/plexus-cni/plexus/sriov"
	"github.com/plexus-cni/plexus/vppmemif"
)

// Builtin is the table of delegates that run in-process, by the plugin type
// that a network configuration names.
func Builtin(log *slog.Logger) map[string]Delegate {
	return map[string]Delegate{
		"ovsdpdk":   ovsdpdk.New(log),
		"passthru":  passthru{},
		"sriov":     sriov.New(log),
		"userspace": byEngine{conf.EngineOVS: ovsdpdk.NewUserspace(log), conf.EngineVPP: vppmemif.NewUserspace(log)},
		"vppmemif":  vppmemif.New(log),
	}
}

// ownNames are those of plexus' executables.
var ownNames = []string{"plexus", "plexusd", "plexusctl"}

// isPlexus reports whether an executable is one of plexus', by whatever name: the
// same file as one of them in its own folder, in the one that it is linked to, or
// in that of the running executable.
func isPlexus(path string) bool {
	found, err := os.Stat(path)
	if err != nil {
		return false
	}
	dirs := []string{filepath.Dir(path)}
	if at, err := os.Lstat(path); err == nil && at.Mode()&os.ModeSymlink != 0 {
		if to, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(to))
		}
	}
	if running, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(running))
	}
	for _, dir := range dirs {
		for _, name := range ownNames {
			if own, err := os.Stat(filepath.Join(dir, name)); err == nil && os.SameFile(found, own) {
				return true
			}
		}
	}
	return false
}
