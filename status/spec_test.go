package status

import (
	"encoding/json"
	"net/netip"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// TestStatusOfTheSpecification holds network-status against section 5 of the
// NPWG multi-network specification 1.3: the table in conf/spec_test.go refers to
// it.
func TestStatusOfTheSpecification(t *testing.T) {
	cluster := conf.Network{Name: "cluster", IfName: "eth0", Default: true}
	blue := conf.Network{Name: "shop/blue", IfName: "net1"}
	asked := blue
	asked.DefaultRoute = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	for _, test := range []struct {
		name    string
		network conf.Network
		result  string
		want    string
	}{
		{"an empty result has a name, an interface and default", blue, `{"cniVersion": "1.0.0"}`,
			`{"name": "shop/blue", "interface": "net1", "default": false, "dns": {}}`},
		{"the cluster network's default is true", cluster, `{"cniVersion": "1.0.0"}`,
			`{"name": "cluster", "interface": "eth0", "default": true, "dns": {}}`},
		{"everything that the result says", blue, `{"cniVersion": "1.1.0",
			"interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:01"}, {"name": "net1", "mac": "02:00:00:00:00:02", "mtu": 9000, "sandbox": "/ns"}],
			"ips": [{"address": "10.0.0.7/24", "interface": 1}, {"address": "fd00::7/64", "interface": 1}],
			"dns": {"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a.example.com"], "options": ["ndots:2"]}}`,
			`{"name": "shop/blue", "interface": "net1", "mac": "02:00:00:00:00:02", "mtu": 9000, "default": false, "ips": ["10.0.0.7", "fd00::7"],
			"dns": {"nameservers": ["192.0.2.53"], "domain": "example.com", "search": ["a.example.com"], "options": ["ndots:2"]}}`},
		{"the first interface in the pod, whatever its name", blue, `{"cniVersion": "1.0.0",
			"interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:01"}, {"name": "bond0", "mac": "02:00:00:00:00:02", "sandbox": "/ns"}, {"name": "net1", "mac": "02:00:00:00:00:03", "sandbox": "/ns"}]}`,
			`{"name": "shop/blue", "interface": "bond0", "mac": "02:00:00:00:00:02", "default": false, "dns": {}}`},
		{"the addresses of that interface, none of another", blue, `{"cniVersion": "1.0.0",
			"interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/ns"}, {"name": "net1d1", "sandbox": "/ns"}],
			"ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.7/24", "interface": 1}, {"address": "10.0.0.8/24", "interface": 2}]}`,
			`{"name": "shop/blue", "interface": "net1", "ips": ["10.0.0.7"], "default": false, "dns": {}}`},
		{"no interface in the pod: addresses that name none", blue, `{"cniVersion": "1.0.0",
			"interfaces": [{"name": "br0"}],
			"ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.7/24"}, {"address": "10.0.0.8/24", "interface": -1}]}`,
			`{"name": "shop/blue", "interface": "net1", "ips": ["10.0.0.7", "10.0.0.8"], "default": false, "dns": {}}`},
		{"addresses alone", blue, `{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]}`,
			`{"name": "shop/blue", "interface": "net1", "ips": ["10.0.0.7"], "default": false, "dns": {}}`},
		{"an older result", blue, `{"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.7/24", "gateway": "10.0.0.1"}, "ip6": {"ip": "fd00::7/64"}, "dns": {"domain": "example.com"}}`,
			`{"name": "shop/blue", "interface": "net1", "ips": ["10.0.0.7", "fd00::7"], "default": false, "dns": {"domain": "example.com"}}`},
		{"the gateways that it was asked for", asked, `{"cniVersion": "1.0.0",
			"interfaces": [{"name": "net1", "sandbox": "/ns"}],
			"routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}, {"dst": "::/0", "gw": "fd00::1"}, {"dst": "10.8.0.0/16", "gw": "10.0.0.254"}]}`,
			`{"name": "shop/blue", "interface": "net1", "default": false, "dns": {}, "gateway": ["10.0.0.1", "fd00::1"], "default-route": ["10.0.0.1", "fd00::1"]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer, err := create.CreateFromBytes([]byte(test.result))
			if err != nil {
				t.Fatal(err)
			}
			result, err := types100.NewResultFromResult(answer) // as chain.add does
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(networkStatus(&journal.Entry{Network: test.network}, result))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decoded(t, test.want), decoded(t, string(text))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func decoded(t *testing.T, text string) (value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}
