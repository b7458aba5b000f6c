package engine

import (
	"context"
	"log/slog"

	types100 "github.com/containernetworking/cni/pkg/types/100"

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
	ovs, vpp := ovsdpdk.New(log), vppmemif.New(log)
	return plugin.Table{
		"ovsdpdk":  ovs,
		"passthru": passthru{},
		"sriov":    sriov.New(log),
		"vppmemif": vpp,

		plugin.Userspace(userspace.EngineOVS): userspace.New(userspace.EngineOVS, ovs),
		plugin.Userspace(userspace.EngineVPP): userspace.New(userspace.EngineVPP, vpp),
	}
}

// passthru is the backend that does nothing. It stands first in a list whose other plugins
// need a prevResult, as Multus' plugin of that name does.
type passthru struct{ delegates.Base }

// Parse is delegates.Delegate.
func (passthru) Parse(string, []byte) (delegates.Network, []string, error) {
	return delegates.BaseNetwork{}, nil, nil
}

// Attach is delegates.Delegate.
func (passthru) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	}
	return nil
}

// Detach is delegates.Delegate.
func (passthru) Detach(_ context.Context, all []*delegates.Attachment) []error {
	return make([]error, len(all))
}
