package status

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

var update = flag.Bool("update", false, "write the golden files anew")

func resultOf(t *testing.T, text string) *types100.Result {
	t.Helper()
	r := &types100.Result{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func golden(t *testing.T, name string, got any) {
	t.Helper()
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, '\n')
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(data)); diff != "" {
		t.Errorf("%s: %s", file, diff)
	}
}

// threeResults are a cluster network with all that a result has, a vhost-user
// port, and a plugin that gives addresses and says of no interface.
func threeResults(t *testing.T) ([]*journal.Entry, []*types100.Result) {
	entries := []*journal.Entry{
		{Network: conf.Network{Name: "cluster", IfName: "eth0", Default: true}},
		{Network: conf.Network{Name: "default/fast", IfName: "net1"}},
		{Network: conf.Network{Name: "default/odd", IfName: "net2"}},
	}
	return entries, []*types100.Result{
		resultOf(t, `{"cniVersion": "1.1.0",
			"interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/ns", "mtu": 1450}],
			"ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}, {"address": "fd00::2/64", "gateway": "fd00::1", "interface": 1}],
			"routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0", "gw": "fd00::1"}],
			"dns": {"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]}}`),
		resultOf(t, `{"cniVersion": "1.1.0",
			"interfaces": [{"name": "net1", "sandbox": "/ns", "mtu": 9000, "socketPath": "/v/a-net1"}],
			"ips": [{"address": "192.168.7.2/24", "gateway": "192.168.7.1", "interface": 0}],
			"routes": [{"dst": "0.0.0.0/0", "gw": "192.168.7.1"}, {"dst": "172.16.0.0/12", "gw": "192.168.7.1"}],
			"dns": {"nameservers": ["8.8.8.8"]}}`),
		resultOf(t, `{"cniVersion": "1.1.0", "ips": [{"address": "10.9.9.9/32"}]}`),
	}
}

func TestMergedResult(t *testing.T) {
	entries, results := threeResults(t)
	before, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "merged.json", Merge(entries, results, "/ns"))
	after, err := json.Marshal(results)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("merge has changed the results that it was given")
	}
}

func TestMergedResultWithDefaultRoute(t *testing.T) {
	entries, results := threeResults(t)
	entries[1].DefaultRoute = []netip.Addr{netip.MustParseAddr("192.168.7.1")}
	results[0].Routes = results[0].Routes[1:] // as routeDefault leaves it
	merged := Merge(entries, results, "/ns")
	golden(t, "merged-default-route.json", merged.Routes)
}

func TestNetworkStatus(t *testing.T) {
	entries, results := threeResults(t)
	var all []conf.NetworkStatus
	for i := range entries {
		all = append(all, networkStatus(entries[i], results[i]))
	}
	golden(t, "status.json", all)
}

func TestAnnotationsThatAreListsAreJoined(t *testing.T) {
	for _, test := range []struct{ old, value, want string }{
		{"", `[{"a":1}]`, `[{"a":1}]`},
		{`[{"a":1}]`, `[{"b":2}]`, `[{"a":1},{"b":2}]`},
		{"/dir", "/dir", "/dir"},
	} {
		if got := Join(test.old, test.value); got != test.want {
			t.Errorf("%q and %q make %q, want %q", test.old, test.value, got, test.want)
		}
	}
}
