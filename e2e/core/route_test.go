package core

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// dualBridge is a bridge network of both families.
func dualBridge(s *site.Site, name, bridge string, number int, keys map[string]any) map[string]any {
	all := map[string]any{
		"cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": bridge, "isGateway": true,
		"ipam": map[string]any{"type": "host-local", "dataDir": filepath.Join(s.Dir, "ipam"), "ranges": []any{
			[]any{map[string]any{"subnet": fmt.Sprintf("10.%d.0.0/16", number), "rangeStart": fmt.Sprintf("10.%d.0.50", number)}},
			[]any{map[string]any{"subnet": fmt.Sprintf("fd00:%d::/64", number), "rangeStart": fmt.Sprintf("fd00:%d::50", number)}},
		}},
	}
	for k, v := range keys {
		all[k] = v
	}
	return all
}

// routeSite has a cluster network with default routes of both families, and two
// more networks without.
func routeSite(t *testing.T) *site.Site {
	s := site.New(t, nil)
	s = s.With(map[string]any{"delegates": []any{dualBridge(s, "cluster", "cni0", 244, map[string]any{"isDefaultGateway": true})}})
	s.NAD("extra", dualBridge(s, "extra", "cni-r", 247, nil))
	s.NAD("other", dualBridge(s, "other", "cni-o", 248, map[string]any{"isDefaultGateway": true}))
	return s
}

// defaults are the pod's default routes, "FAMILY via GATEWAY dev NAME", sorted.
func defaults(t testing.TB, p *node.Pod) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(site.Links(t, p)) {
		family, rest, ok := strings.Cut(strings.TrimSpace(line), " default ")
		if !ok {
			continue
		}
		route, _, _ := strings.Cut(rest, " proto ")
		for hop := range strings.SplitSeq(route, "nexthop ") {
			hop, _, _ = strings.Cut(strings.TrimSpace(hop), " weight ")
			if hop != "" {
				all = append(all, strings.TrimPrefix(family, "route")+" "+hop)
			}
		}
	}
	slices.Sort(all)
	return all
}

// default-route takes the default routes of the families it names away from
// every other network, and the result says so.
func TestDefaultRouteOfFamilies(t *testing.T) {
	s := routeSite(t)
	const cluster4, cluster6 = "4 via 10.244.0.1 dev eth0", "6 via fd00:244::1 dev eth0"
	for n, test := range []struct {
		name, gateways string
		want           []string
		spoil          string // a command in the pod that CHECK notices
		gone           string // the gateway that it then names
	}{
		{"IPv4", `"10.247.0.1"`, []string{"4 via 10.247.0.1 dev net1", cluster6}, "ip route del default", "10.247.0.1"},
		{"IPv6", `"fd00:247::1"`, []string{cluster4, "6 via fd00:247::1 dev net1"}, "ip -6 route del default", "fd00:247::1"},
		{"both", `"10.247.0.1", "fd00:247::1"`, []string{"4 via 10.247.0.1 dev net1", "6 via fd00:247::1 dev net1"}, "ip -6 route replace default via fd00:244::1 dev eth0", "fd00:247::1"},
		{"several of both", `"fd00:247::1", "10.247.0.1", "fd00:247::2", "10.247.0.2"`, []string{
			"4 via 10.247.0.1 dev net1", "4 via 10.247.0.2 dev net1", "6 via fd00:247::1 dev net1", "6 via fd00:247::2 dev net1",
		}, "", ""}, // CHECK: TestCheckOfSeveralGateways
	} {
		t.Run(test.name, func(t *testing.T) {
			s, id, p := s.On(t), site.SandboxID(640+n), site.NewPod(t, fmt.Sprintf("route%d", n))
			s.Pod("routed", `[{"name": "extra", "default-route": [`+test.gateways+`]}]`)
			fresh := site.Links(t, p)
			r := s.MustAdd(id, p, "routed")
			if got := defaults(t, p); !slices.Equal(got, test.want) {
				t.Errorf("default routes %q, want %q", got, test.want)
			}
			var told []string
			for _, route := range r.Routes {
				family, dev := "6", "net1"
				if route.Dst.IP.To4() != nil {
					family = "4"
				}
				if strings.Contains(route.GW.String(), "244") {
					dev = "eth0"
				}
				told = append(told, fmt.Sprintf("%s via %s dev %s", family, route.GW, dev))
			}
			slices.Sort(told)
			if !slices.Equal(told, test.want) {
				t.Errorf("routes of the result %q, want %q", told, test.want)
			}
			if test.spoil != "" {
				s.MustCheck(id, p, "routed")
				site.InPod(t, p, test.spoil)
				site.Says(t, s.Check(id, p, "routed"), "net1", "default/extra", "default route via "+test.gone+" is gone")
			}
			s.MustDel(id, p, "routed")
			site.SameWorld(t, fresh, site.Links(t, p))
		})
	}
}

// A default route that another network brings gives way too; the pod's default
// network may be the one that is asked for it.
func TestDefaultRouteAmongOthers(t *testing.T) {
	s := routeSite(t)
	s.Pod("among", `[{"name": "other"}, {"name": "extra", "default-route": ["10.247.0.1", "fd00:247::1"]}]`)
	p := site.NewPod(t, "among")
	s.MustAdd(site.SandboxID(650), p, "among")
	if got, want := defaults(t, p), []string{"4 via 10.247.0.1 dev net2", "6 via fd00:247::1 dev net2"}; !slices.Equal(got, want) {
		t.Errorf("default routes %q, want %q", got, want)
	}
	s.MustCheck(site.SandboxID(650), p, "among")
	s.MustDel(site.SandboxID(650), p, "among")

	s.Manifest("main.yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: main, namespace: kube-system}\nspec:\n  config: %q\n",
		must.JSON(t, dualBridge(s, "main", "cni-rm", 246, nil))))
	devicePod(s, "main", "other", `[{"name": "main", "default-route": ["10.246.0.1"]}]`)
	s.MustAdd(site.SandboxID(651), p, "main")
	if got, want := defaults(t, p), []string{"4 via 10.246.0.1 dev eth0", "6 via fd00:248::1 dev net1"}; !slices.Equal(got, want) {
		t.Errorf("default routes %q, want %q", got, want)
	}
	s.MustCheck(site.SandboxID(651), p, "main")
	s.MustDel(site.SandboxID(651), p, "main")
}

// What cannot be is refused or undone: two networks that ask, a gateway that
// the interface does not reach, an interface that is none of the kernel's.
func TestDefaultRouteRefused(t *testing.T) {
	v := site.OVS(t)
	s := routeSite(t)
	s.NAD("socket", site.Vhost(v, s, map[string]any{"ipam": s.HostLocal("10.249.0.0/16")}))
	p := site.NewPod(t, "refused")
	s.Pod("refused", "extra, other, socket")
	s.MustAdd(site.SandboxID(660), p, "refused") // for the bridges and folders
	s.MustDel(site.SandboxID(660), p, "refused")
	for _, test := range []struct {
		name, networks string
		says           []string
	}{
		{"two networks", `[{"name": "extra", "default-route": ["10.247.0.1"]}, {"name": "other", "default-route": ["10.248.0.1"]}]`,
			[]string{"default/extra", "default/other", "both ask for the default route"}},
		{"of different families", `[{"name": "extra", "default-route": ["10.247.0.1"]}, {"name": "other", "default-route": ["fd00:248::1"]}]`,
			[]string{"default/extra", "default/other", "both ask for the default route"}},
		{"out of reach", `[{"name": "extra", "default-route": ["10.200.0.1"]}]`, []string{"net1", "default/extra", "10.200.0.1"}},
		{"no address", `[{"name": "extra", "default-route": ["gateway"]}]`, []string{"default-route", `"gateway" is no address`}},
		{"a socket", `[{"name": "socket", "default-route": ["10.249.0.1"]}]`, []string{"net1", "default/socket", "default-route"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := s.On(t)
			s.Pod("refused", test.networks)
			before, inside := s.World(v), site.Links(t, p)
			_, err := s.Add(site.SandboxID(661), p, "refused")
			site.Says(t, err, test.says...)
			site.SameWorld(t, before, s.World(v))
			site.SameWorld(t, inside, site.Links(t, p))
		})
	}
}
