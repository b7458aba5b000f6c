package engine

import (
	"context"
	"log/slog"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
	"github.com/plexus-cni/plexus/ovsdpdk"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/sriov"
	"github.com/plexus-cni/plexus/vppmemif"
)

// Builtin is the table of backends that run in-process, by the plugin type that a
// network configuration names.
func Builtin(log *slog.Logger) plugin.Table {
	return plugin.Table{
		"ovsdpdk":  ovsdpdk.New(log),
		"passthru": passthru{},
		"sriov":    sriov.New(log),
		"vppmemif": vppmemif.New(log),

		plugin.Userspace(userspace.EngineOVS): dialect{ovsdpdk.NewUserspace(log)},
		plugin.Userspace(userspace.EngineVPP): dialect{vppmemif.NewUserspace(log)},
	}
}

// dialect is a backend that reads another plugin's configurations. It sweeps nothing: the
// backend under its own name sweeps the marks of both.
type dialect struct{ delegates.Delegate }

// Sweep is delegates.Delegate.
func (dialect) Sweep(context.Context, string, []string, conf.Bounds, func(sandbox, ifName string) bool) []error {
	return nil
}
