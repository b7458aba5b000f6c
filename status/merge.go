package status

import (
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// Merge makes one CNI result of all: the cluster network's interfaces, ips,
// routes and dns first; then each attachment's interfaces and ips. Routes of
// the others stay out, as the runtime would report them as the pod's, unless
// the attachment has the pod's default route.
func Merge(entries []*journal.Entry, results []*types100.Result, netns string) *types100.Result {
	merged := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for i, r := range results {
		entry, interfaces, ips := entries[i], len(merged.Interfaces), len(merged.IPs)
		plugin.Append(merged, r)
		if entry.Default {
			merged.Routes = append(merged.Routes, r.Routes...)
			merged.DNS = r.DNS
			continue
		}
		own(merged, interfaces, ips, entry.IfName, netns)
		for _, route := range r.Routes {
			if len(entry.DefaultRoute) > 0 && podnet.IsDefault(&route.Dst) {
				merged.Routes = append(merged.Routes, route)
			}
		}
	}
	return merged
}

// own gives every address of an extra network an interface of that network: the runtime takes
// an address without an interface for the pod's own. The network's interfaces and addresses
// begin at the numbers interfaces and ips.
func own(merged *types100.Result, interfaces, ips int, ifName, netns string) {
	mine := -1
	for i, one := range merged.Interfaces[interfaces:] {
		if one.Sandbox != "" && (mine < 0 || one.Name == ifName) {
			mine = interfaces + i
		}
	}
	end := len(merged.Interfaces)
	for _, ip := range merged.IPs[ips:] {
		if ip.Interface != nil && *ip.Interface >= interfaces && *ip.Interface < end {
			continue
		}
		if mine < 0 {
			mine = len(merged.Interfaces)
			merged.Interfaces = append(merged.Interfaces, &types100.Interface{Name: ifName, Sandbox: netns})
		}
		ip.Interface = types100.Int(mine)
	}
}
