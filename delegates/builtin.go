package delegates

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"

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

// linkedNames are the names under which the plexus executable is installed
// beside its own. They must not be executed: they would only come back here.
var linkedNames = []string{"sriov", "vppmemif", "ovsdpdk", "userspace"}

// isPlexus reports whether an executable found in CNI_PATH is a link of the
// plexus beside it.
func isPlexus(path string) bool {
	if !slices.Contains(linkedNames, filepath.Base(path)) {
		return false
	}
	found, err := os.Stat(path)
	if err != nil {
		return false
	}
	plexus, err := os.Stat(filepath.Join(filepath.Dir(path), "plexus"))
	return err == nil && os.SameFile(found, plexus)
}
