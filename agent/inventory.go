package agent

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/devices"
	"github.com/plexus-cni/plexus/plugin"
)

// newInventory is the inventory of the node's devices.
func newInventory(table plugin.Table, s Settings) *devices.Inventory {
	return &devices.Inventory{
		Resources: s.Devices, Places: devices.DefaultPlaces(), InUse: hasDefaultRoute, Log: s.Log,
		Switch: func(kind string, config json.RawMessage) (devices.Switch, error) {
			delegate := table[kind]
			if delegate == nil {
				return nil, fmt.Errorf("%s is not built in", kind)
			}
			network, _, err := delegate.Parse("devices", config)
			return offeredSwitch{delegate, network}, err
		},
	}
}

// offeredSwitch is a vswitch whose sockets are offered.
type offeredSwitch struct {
	delegate delegates.Delegate
	delegates.Network
}

// Watch is devices.Switch.
func (s offeredSwitch) Watch(ctx context.Context, report func(error)) error {
	return s.delegate.Watch(ctx, s.Endpoint(), report)
}

// hasDefaultRoute reports whether an interface of the node has a default route.
func hasDefaultRoute(ifName string) bool {
	link, err := netlink.LinkByName(ifName)
	if err != nil {
		return false
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return true // it is not known: the node keeps it
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return true
		}
	}
	return false
}
