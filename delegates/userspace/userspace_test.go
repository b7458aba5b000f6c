package userspace

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// fake is a backend that keeps what it is given.
type fake struct {
	delegates.Delegate
	config  string
	dialect *delegates.Dialect
	err     error
}

// ParseAs is Backend.
func (f *fake) ParseAs(_ string, config []byte, dialect *delegates.Dialect) (delegates.Network, []string, error) {
	f.config, f.dialect = string(config), dialect
	return delegates.Network(nil), []string{"the backend's"}, f.err
}

func parse(engine, config string) (*fake, []string, error) {
	f := &fake{}
	_, warnings, err := New(engine, f).Parse("default/fast", []byte(config))
	return f, warnings, err
}

const (
	ovs   = `"engine": "ovs-dpdk", "iftype": "vhostuser"`
	vpp   = `"engine": "vpp", "iftype": "memif", "memif": {"role": "master"}`
	vhost = `"engine": "vpp", "iftype": "vhostuser"`
)

func engineOf(host string) string {
	if strings.HasPrefix(host, ovs) {
		return EngineOVS
	}
	return EngineVPP
}

// The backend gets its own keys, and the defaults of userspace-cni.
func TestTranslation(t *testing.T) {
	for _, c := range []struct{ host, more, want string }{
		{ovs, ``, `{"bridge":"br0","createBridge":true,"vhost":{"group":"","mode":"server","socketDir":"/usr/local/var/run/openvswitch","socketFile":""}}`},
		{ovs + `, "netType": "bridge", "vhost": {"mode": "client", "group": "g", "socketfile": "s"}, "bridge": {"bridgeName": "br1", "bridgeId": 4, "vlanId": 7}`,
			`, "name": "n", "cniVersion": "1.1.0", "kubeconfig": "/k", "sharedDir": "/run/v/", "logFile": "/l", "ipam": {}, "bridge": "x",
			"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "x"}}`,
			`{"args":{"cni":{"mac":"x"}},"bridge":"br1","createBridge":true,"runtimeConfig":{"mac":"02:00:00:00:00:01"},` +
				`"vhost":{"group":"g","mode":"client","socketDir":"/run/v/","socketFile":"s"},"vlan":7}`},
		{ovs + `, "vhost": {"mode": "x"}, "bridge": {"vlanId": -1}`, `, "sharedDir": "../x"`, // for the backend to refuse
			`{"bridge":"br0","createBridge":true,"vhost":{"group":"","mode":"x","socketDir":"../x","socketFile":""},"vlan":-1}`},
		{vpp + `, "netType": "none"`, ``, `{"mode":"","role":"server","socket":{"dir":"/var/run/vpp","file":""}}`},
		{`"engine": "vpp", "iftype": "memif", "memif": {"role": "slave", "mode": "ip", "socketfile": "m"}, "netType": "interface", "bridge": {"vlanId": 7}`, `, "sharedDir": "/d"`,
			`{"gateways":true,"mode":"ip","role":"client","socket":{"dir":"/d","file":"m"}}`},
		{vpp + `, "netType": "bridge", "bridge": {"bridgeName": "blue", "bridgeId": 4, "vlanId": 7}`, ``,
			`{"bridgeDomain":{"name":"blue"},"mode":"","role":"server","socket":{"dir":"/var/run/vpp","file":""},"vlan":7}`},
		{vpp + `, "netType": "bridge", "bridge": {"bridgeName": "04"}`, ``,
			`{"bridgeDomain":{"id":4},"mode":"","role":"server","socket":{"dir":"/var/run/vpp","file":""},"vlan":0}`},
		{vpp + `, "netType": "bridge", "bridge": {"bridgeId": 5}`, ``,
			`{"bridgeDomain":{"id":5},"mode":"","role":"server","socket":{"dir":"/var/run/vpp","file":""},"vlan":0}`},
		{vhost + `, "netType": "none", "vhost": {"mode": "client", "group": "g", "socketfile": "s"}`, ``,
			`{"role":"client","socket":{"dir":"/var/run/vpp","file":"s","group":"g"},"vhostUser":true}`},
		{vhost + `, "netType": "none"`, ``, `{"role":"","socket":{"dir":"/var/run/vpp","file":"","group":""},"vhostUser":true}`},
	} {
		f, _, err := parse(engineOf(c.host), `{"host": {`+c.host+`}`+c.more+`}`)
		if err != nil {
			t.Errorf("%s: %v", c.host, err)
		}
		if diff := cmp.Diff(c.want, f.config); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.host, diff)
		}
	}
}

// The user is told of the keys that the user wrote.
func TestKeysOfTheUser(t *testing.T) {
	for _, c := range []struct{ host, backend, want string }{
		{ovs, "bridge", "host.bridge.bridgeName"}, {ovs, "vlan", "host.bridge.vlanId"}, {ovs, "vhost.mode", "host.vhost.mode"},
		{ovs, "vhost.socketDir", "sharedDir"}, {ovs, "vhost.socketFile", "host.vhost.socketfile"}, {ovs, "vhost.group", "host.vhost.group"},
		{ovs, "runtimeConfig.mac", "runtimeConfig.mac"}, {vpp, "mode", "host.memif.mode"}, {vpp, "socket.dir", "sharedDir"},
		{vpp, "socket.file", "host.memif.socketfile"}, {vhost, "socket.file", "host.vhost.socketfile"}, {vhost, "socket.group", "host.vhost.group"},
		{vhost, "role", "host.vhost.mode"}, {vpp, "bridgeDomain", "host.bridge.bridgeName"}, {vpp, "bridgeDomain.id", "host.bridge.bridgeName"},
		{vpp, "bridgeDomain.name", "host.bridge.bridgeName"}, {vpp, "vlan", "host.bridge.vlanId"},
	} {
		f, _, err := parse(engineOf(c.host), `{"host": {`+c.host+`, "netType": "bridge", "bridge": {"bridgeName": "b"}}}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.dialect.Key(c.backend); got != c.want {
			t.Errorf("%s: key %q is %q to the user, want %q", c.host, c.backend, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		engine, config string
		says           []string
	}{
		{EngineOVS, `[]`, []string{"an object"}},
		{EngineOVS, `{"host": {"iftype": "vhostuser"}}`, []string{`"host.engine"`, "ovs-dpdk"}},
		{EngineVPP, `{"host": {` + ovs + `}}`, []string{`"host.engine"`, "allowed is vpp"}},
		{EngineOVS, `{"host": {` + ovs + `}, "container": {"engine": "snabb"}}`, []string{`"container.engine"`, "ovs-dpdk, vpp"}},
		{EngineOVS, `{"host": {"engine": "ovs-dpdk", "iftype": "memif"}}`, []string{`"host.iftype"`, "vhostuser"}},
		{EngineOVS, `{"host": {` + ovs + `, "netType": "interface"}}`, []string{`"host.netType"`, "bridge"}},
		{EngineOVS, `{"host": {` + ovs + `, "bridge": {"vlanId": "7"}}}`, []string{"vlanId", "number"}},
		{EngineOVS, `{"shareDir": "/run/v", "host": {` + ovs + `}}`, []string{`"shareDir"`, `"sharedDir"`}},
		{EngineVPP, `{"host": {"engine": "vpp", "iftype": "tap"}}`, []string{`"host.iftype"`, "memif, vhostuser"}},
		{EngineVPP, `{"host": {"engine": "vpp", "iftype": "memif"}}`, []string{`"host.memif.role"`, "master, slave"}},
		{EngineVPP, `{"host": {` + vpp + `}}`, []string{`"host.netType"`, "bridge, interface, none"}},
		{EngineVPP, `{"host": {` + vpp + `, "netType": "bridge"}}`, []string{`"host.bridge.bridgeName"`, "missing", "16777215"}},
		{EngineVPP, `{"host": {` + vpp + `, "netType": "bridge", "bridge": {"bridgeId": 16777216}}}`, []string{`"host.bridge.bridgeName"`, "16777215"}},
	} {
		f, _, err := parse(c.engine, c.config)
		if refusal := (*conf.Refusal)(nil); !errors.As(err, &refusal) || f.config != "" {
			t.Errorf("%s: %v is no refusal, or the backend is asked", c.config, err)
			continue
		}
		for _, words := range append(c.says, "network default/fast: userspace") {
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %q does not say %q", c.config, err, words)
			}
		}
	}
	f := &fake{err: errors.New("of the backend")}
	if _, _, err := New(EngineOVS, f).Parse("n", []byte(`{"host": {`+ovs+`}}`)); !errors.Is(err, f.err) {
		t.Errorf("the backend's error became %v", err)
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := parse(EngineOVS, `{"host": {`+ovs+`}, "somethingElse": 1}`)
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], "somethingElse") || warnings[1] != "the backend's" {
		t.Errorf("warnings %q, %v", warnings, err)
	}
}

func TestEngine(t *testing.T) {
	for config, want := range map[string]string{`{"host": {` + ovs + `}}`: "ovs-dpdk", `{"host": {` + vpp + `}}`: "vpp", `{}`: "", `[]`: "", `{"host": {"engine": "x"}}`: ""} {
		if got, err := Engine([]byte(config)); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", config, got, err)
		}
	}
}

// A key that the container's half does not have is taken from the host's half, with
// the opposite mode.
func TestContainerHalf(t *testing.T) {
	for _, c := range []struct{ container, mode, want string }{
		{"", "server", `iftype vhostuser netType interface mode client`},
		{"", "client", `iftype vhostuser netType interface mode server`},
		{`"netType": "bridge", "vhost": {"mode": "client"}`, "client", `iftype vhostuser netType bridge mode client`},
		{`"iftype": "memif", "memif": {"role": "slave"}`, "client", `iftype memif netType interface mode `},
	} {
		parsed, _, err := parse(EngineOVS, `{"host": {`+ovs+`, "vhost": {"mode": "`+c.mode+`"}}, "container": {`+c.container+`}}`)
		if err != nil {
			t.Fatal(err)
		}
		data, err := parsed.dialect.Document(&delegates.Attachment{}, "s", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Config Side }
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("iftype %s netType %s mode %s", got.Config.IfType, got.Config.NetType, got.Config.Vhost.Mode); text != c.want {
			t.Errorf("%s: %s, want %s", c.container, text, c.want)
		}
	}
}

// A memif's container has the other role, and the addresses in the form of CNI 0.4.0.
func TestContainerOfMemif(t *testing.T) {
	f, _, err := parse(EngineVPP, `{"name": "n", "kubeconfig": "/k", "host": {`+vpp+`, "netType": "none"}}`)
	if err != nil {
		t.Fatal(err)
	}
	a := &delegates.Attachment{Sandbox: "id", IfName: "net1", Netns: "/run/netns/x", Pod: &conf.Pod{}, Result: &types100.Result{
		IPs:    []*types100.IPConfig{{Interface: types100.Int(3), Address: net.IPNet{IP: net.IPv4(192, 168, 7, 2), Mask: net.CIDRMask(24, 32)}, Gateway: net.IPv4(192, 168, 7, 1)}},
		Routes: []*types.Route{{Dst: net.IPNet{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}}},
	}}
	want := `{"containerId":"id","ifName":"net1","name":"n","config":{"iftype":"memif","netType":"interface","memif":{"role":"slave","socketfile":"s"},"vhost":{},"bridge":{}},` +
		`"ipResult":{"cniVersion":"0.4.0","interfaces":[{"name":"net1","sandbox":"/run/netns/x"}],"ips":[{"version":"4","address":"192.168.7.2/24"}],"routes":[{"dst":"10.0.0.0/8"}],"dns":{}}}`
	for mount, dir := range map[string]string{"": "/var/lib/cni/usrspcni", "/run/app": "/run/app"} {
		a.Pod.SharedDirMount = mount
		got, err := f.dialect.Annotations(a, "s")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"userspace/configuration-data": "[" + want + "]", "userspace/mapped-dir": dir}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	f, _, err = parse(EngineVPP, `{"host": {`+vpp+`, "netType": "none"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.dialect.Annotations(a, "s"); got != nil || err != nil {
		t.Errorf("without a kubeconfig: %v, %v", got, err)
	}
}
