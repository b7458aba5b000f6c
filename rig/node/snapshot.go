package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Snapshot is a text of the network state of the node: its links, addresses,
// main routes and sandboxes, one sorted line for each. Two snapshots of the
// same state are equal, so that a test sees by comparison whether something was
// left behind. What the kernel adds by itself and late (link-local and
// multicast IPv6), numbers (ifindex) and random values (MAC) are left out.
func Snapshot(ctx context.Context) (string, error) {
	text, err := network(ctx)
	if err != nil {
		return "", fmt.Errorf("snapshot: %w", err)
	}
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("snapshot: list sandboxes: %w", err)
	}
	for _, e := range entries {
		text += "netns " + e.Name() + "\n"
	}
	return text, nil
}

// network describes the network namespace of the calling thread.
func network(ctx context.Context) (string, error) {
	links, err := dump(ctx, netlink.LinkList)
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var text []string
	for _, l := range links {
		text = append(text, linkLine(l, names))
	}
	addrs, err := dump(ctx, func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if !fleeting(a.IPNet) {
			text = append(text, fmt.Sprintf("addr %s %s", names[a.LinkIndex], a.IPNet))
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump(ctx, func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family,
				&netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return "", fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if !fleeting(r.Dst) {
				text = append(text, routeLine(r, names))
			}
		}
	}
	sort.Strings(text)
	return strings.Join(text, "\n") + "\n", nil
}

// dump asks again while the kernel reports that the answer changed on the way.
func dump[T any](ctx context.Context, list func() ([]T, error)) ([]T, error) {
	for {
		got, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
		if ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// fleeting tells of the networks that come and go with the state of a link.
func fleeting(n *net.IPNet) bool {
	return n != nil && n.IP.To4() == nil && (n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast())
}

func linkLine(l netlink.Link, names map[int]string) string {
	a := l.Attrs()
	kind := l.Type()
	if t, ok := l.(*netlink.Tuntap); ok {
		kind = t.Mode.String()
	}
	state := "down"
	if a.Flags&net.FlagUp != 0 {
		state = "up"
	}
	line := fmt.Sprintf("link %s kind=%s mtu=%d %s", a.Name, kind, a.MTU, state)
	if a.MasterIndex != 0 {
		line += " master=" + names[a.MasterIndex]
	}
	if a.Alias != "" {
		line += fmt.Sprintf(" alias=%q", a.Alias)
	}
	return line
}

func routeLine(r netlink.Route, names map[int]string) string {
	dst := "default"
	if r.Dst != nil {
		ones, _ := r.Dst.Mask.Size()
		if ones != 0 || !r.Dst.IP.IsUnspecified() {
			dst = r.Dst.String()
		}
	}
	family := "4"
	if r.Family == unix.AF_INET6 {
		family = "6"
	}
	line := fmt.Sprintf("route%s %s", family, dst)
	if r.Gw != nil {
		line += " via " + r.Gw.String()
	}
	if r.LinkIndex != 0 {
		line += " dev " + names[r.LinkIndex]
	}
	for _, hop := range r.MultiPath {
		line += fmt.Sprintf(" nexthop via %s dev %s weight %d", hop.Gw, names[hop.LinkIndex], hop.Hops+1)
	}
	line += fmt.Sprintf(" proto %s scope %s", r.Protocol, r.Scope)
	if r.Src != nil {
		line += " src " + r.Src.String()
	}
	if r.Priority != 0 {
		line += fmt.Sprintf(" metric %d", r.Priority)
	}
	if r.MTU != 0 {
		line += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return line
}
