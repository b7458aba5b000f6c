package engine

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// A MAC and addresses reach plugins that declare nothing. A result that has others fails the
// pod, and everything is undone.
func TestMACAndIPsThatAPodAsksFor(t *testing.T) {
	t.Parallel()
	const netns = `"sandbox": "/proc/self/ns/net"`
	for _, test := range []struct {
		name, ask, gives string
		args             string   // of ADD
		refused          []string // nil: it is attached
	}{
		{"the MAC", `"mac": "02:00:00:00:00:A2"`, `"interfaces": [{"name": "veth", "mac": "02:00:00:00:00:99"}, {"name": "net1", "mac": "02:00:00:00:00:a2", ` + netns + `}]`, "MAC=02:00:00:00:00:A2", nil},
		{"the MAC in another writing", `"mac": "02-00-00-00-00-A2"`, `"interfaces": [{"name": "net1", "mac": "02:00:00:00:00:a2", ` + netns + `}]`, "MAC=02-00-00-00-00-A2", nil},
		{"another MAC", `"mac": "02:00:00:00:00:a2"`, `"interfaces": [{"name": "net1", "mac": "02:00:00:00:00:a3", ` + netns + `}]`, "MAC=02:00:00:00:00:a2",
			[]string{"net1", "default/taken", `key "mac"`, "02:00:00:00:00:a2 is asked for, 02:00:00:00:00:a3 was given"}},
		{"a MAC that nobody tells", `"mac": "02:00:00:00:00:a2"`, `"interfaces": [{"name": "net1", ` + netns + `}]`, "MAC=02:00:00:00:00:a2", nil},
		{"addresses", `"ips": ["192.0.2.9/24", "2001:db8::9"]`, `"ips": [{"address": "2001:db8:0::9/64"}, {"address": "192.0.2.9/16"}]`, "IP=192.0.2.9/24,2001:db8::9", nil},
		{"one address more", `"ips": ["192.0.2.9"]`, `"ips": [{"address": "192.0.2.9/24"}, {"address": "192.0.2.10/24"}]`, "IP=192.0.2.9", nil},
		{"another address", `"ips": ["192.0.2.9"]`, `"ips": [{"address": "192.0.2.10/24"}]`, "IP=192.0.2.9",
			[]string{"net1", "default/taken", `"ips"`, "192.0.2.9 is asked for, given was [192.0.2.10/24]"}},
		{"one of two", `"ips": ["192.0.2.9", "2001:db8::9"]`, `"ips": [{"address": "192.0.2.9/24"}]`, "IP=192.0.2.9,2001:db8::9", []string{`"ips"`, "2001:db8::9 is asked for"}},
		{"no address", `"ips": ["192.0.2.9"]`, `"dns": {}`, "IP=192.0.2.9", []string{`"ips"`, "192.0.2.9 is asked for, given was []"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			script(t, filepath.Join(n.dir, "bin"), "taking", `cat > /dev/null; cd "${0%/*}"; echo "$CNI_COMMAND $CNI_ARGS" >> args; [ $CNI_COMMAND != ADD ] || cat answer`)
			if err := os.WriteFile(filepath.Join(n.dir, "bin", "answer"), []byte(`{"cniVersion": "1.0.0", `+test.gives+`}`), 0o600); err != nil {
				t.Fatal(err)
			}
			n.api.networks["taken"] = `{"cniVersion": "1.0.0", "name": "taken", "type": "taking"}`
			r := n.request(`[{"name": "bare", "interface": "bare0"}, {"name": "taken", "interface": "net1", ` + test.ask + `}]`)
			_, err := n.Add(t.Context(), r)
			want := []string{"ADD IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod;" + test.args}
			if test.refused == nil && err != nil {
				t.Fatal(err)
			}
			if test.refused != nil {
				says(t, err, test.refused...)
				var refusal *conf.Refusal
				if !errors.As(err, &refusal) {
					t.Errorf("%v: it is no refusal", err)
				}
				n.wantNothingLeft("after ADD")
			} else if err := n.Del(t.Context(), r); err != nil {
				t.Error(err)
			}
			want = append(want, "DEL IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod")
			data, err := os.ReadFile(filepath.Join(n.dir, "bin", "args"))
			if got := strings.Split(strings.TrimSpace(string(data)), "\n"); err != nil || !slices.Equal(got, want) {
				t.Errorf("plugins got %q, %v, want %q", got, err, want)
			}
		})
	}
}

// A built-in's own IPAM takes addresses that no plugin declares, as the executables do: static
// in addition to those of the network, host-local several of them too.
func TestIPsOfABuiltinThatDeclaresNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ network, ips, given, refused string }{
		{"static", `"10.8.0.9/24", "2001:db8::9/64"`, "10.8.0.7/24 10.8.0.9/24 2001:db8::9/64", ""},
		{"static", `"10.8.0.9"`, "", "10.8.0.9"}, // it wants a prefix
		{"hosted", `"10.9.1.77"`, "10.9.1.77/24", ""},
		{"hosted", `"10.9.1.77/24"`, "10.9.1.77/24", ""},
		{"hosted", `"10.9.9.77"`, "", "10.9.9.77"},
		{"dual", `"10.9.2.77", "2001:db8::77/64"`, "10.9.2.77/24 2001:db8::77/64", ""},
		{"dual", `"2001:db8::77"`, "10.9.2.2/24 2001:db8::77/64", ""},
	} {
		t.Run(test.network+" "+test.ips, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			builtinCluster(n)
			n.api.networks["dual"] = `{"cniVersion": "1.1.0", "name": "dual", "type": "toy", "endpoint": "/run/toy/a", "ipam": {"type": "host-local", "dataDir": "` + n.dir + `/ipam",
				"ranges": [[{"subnet": "10.9.2.0/24"}], [{"subnet": "2001:db8::/64"}]]}}`
			r := n.request(`[{"name": "` + test.network + `", "ips": [` + test.ips + `]}]`)
			result, err := n.Add(t.Context(), r)
			if test.refused != "" {
				says(t, err, "net1", test.refused)
				n.wantNothingLeft("after ADD")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(addressesOf(result), " "); got != test.given {
				t.Errorf("given %s, want %s", got, test.given)
			}
			for _, err := range []error{n.Check(t.Context(), r), n.Del(t.Context(), r)} {
				if err != nil {
					t.Error(err)
				}
			}
			n.wantNothingLeft("after DEL")
		})
	}
}

// addressed is a delegate whose interface has the MAC that its runtimeConfig names.
type addressed struct{ passthru }

type addressedNetwork struct {
	delegates.BaseNetwork
	RuntimeConfig struct{ MAC string }
}

// Parse is delegates.Delegate.
func (addressed) Parse(_ string, config []byte) (delegates.Network, []string, error) {
	n := &addressedNetwork{}
	return n, nil, json.Unmarshal(config, n)
}

// Attach is delegates.Delegate.
func (addressed) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns, Mac: a.Network.(*addressedNetwork).RuntimeConfig.MAC, SocketPath: "/s"}}}
	}
	return nil
}

// A built-in gets the MAC in runtimeConfig, whether or not its network declares it.
func TestMACOfABuiltin(t *testing.T) {
	t.Parallel()
	for _, keys := range []string{``, `, "capabilities": {"mac": true}`, `, "capabilities": {"mac": false}`} {
		n := newNode(t)
		builtinCluster(n)
		n.Delegates["addressed"] = addressed{}
		n.api.networks["vm"] = `{"cniVersion": "1.1.0", "name": "vm", "type": "addressed"` + keys + `}`
		result, err := n.Add(t.Context(), n.request(`[{"name": "vm", "mac": "02:00:00:00:00:0b"}]`))
		if err != nil || len(result.Interfaces) != 1 || result.Interfaces[0].Mac != "02:00:00:00:00:0b" {
			t.Errorf("%s: %v, %v", keys, result, err)
		}
	}
}
