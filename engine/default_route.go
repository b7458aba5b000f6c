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

// routeDefault gives the default routes to the attachment that the pod asked
// it for (NPWG specification 1.3, section 4.1.2.1.9): for each family of the
// gateways, every other default route goes and the ones asked for come. The
// results say so, and each attachment that loses one keeps it in mind. note is
// called before the kernel is; may be nil.
func (e *Engine) routeDefault(ctx context.Context, netns string, entries []*journal.Entry, results []*types100.Result, note func() error) error {
	at := slices.IndexFunc(entries, func(entry *journal.Entry) bool { return len(entry.DefaultRoute) > 0 })
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
				entries[i].Displaced = append(entries[i].Displaced, displaced)
			}
		}
		result.Routes = kept
	}
	for _, gw := range entry.DefaultRoute {
		results[at].Routes = append(results[at].Routes, &types.Route{Dst: *podnet.DefaultDst(gw), GW: gw.Unmap().AsSlice()})
	}
	if note != nil {
		if err := note(); err != nil {
			return err
		}
	}
	if err := delegates.Step(ctx, "%s: take the default route", entry.IfName); err != nil {
		return err
	}
	if err := podnet.MoveDefault(netns, entry.IfName, entry.DefaultRoute); err != nil {
		return fmt.Errorf("default-route of %s (network %s): %w", entry.IfName, entry.Name, err)
	}
	return nil
}

// takes reports whether the attachment was asked for the default route of a family.
func takes(entry *journal.Entry, ipv4 bool) bool {
	return slices.ContainsFunc(entry.DefaultRoute, func(gw netip.Addr) bool { return gw.Unmap().Is4() == ipv4 })
}

// gatewayOf is what a route without a gateway of its own goes through.
func gatewayOf(r *types100.Result, ipv4 bool) net.IP {
	for _, ip := range r.IPs {
		if (ip.Address.IP.To4() != nil) == ipv4 && ip.Gateway != nil {
			return ip.Gateway
		}
	}
	return nil
}

// restoreDefault gives the default routes back to those that lost them, when the
// attachment that took them is gone. netns may be "", a namespace that is gone.
func (e *Engine) restoreDefault(ctx context.Context, netns string, entries []*journal.Entry) error {
	if slices.ContainsFunc(entries, func(entry *journal.Entry) bool { return len(entry.DefaultRoute) > 0 }) {
		return nil
	}
	var errs []error
	for _, entry := range entries {
		if len(entry.Displaced) > 0 {
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
	for _, route := range entry.Displaced {
		if !slices.ContainsFunc(result.Routes, func(r *types.Route) bool { return podnet.IsDefault(&r.Dst) && r.Dst.String() == route.Dst.String() }) {
			result.Routes = append(result.Routes, route)
		}
	}
	if netns != "" {
		if err := podnet.ReplaceRoutes(netns, entry.IfName, entry.Displaced); err != nil {
			return err
		}
	}
	if err := entry.SetResult(result); err != nil {
		return err
	}
	entry.Displaced = nil
	return nil
}
