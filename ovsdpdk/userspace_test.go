package ovsdpdk

import (
	"encoding/json"
	"log/slog"
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates/userspace"
)

func parseUserspace(name string, data []byte) (*Config, []string, error) {
	n, warnings, err := userspace.New(userspace.EngineOVS, New(slog.New(slog.DiscardHandler))).Parse(name, data)
	if err != nil {
		return nil, nil, err
	}
	return n.(*network).Config, warnings, nil
}

// userspaceJSON is a userspace-cni configuration; vhost is the host's.
func userspaceJSON(t testing.TB, sharedDir string, vhost map[string]any) json.RawMessage {
	t.Helper()
	return toJSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "fast", "type": "userspace", "sharedDir": sharedDir,
		"host": map[string]any{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge",
			"vhost": vhost, "bridge": map[string]any{"bridgeName": testBridge}},
		"container": map[string]any{"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "interface"},
	})
}

const usual = `"engine": "ovs-dpdk", "iftype": "vhostuser"`

func parseHost(keys string) (*Config, []string, error) {
	return parseUserspace("default/fast", []byte(`{"type": "userspace", "host": {`+usual+keys+`}}`))
}

func TestParseUserspaceDefaults(t *testing.T) {
	c, warnings, err := parseHost("")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := Vhost{Mode: "server", SocketDir: "/usr/local/var/run/openvswitch"}
	if c.Bridge != "br0" || !c.CreateBridge || c.Vhost != want || c.VLAN != nil || c.OVSDB != defaultOVSDB || c.dialect == nil {
		t.Errorf("%+v", c)
	}
}

func TestParseUserspaceEveryKey(t *testing.T) {
	c, warnings, err := parseUserspace("n", []byte(`{"cniVersion": "0.4.0", "name": "fast", "type": "userspace",
		"kubeconfig": "/k", "sharedDir": "/run/v", "logFile": "/l", "logLevel": "debug", "ipam": {},
		"runtimeConfig": {"mac": "02:00:00:00:00:01"},
		"host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "netType": "bridge", "memif": {"role": "master", "mode": "ip", "socketfile": "m"},
			"vhost": {"mode": "client", "group": "g", "socketfile": "s"}, "bridge": {"bridgeName": "br1", "bridgeId": 4, "vlanId": 7}},
		"container": {"engine": "vpp", "iftype": "vhostuser", "netType": "interface", "vhost": {"mode": "server"}}}`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := Vhost{Mode: "client", SocketDir: "/run/v", SocketFile: "s", Group: "g"}
	if c.Bridge != "br1" || *c.VLAN != 7 || c.Vhost != want || c.mac() != "02:00:00:00:00:01" {
		t.Errorf("%+v", c)
	}
}

func TestParseUserspaceRefuses(t *testing.T) {
	for _, c := range []struct {
		config string
		says   []string
	}{
		{`{"host": {"iftype": "vhostuser"}}`, []string{`"host.engine"`, "ovs-dpdk"}},
		{`{"host": {"engine": "vpp", "iftype": "memif"}}`, []string{`"host.engine"`, "vpp", "ovs-dpdk"}},
		{`{"host": {"engine": "ovs", "iftype": "vhostuser"}}`, []string{`"host.engine"`, `"ovs"`, "ovs-dpdk"}},
		{`{"host": {"engine": "ovs-dpdk", "iftype": "memif"}}`, []string{`"host.iftype"`, "vhostuser"}},
		{`{"host": {` + usual + `, "netType": "interface"}}`, []string{`"host.netType"`, "bridge"}},
		{`{"host": {` + usual + `}, "container": {"engine": "snabb"}}`, []string{`"container.engine"`, "ovs-dpdk, vpp"}},
		{`{"host": {` + usual + `, "vhost": {"mode": "master"}}}`, []string{"vhost.mode", "client, server"}},
		{`{"host": {` + usual + `, "vhost": {"socketfile": "../x"}}}`, []string{"without a folder"}},
		{`{"host": {` + usual + `, "vhost": {"sokketfile": "x"}}}`, []string{`"host.vhost.sokketfile"`, `socketfile"`}},
		{`{"host": {` + usual + `, "bridge": {"bridgeName": "../br"}}}`, []string{"bridge", `'/'`}},
		{`{"host": {` + usual + `, "bridge": {"bridgeName": "sixteen-letters-"}}}`, []string{"bridge", "16 bytes"}},
		{`{"host": {` + usual + `, "bridge": {"vlanId": 4096}}}`, []string{"vlan", "0 to 4095"}},
		{`{"host": {` + usual + `, "bridge": {"vlanId": "7"}}}`, []string{"vlanId", "number"}},
		{`{"sharedDir": "run/v", "host": {` + usual + `}}`, []string{"absolute"}},
		{`{"sharedDir": "/run/../v", "host": {` + usual + `}}`, []string{"absolute"}},
		{`{"shareDir": "/run/v", "host": {` + usual + `}}`, []string{`"shareDir"`, `"sharedDir"`}},
		{`{"runtimeConfig": {"mac": "01:00:00:00:00:01"}, "host": {` + usual + `}}`, []string{"runtimeConfig.mac", "multicast"}},
		{`[]`, []string{"an object"}},
	} {
		_, _, err := parseUserspace("default/fast", []byte(c.config))
		if err == nil {
			t.Errorf("%s is accepted", c.config)
			continue
		}
		wantError(t, err, append(c.says, "network default/fast: userspace")...)
	}
}

// userspaceTrial is an attachment with addresses.
func userspaceTrial(t *testing.T) *trial {
	c := ways[3].begin(t)
	c.a.IPAM = &types100.Result{
		IPs:    []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(192, 168, 7, 2), Mask: net.CIDRMask(24, 32)}, Gateway: net.IPv4(192, 168, 7, 1)}},
		Routes: []*types.Route{{Dst: net.IPNet{IP: net.IPv4(10, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}, GW: net.IPv4(192, 168, 7, 1)}},
	}
	return c
}
