package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/rig/netns"
	"github.com/plexus-cni/plexus/rig/toy"
)

// links is the toy with a link for each port. eth0 has the default route.
type links struct {
	*toy.Backend
	netns string
}

// Attach is delegates.Delegate.
func (l links) Attach(ctx context.Context, all []*delegates.Attachment) error {
	if err := l.Backend.Attach(ctx, all); err != nil {
		return err
	}
	return podnet.With(l.netns, func(h *netlink.Handle) error {
		for _, a := range all {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.IfName}, PeerName: "peer-" + a.IfName}
			if err := errors.Join(h.LinkAdd(link), h.LinkSetUp(link)); err != nil {
				return err
			}
			for _, ip := range a.Result.IPs {
				if err := h.AddrAdd(link, &netlink.Addr{IPNet: &ip.Address}); err != nil {
					return err
				}
				if a.IfName == "eth0" {
					if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: ip.Gateway}); err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
}

// Detach is delegates.Delegate.
func (l links) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	for _, a := range all {
		if err := l.cut(a.IfName); err != nil {
			return slices.Repeat([]error{err}, len(all))
		}
	}
	return l.Backend.Detach(ctx, all)
}

// cut removes a link, if it is there.
func (l links) cut(name string) error {
	return podnet.With(l.netns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err == nil {
			err = h.LinkDel(link)
		}
		return err
	})
}

// defaultRoute is "GATEWAY INTERFACE" of each default route.
func defaultRoute(t *testing.T, path string) (text string) {
	t.Helper()
	err := podnet.With(path, func(h *netlink.Handle) error {
		routes, err := h.RouteList(nil, netlink.FAMILY_V4)
		for _, route := range routes {
			if route.Dst == nil || podnet.IsDefault(route.Dst) {
				link, err := h.LinkByIndex(route.LinkIndex)
				if err != nil {
					return err
				}
				text += fmt.Sprintf("%s %s;", route.Gw, link.Attrs().Name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// An attachment takes the default route, by ADD and while the pod runs, and the one that had
// it gets it back when that goes.
func TestDefaultRoute(t *testing.T) {
	if netns.AsRoot(t) {
		return
	}
	n := newNode(t)
	n.text = strings.Replace(n.text, `"type": "cluster"`, `"type": "toy", "ipam": {"type": "static", "addresses": [{"address": "10.7.0.7/24", "gateway": "10.7.0.1"}], "routes": [{"dst": "0.0.0.0/0"}]}`, 1)
	c, err := conf.Parse([]byte(n.text))
	if err != nil {
		t.Fatal(err)
	}
	n.conf = c
	const routed = `[{"name": "static", "default-route": ["10.8.0.1"]}]`
	r := n.request(routed)
	r.Netns = netns.New(t)
	pod := links{n.toys, r.Netns}
	n.Delegates["toy"] = pod
	want := func(route, when string) {
		t.Helper()
		if got := defaultRoute(t, r.Netns); got != route {
			t.Errorf("%s, the default route is %q, want %q", when, got, route)
		}
		if err := n.Check(t.Context(), r); err != nil {
			t.Errorf("%s, CHECK: %v", when, err)
		}
	}
	result, err := n.Add(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Routes) != 1 || result.Routes[0].GW.String() != "10.8.0.1" {
		t.Errorf("ADD answers routes %v", result.Routes)
	}
	want("10.8.0.1 net1;", "after ADD")
	n.mustUpdate("bare@net2", "detached net1 (default/static); attached net2 (default/bare)")
	want("10.7.0.1 eth0;", "without net1")
	n.mustUpdate(`[{"name": "bare", "interface": "net2"}, {"name": "static", "interface": "net1", "default-route": ["10.8.0.1"]}]`, "attached net1 (default/static)")
	want("10.8.0.1 net1;", "with net1 again")
	if text := n.api.published()[placeOf(n.api.pod)][conf.NetworkStatusAnnotation]; !strings.Contains(text, `"default-route":["10.8.0.1"]`) {
		t.Errorf("network-status: %s", text)
	}
	if err := pod.cut("net1"); err != nil {
		t.Fatal(err)
	}
	says(t, n.Check(t.Context(), r), "check net1 (network default/static)", "interface net1")
	found, err := n.Reconcile(t.Context(), r.Sandbox, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindDifferent {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	if err := n.Del(t.Context(), r); err != nil {
		t.Error(err)
	}
	n.wantNothingLeft("after DEL")
	n.Delegates["toy"] = n.toys // without links
	n.api.ask(routed)
	_, err = n.Add(t.Context(), r)
	says(t, err, "default-route of net1 (network default/static)")
	n.wantNothingLeft("after ADD")
}
