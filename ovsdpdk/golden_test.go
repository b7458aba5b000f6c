package ovsdpdk

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/shareddir"
)

// golden is what userspace-cni writes for the same (its pkg/types,
// ConfigurationData): the container's half, completed from the host's, and CNI's
// result of version 0.4.0. Containers go by the version of an address.
const golden = `{
	"containerId": "0123456789abcdef",
	"ifName": "net1",
	"name": "fast",
	"config": {
		"engine": "ovs-dpdk",
		"iftype": "vhostuser",
		"netType": "interface",
		"memif": {},
		"vhost": {
			"mode": "server",
			"socketfile": "0123456789ab-net1"
		},
		"bridge": {}
	},
	"ipResult": {
		"cniVersion": "0.4.0",
		"interfaces": [
			{
				"name": "net1",
				"sandbox": "/run/netns/0123456789abcdef"
			}
		],
		"ips": [
			{
				"version": "4",
				"address": "192.168.7.2/24"
			}
		],
		"routes": [
			{
				"dst": "10.0.0.0/8",
				"gw": "192.168.7.1"
			}
		],
		"dns": {}
	}
}`

func indented(t testing.TB, data []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "\t"); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return out.String()
}

// The container reads its half from a file beside the socket.
func TestConfigurationFile(t *testing.T) {
	c := userspaceTrial(t)
	before := c.world()
	mustAttach(t, c.d, c.a)
	data, err := os.ReadFile(filepath.Join(c.dir, shareddir.OwnName(sandbox), "configData-0123456789ab-net1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got := indented(t, data); got != golden {
		t.Errorf("got %s\nwant %s", got, golden)
	}
	mustDetach(t, c.d, c.a)
	sameWorld(t, before, c.world())
}

// With a kubeconfig the container reads the same from annotations.
func TestDescribe(t *testing.T) {
	c := userspaceTrial(t)
	mustPrepare(t, c.a)
	c.a.Result = c.a.IPAM // as it is recorded
	s, err := decodeState(c.a.State, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	said, err := c.a.Network.Describe(c.a)
	if err != nil || said.Annotations != nil {
		t.Errorf("without a kubeconfig: annotations %v, %v", said.Annotations, err)
	}
	if info := said.DeviceInfo; info.Type != "vhost-user" || info.VhostUser.Mode != "server" || info.VhostUser.Path != s.Socket {
		t.Errorf("device-info %+v %+v, want the pod's side of %s", info, info.VhostUser, s.Socket)
	}
	config := ways[3].config(c.rig)
	c.a.Network = mustParse(t, c.d, bytes.Replace(config, []byte(`{`), []byte(`{"kubeconfig": "/etc/kubeconfig",`), 1))
	for mount, want := range map[string]string{"": "/var/lib/cni/usrspcni", "/run/app": "/run/app"} {
		c.a.Pod.SharedDirMount = mount
		said, err := c.a.Network.Describe(c.a)
		if err != nil {
			t.Fatal(err)
		}
		list := said.Annotations["userspace/configuration-data"]
		if inner := strings.TrimSuffix(strings.TrimPrefix(list, "["), "]"); len(list) != len(inner)+2 || indented(t, []byte(inner)) != golden {
			t.Errorf("configuration-data %s, want a list of one, like the file", list)
		}
		if got := said.Annotations["userspace/mapped-dir"]; got != want {
			t.Errorf("mapped-dir %q, want %q", got, want)
		}
	}
	other := c.attachment(newDelegate(t), sandbox, nil)
	other.State = c.a.State
	plain, err := other.Network.Describe(other)
	if err != nil || plain.Annotations != nil {
		t.Errorf("type ovsdpdk says %v, %v", plain.Annotations, err)
	}
}

// The error names the key that the user has written.
func TestUserspaceNamesItsOwnKeys(t *testing.T) {
	for config, key := range map[string]string{
		`{"sharedDir": "x", "host": {` + usual + `}}`:                             `"sharedDir"`,
		`{"host": {` + usual + `, "vhost": {"mode": "x"}}}`:                       `"host.vhost.mode"`,
		`{"host": {` + usual + `, "vhost": {"socketfile": "a/b"}}}`:               `"host.vhost.socketfile"`,
		`{"host": {` + usual + `, "bridge": {"bridgeName": "a/b"}}}`:              `"host.bridge.bridgeName"`,
		`{"host": {` + usual + `, "bridge": {"vlanId": -1}}}`:                     `"host.bridge.vlanId"`,
		`{"runtimeConfig": {"mac": "x"}, "host": {` + usual + `}}`:                `"runtimeConfig.mac"`,
		`{"host": {` + usual + `, "bridge": {"bridgeName": "sixteen-letters-"}}}`: `"host.bridge.bridgeName"`,
	} {
		_, _, err := parseUserspace("n", []byte(config))
		wantError(t, err, "key "+key)
	}
}
