package plugins

import (
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

// The shapes of NAD that KubeVirt, OpenShift Virtualization and Harvester users have: no plugin
// declares a capability, and the pod asks for a MAC or for addresses. The reference plugins
// read CNI_ARGS.
func TestMACAndIPsWithoutACapability(t *testing.T) {
	uplink(t)
	s := site.New(t, nil)
	s = s.With(map[string]any{"delegates": []any{site.ClusterBridge(s.Dir)}})
	static := map[string]any{"type": "static"}
	nad := func(name string, plugins ...map[string]any) {
		s.NAD(name, map[string]any{"cniVersion": "0.3.1", "name": name, "plugins": plugins})
	}
	bridge := func(ipam map[string]any) map[string]any {
		return site.Plugin("bridge", map[string]any{"bridge": "xb1", "ipam": ipam})
	}
	macvlan := func(ipam map[string]any) map[string]any {
		return site.Plugin("macvlan", map[string]any{"master": "up0", "ipam": ipam})
	}
	tuning, none := site.Plugin("tuning", nil), map[string]any{}
	nad("bridge", bridge(none))
	nad("bridge-tuning", bridge(none), tuning)
	nad("macvlan", macvlan(none))
	nad("macvlan-tuning", macvlan(static), tuning)
	nad("bridge-static", bridge(static))
	nad("bridge-local", bridge(s.HostLocal("10.61.0.0/24")))
	nad("macvlan-static", macvlan(static))
	nad("pointed", site.Plugin("ptp", map[string]any{"ipam": s.HostLocal("10.62.0.0/24")}))
	dual := s.HostLocal("10.63.0.0/24")
	dual["ranges"] = []any{[]any{map[string]any{"subnet": "10.63.0.0/24"}}, []any{map[string]any{"subnet": "fd63::/64"}}}
	delete(dual, "subnet")
	nad("declared-dual", site.Plugin("bridge", map[string]any{"bridge": "xb1", "ipam": dual}, "ips"))
	p := site.NewPod(t, "asked")
	world := func() string { return s.World(nil) + site.Links(t, p) }
	s.Pod("asked", "bridge, bridge-local, declared-dual, pointed")
	s.MustAdd(site.SandboxID(650), p, "asked") // for what stays: bridges, folders of addresses
	s.MustDel(site.SandboxID(650), p, "asked")

	for n, test := range []struct {
		network, keys string
		has           []string
		refused       []string // in the error; nil: it is attached
	}{
		{"bridge", `"mac": "02:00:00:00:00:a2"`, []string{"link/ether 02:00:00:00:00:a2"}, nil},
		{"bridge", `"mac": "02-00-00-00-00-A2"`, []string{"link/ether 02:00:00:00:00:a2"}, nil},
		{"bridge-tuning", `"mac": "02:00:00:00:00:a3"`, []string{"link/ether 02:00:00:00:00:a3"}, nil},
		{"macvlan", `"mac": "02:00:00:00:00:a4"`, []string{"link/ether 02:00:00:00:00:a4"}, nil},
		{"macvlan-tuning", `"mac": "02:00:00:00:00:a5", "ips": ["10.60.0.9/24"]`, []string{"link/ether 02:00:00:00:00:a5", "addr net1 10.60.0.9/24"}, nil},
		{"bridge-static", `"ips": ["10.64.0.9/24", "fd64::9/64"]`, []string{"addr net1 10.64.0.9/24", "addr net1 fd64::9/64"}, nil},
		{"bridge-local", `"ips": ["10.61.0.77"]`, []string{"addr net1 10.61.0.77/24"}, nil},
		{"macvlan-static", `"ips": ["10.60.0.8/24"]`, []string{"addr net1 10.60.0.8/24"}, nil},
		{"declared-dual", `"ips": ["10.63.0.77", "fd63::77"]`, []string{"addr net1 10.63.0.77/24", "addr net1 fd63::77/64"}, nil},

		{"pointed", `"mac": "02:00:00:00:00:a6"`, nil, []string{"net1", "default/pointed", "02:00:00:00:00:a6 is asked for"}},
		{"bridge", `"ips": ["10.61.0.78"]`, nil, []string{"net1", "default/bridge", "10.61.0.78 is asked for", "given was []"}},
		{"bridge-local", `"ips": ["10.69.0.78"]`, nil, []string{"10.69.0.78"}},
	} {
		t.Run(test.network+" "+test.keys, func(t *testing.T) {
			s, id := s.On(t), site.SandboxID(651+n)
			s.Pod("asked", `[{"name": "`+test.network+`", `+test.keys+`}]`)
			t.Cleanup(func() { _ = s.Del(id, p, "asked") })
			before := world()
			if test.refused != nil {
				_, err := s.Add(id, p, "asked")
				site.Says(t, err, test.refused...)
				site.SameWorld(t, before, world())
				return
			}
			s.MustAdd(id, p, "asked")
			during := world() + site.InPod(t, p, "ip link show net1")
			for _, want := range test.has {
				if !strings.Contains(during, want) {
					t.Errorf("the pod lacks %q:\n%s", want, during)
				}
			}
			s.MustCheck(id, p, "asked")
			s.MustDel(id, p, "asked")
			site.SameWorld(t, before, world())
		})
	}
}
