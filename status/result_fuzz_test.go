package status

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// FuzzResult feeds what a plugin may answer to the merged result and to
// network-status: nothing panics, the plugin's own result is left as it is, and
// every address of an extra network is on an interface.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"interfaces": [{}], "ips": [], "routes": [], "dns": {}}`,
		`{"cniVersion": "1.1.0", "interfaces": [{"name": "br0"}, {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/ns", "mtu": 1500, "socketPath": "/s", "pciID": "0000:00:10.0"}],
			"ips": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 1}, {"address": "fd00::7/64"}], "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0"}],
			"dns": {"nameservers": ["192.0.2.53"], "domain": "a", "search": ["b"], "options": ["c"]}}`,
		`{"ips": [{"address": "10.0.0.7/24", "interface": 9}, {"address": "10.0.0.8/24", "interface": -1}]}`,
		`{"interfaces": [{"name": "net1"}], "ips": [{"address": "10.0.0.7/0", "interface": 0}]}`,
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, text string, asked bool) {
		r := &types100.Result{}
		if json.Unmarshal([]byte(text), r) != nil || !complete(r) {
			return
		}
		entries := []*journal.Entry{{Network: conf.Network{Name: "cluster", IfName: "eth0", Default: true}}, {Network: conf.Network{Name: "shop/blue", IfName: "net1"}}}
		if asked {
			entries[1].DefaultRoute = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}
		before, err := json.Marshal(r)
		if err != nil {
			return
		}
		merged := Merge(entries, []*types100.Result{{}, r}, "/ns")
		for _, ip := range merged.IPs {
			if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(merged.Interfaces) {
				t.Errorf("address %s is on no interface: %s", ip.Address.String(), before)
			}
		}
		for i, entry := range entries {
			s := networkStatus(entry, r)
			if s.Default != (i == 0) || s.Name != entry.Name {
				t.Errorf("status %+v of %s", s, entry.Name)
			}
			if _, err := json.Marshal(s); err != nil {
				t.Error(err)
			}
		}
		if after, err := json.Marshal(r); err != nil || !bytes.Equal(before, after) {
			t.Errorf("the result was changed: %v\n%s\n%s", err, before, after)
		}
	})
}

// complete reports whether nothing in a result is null: such a one is refused
// before it comes here.
func complete(r *types100.Result) bool {
	return !slices.Contains(r.Interfaces, nil) && !slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool { return ip == nil || ip.Address.IP == nil }) &&
		!slices.ContainsFunc(r.Routes, func(route *types.Route) bool { return route == nil || route.Dst.IP == nil })
}
