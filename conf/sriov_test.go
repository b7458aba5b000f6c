package conf_test

import (
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// seedConf is a node's configuration as an introduction to userspace-cni with
// Multus shows it: the sriov network has no name, no version and no ipam, and
// names its interface itself; the cluster network is the last one.
const seedConf = `{"name": "multus-demo-network", "type": "multus", "delegates": [
	{"type": "sriov", "if0": "ens786f1", "if0name": "net0",
	 "dpdk": {"kernel_driver": "ixgbevf", "dpdk_driver": "igb_uio", "dpdk_tool": "/path/to/dpdk/tools/dpdk-devbind.py"}},
	{"cniVersion": "0.3.1", "type": "userspace", "name": "memif-network",
	 "host": {"engine": "vpp", "iftype": "memif", "netType": "bridge", "memif": {"role": "master", "mode": "ethernet"}, "bridge": {"bridgeName": "4"}},
	 "container": {"engine": "vpp", "iftype": "memif", "netType": "interface", "memif": {"role": "slave", "mode": "ethernet"}},
	 "ipam": {"type": "host-local", "subnet": "10.56.217.0/24", "rangeStart": "10.56.217.131", "rangeEnd": "10.56.217.190", "routes": [{"dst": "0.0.0.0/0"}], "gateway": "10.56.217.1"}},
	{"type": "flannel", "name": "control-network", "masterplugin": true, "delegate": {"isDefaultGateway": true}}]}`

func TestTheSeedsConfigurationRunsAsItIs(t *testing.T) {
	p := request{conf: seedConf}.mustPlan(t)
	checkEqual(t, attachments(p), "eth0=control-network* net0=multus-demo-network-0 net2=memif-network")
	n := p.Networks[1]
	checkEqual(t, n.List.CNIVersion, conf.DefaultCNIVersion)
	checkEqual(t, n.List.Types(), []string{"sriov"})
	checkJSON(t, n.List.Plugins[0], `{"type": "sriov", "if0": "ens786f1", "if0name": "net0",
		"dpdk": {"kernel_driver": "ixgbevf", "dpdk_driver": "igb_uio", "dpdk_tool": "/path/to/dpdk/tools/dpdk-devbind.py"}}`)
}

// if0name is the last word on nothing: the pod's comes before it, and the
// cluster network's interface is the runtime's.
func TestIf0nameNamesTheInterface(t *testing.T) {
	const data0 = `{"type": "sriov", "if0": "ens1", "if0name": "data0"}`
	for _, test := range []struct {
		name, networks string
		nads           map[string]string
		want           string
	}{
		{"a NAD's", "a,b", map[string]string{"shop/a": data0, "shop/b": anyNAD}, "eth0=cluster* data0=shop/a net2=shop/b"},
		{"the pod's name comes before it", "a@data7", map[string]string{"shop/a": data0}, "eth0=cluster* data7=shop/a"},
		{"in a list of plugins", "a", map[string]string{"shop/a": `{"plugins": [{"type": "tuning", "if0name": "x"}, ` + data0 + `]}`}, "eth0=cluster* data0=shop/a"},
		{"another plugin's is its own", "a", map[string]string{"shop/a": `{"type": "macvlan", "if0name": "data0"}`}, "eth0=cluster* net1=shop/a"},
		{"an empty one", "a", map[string]string{"shop/a": `{"type": "sriov", "if0": "ens1", "if0name": ""}`}, "eth0=cluster* net1=shop/a"},
		{"names of others by position", "a@net2,b", map[string]string{"shop/a": anyNAD, "shop/b": data0}, "eth0=cluster* net2=shop/a data0=shop/b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkEqual(t, attachments(request{conf: settings(""), pod: podWith(test.networks), networks: test.nads}.mustPlan(t)), test.want)
		})
	}
	t.Run("the cluster network's is the runtime's", func(t *testing.T) {
		p := request{conf: `{"name": "node", "type": "plexus", "delegates": [` + data0 + `]}`}.mustPlan(t)
		checkEqual(t, attachments(p), "eth0=node-0*")
	})
	t.Run("alone it is the interface", func(t *testing.T) {
		p, err := conf.Standalone([]byte(`{"name": "n", "type": "sriov", "if0": "ens1", "if0name": "data0"}`), "net1", nil)
		checkError(t, err)
		checkEqual(t, attachments(p), "data0=n*")
	})
	for _, test := range []struct {
		name, networks, config string
		says                   []string
	}{
		{"twice the same network", "a,a", data0, []string{`"data0"`, "shop/a"}},
		{"the cluster network's name", "a", `{"type": "sriov", "if0": "ens1", "if0name": "eth0"}`, []string{`"eth0"`, "shop/a"}},
		{"a name that is none", "a", `{"type": "sriov", "if0": "ens1", "if0name": "../x"}`, []string{`"if0name"`, "../x"}},
		{"lo", "a", `{"type": "sriov", "if0": "ens1", "if0name": "lo"}`, []string{`"if0name"`, "reserved"}},
	} {
		t.Run("refuses "+test.name, func(t *testing.T) {
			_, _, err := request{conf: settings(""), pod: podWith(test.networks), networks: map[string]string{"shop/a": test.config}}.plan()
			checkError(t, err, test.says...)
		})
	}
}

// What the SR-IOV network operator writes, and what a pod asks of it.
func TestOperatorsNADs(t *testing.T) {
	const one = `{"cniVersion":"1.0.0","name":"test","type":"sriov","vlan":0,"vlanQoS":0,"capabilities":{"mac":true,"ips":true},"ipam":{}}`
	const list = `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"sriov","vlan":0,"vlanQoS":0,"ipam":{}},{"type":"vrf","vrfname":"blue"}]}`
	r := request{conf: settings(""), resource: "x.com/vf", networks: map[string]string{"shop/one": one, "shop/list": list},
		pod: podWith(`[{"name": "one", "mac": "CA:FE:C0:FF:EE:00", "ips": ["10.0.0.7/24"], "deviceID": "0000:03:02.1"}, {"name": "list", "interface": "blue0"}]`)}
	p := r.mustPlan(t)
	checkEqual(t, attachments(p), "eth0=cluster* net1=shop/one blue0=shop/list")
	checkEqual(t, p.Networks[1].CapabilityArgs, map[string]any{"mac": "CA:FE:C0:FF:EE:00", "ips": []string{"10.0.0.7/24"}, "deviceID": "0000:03:02.1"})
	checkEqual(t, p.Networks[2].List.Types(), []string{"sriov", "vrf"})
	checkJSON(t, p.Networks[2].List.Plugins[0], `{"type":"sriov","vlan":0,"vlanQoS":0,"ipam":{}}`)
}
