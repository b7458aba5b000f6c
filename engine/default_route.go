package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
)

// giveDefault changes results for the attachment that the pod asked to have the default
// routes (NPWG specification 1.3, section 4.1.2.1.9), and returns it; nil when there is none.
// For each family of its gateways, all default routes are replaced by routes to the gateways.
// Each attachment that loses a default route records it.
func giveDefault(entries []*journal.Entry, results []*types100.Result) *journal.Entry {
	at := slices.IndexFunc(entries, asksDefault)
	if at < 0 {
		return nil
	}
	entry := entries[at]
	for i, result := range results {
		var kept []*types.Route
		for _, route := range result.Routes {
			switch {
			case !podnet.IsDefault(&route.Dst) || !takes(entry, route.Dst.IP.To4() != nil):
				kept = append(kept, route)
			case i != at:
				displaced := route.Copy()
				if displaced.GW == nil {
					displaced.GW = gatewayOf(result, route.Dst.IP.To4() != nil)
				}
				entries[i].DisplacedRoutes = append(entries[i].DisplacedRoutes, displaced)
			}
		}
		result.Routes = kept
	}
	for _, gw := range entry.DefaultRoute {
		results[at].Routes = append(results[at].Routes, &types.Route{Dst: *podnet.DefaultDst(gw), GW: gw.Unmap().AsSlice()})
	}
	return entry
}

func asksDefault(entry *journal.Entry) bool { return len(entry.DefaultRoute) > 0 }

// moveDefault gives the pod's default routes to an attachment.
func moveDefault(ctx context.Context, netns string, entry *journal.Entry) error {
	if err := delegates.Step(ctx, "%s: take the default route", entry.IfName); err != nil {
		return err
	}
	if err := podnet.MoveDefault(netns, entry.IfName, entry.DefaultRoute); err != nil {
		return fmt.Errorf("default-route of %s (network %s): %w", entry.IfName, entry.Name, err)
	}
	return nil
}

// takes reports whether the pod gave the attachment the default route of a family.
func takes(entry *journal.Entry, ipv4 bool) bool {
	return slices.ContainsFunc(entry.DefaultRoute, func(gw netip.Addr) bool { return gw.Unmap().Is4() == ipv4 })
}

// gatewayOf is the first gateway of a family among the addresses of a result: routes that
// name no gateway use it.
func gatewayOf(r *types100.Result, ipv4 bool) net.IP {
	for _, ip := range r.IPs {
		if (ip.Address.IP.To4() != nil) == ipv4 && ip.Gateway != nil {
			return ip.Gateway
		}
	}
	return nil
}

// restoreDefault gives attachments the default routes back that they lost, when the
// attachment that replaced them is detached. netns is "" when the namespace is gone.
func restoreDefault(ctx context.Context, netns string, entries []*journal.Entry) error {
	if slices.ContainsFunc(entries, asksDefault) {
		return nil
	}
	var errs []error
	for _, entry := range entries {
		if len(entry.DisplacedRoutes) > 0 {
			if err := restoreRoutes(ctx, netns, entry); err != nil {
				errs = append(errs, fmt.Errorf("%s (network %s): give the default route back: %w", entry.IfName, entry.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func restoreRoutes(ctx context.Context, netns string, entry *journal.Entry) error {
	result, err := entry.ParseResult()
	if err != nil {
		return err
	}
	if err := delegates.Step(ctx, "%s: give the default route back", entry.IfName); err != nil {
		return err
	}
	for _, route := range entry.DisplacedRoutes {
		if !slices.ContainsFunc(result.Routes, func(r *types.Route) bool { return podnet.IsDefault(&r.Dst) && r.Dst.String() == route.Dst.String() }) {
			result.Routes = append(result.Routes, route)
		}
	}
	if netns != "" {
		if err := podnet.ReplaceRoutes(netns, entry.IfName, entry.DisplacedRoutes); err != nil {
			return err
		}
	}
	if err := entry.SetResult(result); err != nil {
		return err
	}
	entry.DisplacedRoutes = nil
	return nil
}
