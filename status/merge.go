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
		entry := entries[i]
		if entry.Default {
			plugin.Append(merged, r)
			merged.Routes = append(merged.Routes, r.Routes...)
			merged.DNS = r.DNS
			continue
		}
		plugin.Append(merged, owned(r, entry.IfName, netns))
		for _, route := range r.Routes {
			if len(entry.DefaultRoute) > 0 && podnet.IsDefault(&route.Dst) {
				merged.Routes = append(merged.Routes, route)
			}
		}
	}
	return merged
}

// owned gives every address of an extra network an interface: the runtime takes an address
// without an interface for the pod's own.
func owned(r *types100.Result, ifName, netns string) *types100.Result {
	r = copyResult(r)
	var mine *int
	for i, iface := range r.Interfaces {
		if iface.Sandbox != "" && (mine == nil || iface.Name == ifName) {
			mine = types100.Int(i)
		}
	}
	for _, ip := range r.IPs {
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(r.Interfaces) {
			continue
		}
		if mine == nil {
			r.Interfaces = append(r.Interfaces, &types100.Interface{Name: ifName, Sandbox: netns})
			mine = types100.Int(len(r.Interfaces) - 1)
		}
		ip.Interface = types100.Int(*mine)
	}
	return r
}

func copyResult(r *types100.Result) *types100.Result {
	c := &types100.Result{CNIVersion: r.CNIVersion, DNS: *r.DNS.Copy()}
	for _, i := range r.Interfaces {
		c.Interfaces = append(c.Interfaces, i.Copy())
	}
	for _, ip := range r.IPs {
		c.IPs = append(c.IPs, ip.Copy())
	}
	for _, route := range r.Routes {
		c.Routes = append(c.Routes, route.Copy())
	}
	return c
}
