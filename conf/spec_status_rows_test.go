package conf_test

import (
	"encoding/json"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// statusTest holds results against section 5.
const statusTest = "status.TestStatusOfTheSpecification"

// statusRows are sections 5 to 8.
var statusRows = []requirement{
	{at: "5", says: "the annotation is k8s.v1.cni.cncf.io/network-status, a JSON list", test: "status.TestNetworkStatus", check: func(t *testing.T) {
		checkEqual(t, conf.NetworkStatusAnnotation, "k8s.v1.cni.cncf.io/network-status")
		checkJSON(t, asJSON(t, []conf.NetworkStatus{}), "[]")
	}},
	{at: "5", says: "each element is an object made of one attachment's result", check: statusHas(conf.NetworkStatus{Name: "a"}, `{"name": "a", "default": false, "dns": {}}`)},
	{at: "5.1", says: "it says what the result of its attachment says", test: statusTest},
	{at: "5.1.1", says: "it is about the first interface of the result that is in the pod", test: statusTest},
	{at: "5.1.1", says: "without a result there is a status all the same", test: statusTest},
	{at: "5.1.1", says: "all that the result says of it is in it", test: statusTest},
	{at: "5.1.1", says: "also what a result older than CNI 0.3.0 says", test: statusTest},
	{at: "5.2", says: "the cluster network has a status", test: "e2e/ovs.TestTwoPods"},
	{at: "5.2", says: "its default is true", check: statusHas(conf.NetworkStatus{Name: "a", Default: true}, `{"name": "a", "default": true, "dns": {}}`)},
	{at: "5.3", says: "keys beyond the specification's have a domain in them", differs: statusKeys},
	{at: "5.3.1", says: "name is that of the NAD or of the cluster network", check: plansNames},
	{at: "5.3.1", says: "with the NAD's namespace", check: plansNames},
	{at: "5.3.2", says: "interface is the name in the pod", test: statusTest},
	{at: "5.3.2.1", says: "that of the first interface in the pod", test: statusTest},
	{at: "5.3.3", says: "ips are the attachment's addresses", test: statusTest},
	{at: "5.3.3.1", says: "those of the result, if they are on that interface or on none", test: statusTest},
	{at: "5.3.3.1", says: "else there are none", test: statusTest, differs: statusKeys},
	{at: "5.3.3.1", says: "those whose number is that of the first interface in the pod", test: statusTest},
	{at: "5.3.3.1", says: "where no interface is in the pod, those without a number or with a negative one", test: statusTest},
	{at: "5.3.3.1", says: "of an older result ip4 and ip6", test: statusTest},
	{at: "5.3.4", says: "mac is that of the interface", test: statusTest},
	{at: "5.3.4", says: "beside mac there is interface", test: statusTest},
	{at: "5.3.4.1", says: "that of the first interface in the pod", test: statusTest},
	{at: "5.3.5", says: "default is always there, true for the cluster network alone", test: statusTest, check: func(t *testing.T) {
		p := asked("a,b,a", anyNAD).mustPlan(t)
		for i, n := range p.Networks {
			checkEqual(t, n.Default, i == 0)
		}
		checkJSON(t, asJSON(t, conf.NetworkStatus{Name: "a"}), `{"name": "a", "default": false, "dns": {}}`)
	}},
	{at: "5.3.6", says: "dns is what the result says of it", test: statusTest},
	{at: "5.3.6.1", says: "nameservers are a list of addresses", check: dns(conf.DNS{Nameservers: []string{"192.0.2.53", "2001:db8::53"}}, `{"nameservers": ["192.0.2.53", "2001:db8::53"]}`)},
	{at: "5.3.6.2", says: "domain is a text", check: dns(conf.DNS{Domain: "example.com"}, `{"domain": "example.com"}`)},
	{at: "5.3.6.3", says: "search is a list of names", check: dns(conf.DNS{Search: []string{"a.example.com", "example.com"}}, `{"search": ["a.example.com", "example.com"]}`)},
	{at: "5.3.6.4", says: "default-route are the gateways of a network that was asked for the default route", test: statusTest},
	{at: "5.3.7", says: "device-info is what is known of the device", test: "e2e/vpp.TestMemifDeviceInfo"},
	{at: "5.3.7", says: "with the keys of the device-information specification", check: deviceInfos},

	{at: "6", says: "every pod is attached to the cluster network", check: func(t *testing.T) {
		for _, pod := range []*conf.Pod{nil, podOf(), podWith("a")} {
			p := request{conf: settings(""), pod: pod, networks: nads("shop/a")}.mustPlan(t)
			checkEqual(t, p.Networks[0].Name, "cluster")
		}
		_, _, err := request{conf: `{"name": "node", "type": "plexus"}`}.plan()
		checkError(t, err, "no cluster network")
	}},
	{at: "6.1", says: "the configuration is installed when the cluster network is ready", differs: installation},
	{at: "6.1.1", says: "that is when the cluster network has written its own", differs: installation},
	{at: "6.1.2", says: "else attaching and detaching wait for the cluster network", test: "e2e/core.TestStatus", differs: installation},
	{at: "6.2", says: "the cluster network is attached first", check: func(t *testing.T) {
		r := request{conf: `{"name": "node", "type": "plexus", "delegates": [{"type": "a", "name": "one"}, {"type": "b", "name": "two", "masterplugin": true}], "defaultNetworks": ["side"]}`,
			pod: podWith("a"), networks: nads("shop/a", "kube-system/side")}
		checkEqual(t, attachments(r.mustPlan(t)), "eth0=two* net1=one net2=kube-system/side net3=shop/a")
	}},

	{at: "7.1", says: "lists are run as CNI says, by libcni", test: "e2e/core.TestMixedLists"},
	{at: "7.2", says: "a network that fails fails the pod at once", test: "e2e/faults.TestAddFailsAtEveryStep"},
	{at: "7.2", says: "those after it are not attempted", test: "e2e/faults.TestAddFailsAtEveryStep", differs: inParallel},
	{at: "7.2", says: "all that was attempted is torn down; one that fails keeps none of the others", test: "e2e/core.TestDelOfAChain"},
	{at: "7.2", says: "and the runtime is told", test: "e2e/core.TestDelOfAChain"},
	{at: "7.3", says: "one pod's networks are not attached at the same time", test: "journal.TestLockIsExclusive", differs: inParallel},
	{at: "7.4", says: "a network that the pod may not use fails it", check: func(t *testing.T) {
		_, _, err := request{conf: settings(`"namespaceIsolation": true`), pod: podWith("lab/a"), networks: nads("lab/a")}.plan()
		checkError(t, err, "lab", "namespaceIsolation")
	}},
	{at: "7.5", says: "runtimeConfig is for the cluster network alone", test: "conf.TestRuntimeConfigIsForNetworksThatDeclareIt", differs: ofTheRuntime},

	{at: "8.3.2", says: "an IPAMClaim says whose it is", differs: notOurs},
	{at: "8.3.2", says: "a controller keeps it while its pod goes", differs: notOurs},
}

func plansNames(t *testing.T) {
	p := request{conf: settings(""), pod: podWith("a,lab/a"), networks: map[string]string{"shop/a": `{"name": "other", "type": "x"}`, "lab/a": anyNAD}}.mustPlan(t)
	checkEqual(t, attachments(p), "eth0=cluster* net1=shop/a net2=lab/a")
}

func dns(d conf.DNS, want string) func(t *testing.T) {
	return func(t *testing.T) { checkJSON(t, asJSON(t, conf.NetworkStatus{DNS: d}.DNS), want) }
}

// deviceInfos wants the keys of the device-information specification 1.1.0 and
// those that docs/differences.md names.
func deviceInfos(t *testing.T) {
	known := map[string][]string{
		conf.DevicePCI:       {"pci-address", "vhost-net", "rdma-device", "pf-pci-address", "representor-device", "iommu-group", "device-node"},
		conf.DeviceVDPA:      {"parent-device", "driver", "path", "pci-address", "pf-pci-address", "representor-device"},
		conf.DeviceVhostUser: {"mode", "path"},
		conf.DeviceMemif:     {"role", "path", "mode"},
	}
	full := conf.DeviceInfo{Version: conf.DeviceInfoVersion,
		PCI:       &conf.PCIDevice{Address: "x", VhostNet: "x", RDMADevice: "x", PFAddress: "x", Representor: "x", IOMMUGroup: "x", DeviceNode: "x"},
		VDPA:      &conf.VDPADevice{Parent: "x", Driver: "x", Path: "x", PCIAddress: "x", PFAddress: "x", Representor: "x"},
		VhostUser: &conf.VhostDevice{Mode: "x", Path: "x"},
		Memif:     &conf.MemifDevice{Role: "x", Path: "x", Mode: "x"},
	}
	var written map[string]json.RawMessage
	if err := json.Unmarshal(asJSON(t, full), &written); err != nil {
		t.Fatal(err)
	}
	for typ, keys := range known {
		want := map[string]string{}
		for _, key := range keys {
			want[key] = "x"
		}
		checkJSON(t, written[typ], string(asJSON(t, want)))
	}
	checkEqual(t, string(written["version"]), `"1.1.0"`)
}
