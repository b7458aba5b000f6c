package sriov

import (
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

const testDevice = `"deviceID": "0000:03:02.3"`

// parseText parses a whole configuration, and resolves it with CNI_ARGS for Prepare.
func parseText(t testing.TB, text, args string) (*spec, []string, error) {
	t.Helper()
	parsed, err := conf.ParseArgs(args)
	if err != nil {
		t.Fatal(err)
	}
	n, warnings, err := New(logTo(t)).Parse("default/fast", []byte(text))
	if err != nil {
		return nil, nil, err
	}
	s, err := n.(*network).specToReserve(parsed)
	return s, warnings, err
}

// parseKeys parses keys beside a device.
func parseKeys(t testing.TB, keys string) (*spec, []string, error) {
	t.Helper()
	return parseText(t, "{"+testDevice+", "+keys+"}", "")
}

func mustParse(t testing.TB, text, args string) *spec {
	t.Helper()
	w, warnings, err := parseText(t, text, args)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%s: %v, warnings %q", text, err, warnings)
	}
	return w
}

func hw(t testing.TB, text string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(text)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// sameSpec compares what is asked for.
func sameSpec(t testing.TB, got, expected *spec) {
	t.Helper()
	if d := cmp.Diff(expected, got, cmp.AllowUnexported(spec{}, vfInfo{})); d != "" {
		t.Errorf("asked for is (-want +got)\n%s", d)
	}
}

func TestParseDefaults(t *testing.T) {
	sameSpec(t, mustParse(t, "{"+testDevice+"}", ""), &spec{device: "0000:03:02.3", vf: -1})
}

func TestParseEveryKey(t *testing.T) {
	text := `{"cniVersion": "1.1.0", "name": "n", "type": "sriov", "ipam": {}, "dns": {}, "capabilities": {"mac": true}, "prevResult": {}, "cni.dev/x": 1,
		"deviceID": "0000:03:02.3", "pciBusID": "0000:03:02.3", "pf": ["eth1", "0000:03:00.0"], "vf": 65535, "pfOnly": false, "allowInUse": true,
		"vlan": 4094, "vlanQoS": 7, "vlanProto": "802.1AD", "mac": "02:00:00:00:00:01", "spoofchk": "off", "trust": "on", "link_state": "disable",
		"min_tx_rate": 1, "max_tx_rate": 2147483647, "mtu": 9000, "driver": "kernel", "promiscuous": true, "allMulti": true,
		"baseline": {"vlan": 1, "vlanQoS": 2, "vlanProto": "802.1q", "mac": "02:00:00:00:00:02", "spoofchk": "on", "trust": "off", "link_state": "enable", "min_tx_rate": 0, "max_tx_rate": 5},
		"master": "eth2", "if0": "eth3", "if0name": "net0", "l2enable": true, "cniDir": "/x", "logFile": "/y", "logLevel": "debug", "vfid": 3,
		"runtimeConfig": {"infinibandGUID": "00:11:22:33:44:55:66:77", "ips": ["x"]}}`
	w := mustParse(t, text, "")
	sameSpec(t, w, &spec{
		device: "0000:03:02.3", pfs: []string{"eth1", "0000:03:00.0", "eth2", "eth3"}, vf: 65535, allowInUse: true,
		settings: settings{VLAN: &vlanTag{4094, 7, proto8021ad}, SpoofChk: new(false), Trust: new(true), LinkState: new(uint32(2)), MinRate: new(uint32(1)), MaxRate: new(uint32(1<<31 - 1))},
		mac:      hw(t, "02:00:00:00:00:01"), guid: hw(t, "00:11:22:33:44:55:66:77"), mtu: 9000, driver: driverKernel, l2: true, promisc: true, allMulti: true,
		baseline: vfInfo{
			settings{VLAN: &vlanTag{1, 2, proto8021q}, SpoofChk: new(true), Trust: new(false), LinkState: new(uint32(1)), MinRate: new(uint32(0)), MaxRate: new(uint32(5))},
			hw(t, "02:00:00:00:00:02"),
		},
	})
	var named map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &named); err != nil {
		t.Fatal(err)
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		key := field.Tag.Get("json")
		if _, ok := named[key]; !ok && !field.Anonymous && key != "dpdk" { // beside driver it is an error, see TestParseDriver
			t.Errorf("key %q is not in this test", key)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	for _, keys := range []string{
		`"vlan": 0`, `"vlan": 1`, `"vlan": 4094`, `"vlan": 0, "vlanQoS": 0`, `"vlan": 0, "vlanQoS": 0, "vlanProto": "802.1q"`,
		`"vlan": 1, "vlanQoS": 0`, `"vlan": 1, "vlanQoS": 7`, `"vlan": 1, "vlanProto": "802.1Q"`, `"vlan": 1, "vlanProto": "802.1ad"`, `"vlan": 1, "vlanProto": "802.1AD"`,
		`"vlan": null`, `"vlan": null, "vlanQoS": null`, `"vlan": 1, "vlanProto": ""`, `"vlanProto": ""`,
		`"spoofchk": "on"`, `"spoofchk": "off"`, `"spoofchk": ""`, `"trust": "on"`, `"trust": "off"`, `"trust": ""`,
		`"link_state": "auto"`, `"link_state": "enable"`, `"link_state": "disable"`, `"link_state": ""`,
		`"min_tx_rate": 0`, `"max_tx_rate": 0`, `"min_tx_rate": 100, "max_tx_rate": 100`, `"min_tx_rate": 100, "max_tx_rate": 0`, `"min_tx_rate": 2147483647`,
		`"mtu": 0`, `"mtu": 68`, `"mtu": 65535`, `"MTU": 1500`, `"mac": ""`, `"mac": "02-00-00-00-00-01"`, `"mac": "0200.0000.0001"`, `"mac": "CA:FE:C0:FF:EE:00"`, `"MAC": "02:00:00:00:00:01"`,
		`"vf": 0`, `"vf": 65535`, `"vf": null`, `"pf": "eth1"`, `"pf": "eth1,eth2"`, `"pf": "eth1, eth2"`, `"pf": []`, `"pf": ["0000:03:00.0"]`, `"pf": "00010000:03:00.7"`,
		`"master": ""`, `"if0": ""`, `"if0name": ""`, `"if0name": "fifteen-letters"`, `"cniDir": "x"`, `"dpdk": null`, `"baseline": null`, `"baseline": {}`,
		`"driver": ""`, `"driver": "kernel"`, `"driver": "vfio-pci"`, `"driver": "uio_pci_generic"`, `"driver": "igb_uio"`,
		`"pfOnly": true`, `"pfOnly": true, "vlan": 0, "vlanQoS": 0`, `"pfOnly": true, "mac": "02:00:00:00:00:01", "mtu": 1400, "promiscuous": true`, `"pfOnly": true, "driver": "vfio-pci"`,
		`"runtimeConfig": {}`, `"runtimeConfig": null`, `"runtimeConfig": {"mac": null}`, `"runtimeConfig": {"infinibandGUID": "ff:ff:ff:ff:ff:ff:ff:ff"}`,
		`"runtimeConfig": {"bandwidth": {}, "portMappings": [], "CNIDeviceInfoFile": "/x", "anything": 1}`, `"args": {"cni": {"guid": "x"}}`,
	} {
		if _, warnings, err := parseKeys(t, keys); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", keys, err, warnings)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct {
		keys string
		says []string
	}{
		{`"vlan": -1`, []string{`"vlan"`, "-1", "0 to 4094"}},
		{`"vlan": 4095`, []string{`"vlan"`, "4095", "0 to 4094"}},
		{`"vlan": "7"`, []string{"vlan", "number", "string"}},
		{`"vlan": 1.5`, []string{"vlan", "number"}},
		{`"vlan": [1]`, []string{"vlan", "number"}},
		{`"vlanQoS": 0`, []string{`"vlanQoS"`, `needs "vlan"`}},
		{`"vlanQoS": 3`, []string{`"vlanQoS"`, `needs "vlan"`}},
		{`"vlanProto": "802.1q"`, []string{`"vlanProto"`, `needs "vlan"`}},
		{`"vlan": 1, "vlanQoS": 8`, []string{`"vlanQoS"`, "8", "0 to 7"}},
		{`"vlan": 1, "vlanQoS": -1`, []string{`"vlanQoS"`, "-1", "0 to 7"}},
		{`"vlan": 0, "vlanQoS": 1`, []string{`"vlanQoS"`, "vlan 0 is no VLAN"}},
		{`"vlan": 0, "vlanProto": "802.1ad"`, []string{`"vlanProto"`, "vlan 0 is no VLAN"}},
		{`"vlan": 1, "vlanProto": "802.1x"`, []string{`"vlanProto"`, "802.1x", "802.1q, 802.1ad"}},
		{`"vlan": 1, "vlanProto": 8021}`, []string{"vlanProto", "string"}},
		{`"spoofchk": "yes"`, []string{`"spoofchk"`, "yes", "on, off"}},
		{`"spoofchk": "On"`, []string{`"spoofchk"`, "On", "on, off"}},
		{`"spoofchk": true`, []string{"spoofchk", "string"}},
		{`"trust": "true"`, []string{`"trust"`, "true", "on, off"}},
		{`"trust": " on"`, []string{`"trust"`}},
		{`"link_state": "up"`, []string{`"link_state"`, "up", "auto, enable, disable"}},
		{`"link_state": "Auto"`, []string{`"link_state"`, "auto, enable, disable"}},
		{`"min_tx_rate": -1`, []string{`"min_tx_rate"`, "-1", "2147483647"}},
		{`"max_tx_rate": -1`, []string{`"max_tx_rate"`, "-1"}},
		{`"max_tx_rate": 2147483648`, []string{`"max_tx_rate"`, "2147483648"}},
		{`"min_tx_rate": 101, "max_tx_rate": 100`, []string{`"min_tx_rate"`, "101", "max_tx_rate 100"}},
		{`"mtu": 67`, []string{`"mtu"`, "67", "68 to 65535"}},
		{`"mtu": 65536`, []string{`"mtu"`, "65536", "68 to 65535"}},
		{`"mtu": -1`, []string{`"mtu"`, "-1"}},
		{`"mac": "x"`, []string{`"mac"`, "6 bytes"}},
		{`"mac": "01:00:00:00:00:01"`, []string{`"mac"`, "multicast"}},
		{`"mac": "ff:ff:ff:ff:ff:ff"`, []string{`"mac"`, "multicast"}},
		{`"mac": "00:00:00:00:00:00"`, []string{`"mac"`, "00:00:00:00:00:00"}},
		{`"mac": "02:00:00:00:00:00:00:01"`, []string{`"mac"`, "6 bytes"}},
		{`"runtimeConfig": {"mac": "x"}`, []string{`"runtimeConfig.mac"`}},
		{`"runtimeConfig": {"infinibandGUID": "x"}`, []string{`"runtimeConfig.infinibandGUID"`, "8 bytes"}},
		{`"runtimeConfig": {"infinibandGUID": "02:00:00:00:00:01"}`, []string{`"runtimeConfig.infinibandGUID"`, "8 bytes"}},
		{`"runtimeConfig": {"infinibandGUID": "00:00:00:00:00:00:00:00"}`, []string{`"runtimeConfig.infinibandGUID"`, "not all zero"}},
		{`"vf": -1`, []string{`"vf"`, "-1", "0 to 65535"}},
		{`"vf": 65536`, []string{`"vf"`, "65536"}},
		{`"pf": "../eth0"`, []string{`"pf"`, "../eth0"}},
		{`"pf": "sixteen-letters-"`, []string{`"pf"`, "sixteen-letters-"}},
		{`"pf": ["eth0", ""]`, []string{`"pf"`}},
		{`"pf": ["lo"]`, []string{`"pf"`, "lo"}},
		{`"pf": [7]`, []string{`"pf"`}},
		{`"master": "a/b"`, []string{`"master"`, "a/b"}},
		{`"if0": "a b"`, []string{`"if0"`, "a b"}},
		{`"if0name": "sixteen-letters-"`, []string{`"if0name"`, "16 bytes"}},
		{`"if0name": "lo"`, []string{`"if0name"`, "lo"}},
		{`"if0name": "../x"`, []string{`"if0name"`}},
		{`"driver": "ixgbevf"`, []string{`"driver"`, "ixgbevf", "kernel, vfio-pci, uio_pci_generic, igb_uio"}},
		{`"driver": "../x"`, []string{`"driver"`}},
		{`"driver": "Kernel"`, []string{`"driver"`}},
		{`"driver": "vfio-pci", "promiscuous": true`, []string{"promiscuous", "vfio-pci"}},
		{`"driver": "vfio-pci", "allMulti": true`, []string{"allMulti", "vfio-pci"}},
		{`"driver": "vfio-pci", "dpdk": {"dpdk_driver": "igb_uio"}`, []string{`"driver"`, "dpdk"}},
		{`"dpdk": {"dpdk_driver": "ixgbevf"}`, []string{`"dpdk.dpdk_driver"`, "ixgbevf", "igb_uio"}},
		{`"dpdk": {"dpdk_driver": "kernel"}`, []string{`"dpdk.dpdk_driver"`}},
		{`"dpdk": {"kernel_driver": "ixgbevf"}`, []string{`"dpdk.dpdk_driver"`, "igb_uio"}},
		{`"dpdk": {"dpdk_driver": "igb_uio"}, "promiscuous": true`, []string{"promiscuous", "igb_uio"}},
		{`"pfOnly": true, "vlan": 7`, []string{`"pfOnly"`, "vlan"}},
		{`"pfOnly": true, "trust": "on"`, []string{`"pfOnly"`, "trust"}},
		{`"pfOnly": true, "vf": 0`, []string{`"pfOnly"`, "vf"}},
		{`"pfOnly": true, "baseline": {}`, []string{`"pfOnly"`, "baseline"}},
		{`"pfOnly": true, "runtimeConfig": {"infinibandGUID": "00:11:22:33:44:55:66:77"}`, []string{`"pfOnly"`}},
		{`"pfOnly": "yes"`, []string{"pfOnly", "true or false"}},
		{`"l2enable": "true"`, []string{"l2enable", "true or false"}},
		{`"baseline": {"vlan": 4095}`, []string{`"baseline.vlan"`, "4094"}},
		{`"baseline": {"vlanQoS": 1}`, []string{`"baseline.vlanQoS"`, `needs "vlan"`}},
		{`"baseline": {"vlanProto": "802.1q"}`, []string{`"baseline.vlanProto"`}},
		{`"baseline": {"mac": "01:00:00:00:00:00"}`, []string{`"baseline.mac"`, "multicast"}},
		{`"baseline": {"spoofchk": "maybe"}`, []string{`"baseline.spoofchk"`, "on, off"}},
		{`"baseline": {"trust": "maybe"}`, []string{`"baseline.trust"`, "on, off"}},
		{`"baseline": {"link_state": "up"}`, []string{`"baseline.link_state"`, "auto"}},
		{`"baseline": {"min_tx_rate": 2, "max_tx_rate": 1}`, []string{`"baseline.min_tx_rate"`, "max_tx_rate 1"}},
		{`"baseline": {"max_tx_rate": -1}`, []string{`"baseline.max_tx_rate"`}},
		{`"baseline": {"mtu": 1500}, "mtux": 1`, []string{"mtux", "mtu"}},
		{`"vlan": 9999, "trust": "x", "mtu": 1, "mac": "y"`, []string{`"vlan"`, `"trust"`, `"mtu"`, `"mac"`}},
		{`"vlan"`, []string{"invalid JSON"}},
	} {
		_, _, err := parseKeys(t, c.keys)
		if err == nil {
			t.Errorf("%s is accepted", c.keys)
			continue
		}
		wantError(t, err, append(c.says, "default/fast")...)
	}
}

// A key that is one slip away from one that there is, at any depth.
func TestParseSlips(t *testing.T) {
	for slip, meant := range map[string]string{
		"vlna": "vlan", "vlanQS": "vlanQoS", "vlanQoSs": "vlanQoS", "vlan_proto": "vlanProto", "spoofchck": "spoofchk", "spofchk": "spoofchk", "trsut": "trust",
		"linkstate": "link_state", "link-state": "link_state", "min_tx_rat": "min_tx_rate", "max-tx_rate": "max_tx_rate", "deviceIDs": "deviceID", "pciBusI": "pciBusID",
		"mca": "mac", "mttu": "mtu", "drive": "driver", "promiscous": "promiscuous", "allmult": "allMulti", "base_line": "baseline", "masters": "master",
		"if1": "if0", "if0names": "if0name", "l2enabled": "l2enable", "dpkd": "dpdk", "pfonli": "pfOnly", "logfiles": "logFile", "loglevle": "logLevel", "runtimConfig": "runtimeConfig",
	} {
		_, _, err := parseKeys(t, fmt.Sprintf("%q: 1", slip))
		wantError(t, err, fmt.Sprintf("%q is one slip away from %q", slip, meant))
	}
	for keys, says := range map[string]string{
		`"baseline": {"vlanQs": 1}`:                             `"baseline.vlanQs" is one slip away from "baseline.vlanQoS"`,
		`"dpdk": {"dpdk_driver": "igb_uio", "dpdk_tools": "x"}`: `"dpdk.dpdk_tools" is one slip away from "dpdk.dpdk_tool"`,
	} {
		_, _, err := parseKeys(t, keys)
		wantError(t, err, says)
	}
}

// Keys that peers have, or had, and that say nothing here.
func TestParseWarns(t *testing.T) {
	for _, key := range []string{
		"resourceName", "kubeconfig", "all_multicast", "deviceinfo", "DPDKMode", "Sharedvf", "OrigVfState", "pkey", "guid", "rdmaIsolation", "ibKubernetesEnabled",
		"vfioPciMode", "spoof_check", "minTxRate", "vlanTrunk", "logging", "x", "numVfs",
	} {
		_, warnings, err := parseKeys(t, fmt.Sprintf("%q: {}", key))
		if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], fmt.Sprintf("%q", key)) || !strings.Contains(warnings[0], "default/fast") {
			t.Errorf("%s: %v, warnings %q, want one", key, err, warnings)
		}
	}
}

func TestParseMAC(t *testing.T) {
	const runtime, own = `"runtimeConfig": {"mac": "02:00:00:00:00:03"}`, `"mac": "02:00:00:00:00:01"`
	const arg = "IgnoreUnknown=1;MAC=02:00:00:00:00:02"
	for _, c := range []struct{ keys, args, mac string }{
		{runtime + ", " + own, arg, "02:00:00:00:00:03"},
		{runtime, "", "02:00:00:00:00:03"},
		{own, arg, "02:00:00:00:00:02"},
		{`"vf": 1`, arg, "02:00:00:00:00:02"},
		{own, "", "02:00:00:00:00:01"},
		{own, "mac=02:00:00:00:00:02", "02:00:00:00:00:01"}, // CNI_ARGS are case-sensitive
		{own, "MAC=", "02:00:00:00:00:01"},
		{own, "MAC=02:00:00:00:00:04;MAC=02:00:00:00:00:05", "02:00:00:00:00:05"},
		{`"mac": "CA-FE-C0-FF-EE-00"`, "", "ca:fe:c0:ff:ee:00"},
		{`"args": {"cni": {"mac": "02:00:00:00:00:09"}}`, "", ""}, // nor does sriov-cni read it
		{`"vf": 1`, "", ""},
	} {
		w, _, err := parseText(t, "{"+testDevice+", "+c.keys+"}", c.args)
		if err != nil || w.mac.String() != c.mac {
			t.Errorf("%s with %q: %v, %v, want %s", c.keys, c.args, w.mac, err, c.mac)
		}
	}
	_, _, err := parseText(t, "{"+testDevice+"}", "MAC=03:00:00:00:00:01")
	wantError(t, err, `"CNI_ARGS MAC"`, "03:00:00:00:00:01", "multicast")
}

func TestParseDevice(t *testing.T) {
	for _, c := range []struct {
		text, device string
		says         []string // of the error
	}{
		{`{"deviceID": "0000:03:02.3"}`, "0000:03:02.3", nil},
		{`{"pciBusID": "0000:03:02.3"}`, "0000:03:02.3", nil},
		{`{"runtimeConfig": {"deviceID": "0000:03:02.3"}}`, "0000:03:02.3", nil},
		{`{"deviceID": "0000:AF:02.3", "pciBusID": "0000:af:02.3", "runtimeConfig": {"deviceID": "0000:Af:02.3"}}`, "0000:af:02.3", nil},
		{`{"deviceID": "10000:e1:00.0"}`, "10000:e1:00.0", nil}, // Intel VMD
		{`{"deviceID": "", "pciBusID": "0000:03:02.3"}`, "0000:03:02.3", nil},
		{`{"deviceID": "0000:03:02.3", "master": "eth1", "vf": 7}`, "0000:03:02.3", nil},
		{`{"deviceID": "0000:03:02.3", "pciBusID": "0000:03:02.4"}`, "", []string{`"pciBusID"`, "0000:03:02.4", "0000:03:02.3"}},
		{`{"deviceID": "0000:03:02.3", "runtimeConfig": {"deviceID": "0000:03:02.4"}}`, "", []string{`"runtimeConfig.deviceID"`, "0000:03:02.4", "0000:03:02.3"}},
		{`{"pciBusID": "0000:03:02.3", "runtimeConfig": {"deviceID": "0000:03:02.4"}}`, "", []string{`"runtimeConfig.deviceID"`}},
		{`{"deviceID": "03:02.3"}`, "", []string{`"deviceID"`, "03:02.3", "0000:03:02.3"}},
		{`{"deviceID": "0000:03:02.8"}`, "", []string{`"deviceID"`}},
		{`{"deviceID": "0000:03:02.3/../x"}`, "", []string{`"deviceID"`}},
		{`{"deviceID": "0000:03:02.3\n"}`, "", []string{`"deviceID"`}},
		{`{"deviceID": "eth1"}`, "", []string{`"deviceID"`, "eth1", "PCI address"}},
		{`{"deviceID": "mlx5_core.sf.4"}`, "", []string{`"deviceID"`, "PCI address"}},
		{`{"pciBusID": "x"}`, "", []string{`"pciBusID"`}},
		{`{"runtimeConfig": {"deviceID": "x"}}`, "", []string{`"runtimeConfig.deviceID"`}},
		{`{"deviceID": 3}`, "", []string{"deviceID", "string"}},
		{`{}`, "", []string{`"deviceID"`, "k8s.v1.cni.cncf.io/resourceName", `"pf"`}},
		{`{"vf": 3, "vlan": 7}`, "", []string{`"deviceID"`, "resourceName"}},
		{`[]`, "", []string{"object"}},
		{`null`, "", []string{"object"}},
		{``, "", []string{"invalid JSON"}},
	} {
		w, _, err := parseText(t, c.text, "")
		if c.says != nil {
			wantError(t, err, append(c.says, "default/fast")...)
		} else if err != nil || w.device != c.device {
			t.Errorf("%s: device %v, %v, want %s", c.text, w, err, c.device)
		}
	}
}

func TestParsePFs(t *testing.T) {
	for _, c := range []struct {
		keys, args string
		pfs        []string
		vf         int
	}{
		{`"pf": "eth1"`, "", []string{"eth1"}, -1},
		{`"pf": "eth1, eth2 ,eth1"`, "", []string{"eth1", "eth2"}, -1},
		{`"pf": ["eth2", "0000:03:00.1"], "vf": 0`, "", []string{"eth2", "0000:03:00.1"}, 0},
		{`"master": "eth1", "vf": 3`, "", []string{"eth1"}, 3},
		{`"if0": "eth1"`, "IgnoreUnknown=1;VF=2", []string{"eth1"}, 2},
		{`"master": "eth1", "vf": 3`, "VF=2", []string{"eth1"}, 2},
		{`"master": "eth1"`, "VF=65535", []string{"eth1"}, 65535},
		{`"master": "eth1"`, "vf=2;VF=", []string{"eth1"}, 2},
		{`"pf": "eth1", "master": "eth1", "if0": "eth1"`, "", []string{"eth1"}, -1},
		{`"pfOnly": true, "master": "eth1"`, "", []string{"eth1"}, -1},
	} {
		w := mustParse(t, "{"+c.keys+"}", c.args)
		if d := cmp.Diff(c.pfs, w.pfs); d != "" || w.vf != c.vf {
			t.Errorf("%s with %q: VF %d, want %d\n%s", c.keys, c.args, w.vf, c.vf, d)
		}
	}
	for _, c := range []struct {
		keys, args string
		says       []string
	}{
		{`"master": "eth1"`, "VF=x", []string{`"CNI_ARGS VF"`, `"x"`, "0 to 65535"}},
		{`"master": "eth1"`, "VF=-1", []string{`"CNI_ARGS VF"`}},
		{`"master": "eth1"`, "VF=65536", []string{`"CNI_ARGS VF"`}},
		{`"pfOnly": true, "pf": "eth1,eth2"`, "", []string{`"pfOnly"`, "there are 2"}},
		{`"pfOnly": true, "master": "eth1"`, "VF=1", []string{`"pfOnly"`, "vf"}},
	} {
		_, _, err := parseText(t, "{"+c.keys+"}", c.args)
		wantError(t, err, c.says...)
	}
}

func TestParseDriver(t *testing.T) {
	for keys, driver := range map[string]string{
		`"driver": "vfio-pci"`: "vfio-pci", `"driver": "kernel"`: "kernel", `"vf": 1`: "",
		`"dpdk": {"kernel_driver": "ixgbevf", "dpdk_driver": "igb_uio", "dpdk_tool": "/opt/dpdk-devbind.py"}`: "igb_uio",
		`"dpdk": {"dpdk_driver": "uio_pci_generic"}`:                                                          "uio_pci_generic",
	} {
		w, warnings, err := parseKeys(t, keys)
		if err != nil || len(warnings) > 0 || w.driver != driver {
			t.Errorf("%s: %+v, %v, warnings %q, want driver %q", keys, w, err, warnings, driver)
		}
	}
	for _, c := range []struct {
		asked, has string
		kernel     bool
	}{{"", "ixgbevf", true}, {"", "", true}, {"", "vfio-pci", false}, {"", "mlx5_core", true}, {"kernel", "vfio-pci", true}, {"vfio-pci", "ixgbevf", false}} {
		if got := (&spec{driver: c.asked}).kernel(c.has); got != c.kernel {
			t.Errorf("asked for %q, has %q: kernel %t", c.asked, c.has, got)
		}
	}
}

// Configurations as they stand in the documents and generators of the plugins
// that had this place, and what they mean here.
func TestParsePeers(t *testing.T) {
	const ipam = `"ipam": {"type": "host-local", "subnet": "10.56.217.0/24", "routes": [{"dst": "0.0.0.0/0"}], "gateway": "10.56.217.1"}`
	const multus = `, "deviceID": "0000:03:02.3", "pciBusID": "0000:03:02.3"}` // as Multus hands it on
	device := func(w spec) spec {
		w.device, w.vf = "0000:03:02.3", -1
		return w
	}
	tag := func(id uint32) settings { return settings{VLAN: &vlanTag{ID: id, Proto: proto8021q}} }
	for _, c := range []struct {
		name, text, args string
		means            spec
	}{
		{"sriov-cni README, kernel", `{"type": "sriov", "cniVersion": "0.3.1", "name": "sriov-network", ` + ipam + multus, "", device(spec{})},
		{"sriov-cni README, extended", `{"cniVersion": "0.3.1", "name": "sriov-advanced", "type": "sriov", "vlan": 1000, "spoofchk": "off", "trust": "on", ` + ipam + multus, "",
			device(spec{settings: settings{VLAN: tag(1000).VLAN, SpoofChk: new(false), Trust: new(true)}})},
		{"sriov-cni README, DPDK", `{"cniVersion": "0.3.1", "name": "sriov-dpdk", "type": "sriov", "vlan": 1000` + multus, "", device(spec{settings: tag(1000)})},
		{"sriov-cni reference", `{"cniVersion": "0.3.1", "name": "sriov-dpdk", "type": "sriov", "deviceID": "0000:03:02.0", "mac": "CA:FE:C0:FF:EE:00", "vlan": 1000, "vlanQoS": 4,
			"vlanProto": "802.1ad", "min_tx_rate": 100, "max_tx_rate": 200, "spoofchk": "off", "trust": "on", "link_state": "enable", "logLevel": "debug", "logFile": "/tmp/sriov.log"}`, "",
			spec{device: "0000:03:02.0", vf: -1, mac: hw(t, "ca:fe:c0:ff:ee:00"), settings: settings{VLAN: &vlanTag{1000, 4, proto8021ad}, SpoofChk: new(false), Trust: new(true),
				LinkState: new(uint32(1)), MinRate: new(uint32(100)), MaxRate: new(uint32(200))}}},
		{"sriov-cni, a pod's mac", `{"type": "sriov", "name": "sriov-net", "capabilities": {"mac": true}, "runtimeConfig": {"mac": "CA:FE:C0:FF:EE:00"}` + multus, "",
			device(spec{mac: hw(t, "ca:fe:c0:ff:ee:00")})},
		{"operator, the least", `{"cniVersion":"1.0.0","name":"test","type":"sriov","vlan":0,"vlanQoS":0,"ipam":{}` + multus, "", device(spec{settings: tag(0)})},
		{"operator, everything", `{"cniVersion":"1.0.0","name":"test","type":"sriov","vlan":100,"spoofchk":"on","trust":"off","vlanQoS":5,"vlanProto":"802.1Q","capabilities":{"mac":true,"ips":true},
			"link_state":"auto","min_tx_rate":10,"max_tx_rate":100,"logLevel":"info","logFile":"/x","ipam":{"type":"host-local"}` + multus, "",
			device(spec{settings: settings{VLAN: &vlanTag{100, 5, proto8021q}, SpoofChk: new(true), Trust: new(false), LinkState: new(uint32(0)), MinRate: new(uint32(10)), MaxRate: new(uint32(100))}})},
		{"operator, old", `{"cniVersion":"0.3.1","name":"sriov-net","type":"sriov","spoofchk":"off","trust":"on","vlan":0,"ipam":{"type":"dhcp"}` + multus, "",
			device(spec{settings: settings{VLAN: tag(0).VLAN, SpoofChk: new(false), Trust: new(true)}})},
		{"hustcat README", `{"name": "mynet", "type": "sriov", "master": "eth1", "ipam": {"type": "fixipam", "subnet": "10.55.206.0/26", "gateway": "10.55.206.1"}}`,
			"IgnoreUnknown=1;IP=10.55.206.46;VF=1;MAC=66:d8:02:77:aa:aa", spec{pfs: []string{"eth1"}, vf: 1, mac: hw(t, "66:d8:02:77:aa:aa")}},
		{"hustcat README, a whole PF", `{"name": "mynet", "type": "sriov", "master": "eth1", "pfOnly": true, "ipam": {"type": "fixipam", "subnet": "10.55.206.0/26"}}`,
			"IgnoreUnknown=1;IP=10.55.206.46", spec{pfs: []string{"eth1"}, vf: -1, pfOnly: true}},
		{"hustcat v0.1", `{"name": "mynet", "type": "sriov", "master": "eth1", "vf": 1, "vlan": 5, "mac": "66:d8:02:77:aa:aa", ` + ipam + `}`,
			"IP=10.55.206.46", spec{pfs: []string{"eth1"}, vf: 1, settings: tag(5), mac: hw(t, "66:d8:02:77:aa:aa")}},
		{"intel README", `{"name": "mynet", "type": "sriov", "if0": "enp1s0f1", ` + ipam + `}`, "", spec{pfs: []string{"enp1s0f1"}, vf: -1}},
		{"intel README, L2", `{"name": "mynet", "type": "sriov", "if0": "enp1s0f1", "if0name": "net0", "l2enable": true, "vlan": 210}`, "",
			spec{pfs: []string{"enp1s0f1"}, vf: -1, l2: true, settings: tag(210)}},
		{"intel README, DPDK", `{"name": "mynet", "type": "sriov", "if0": "enp1s0f1", "if0name": "net0",
			"dpdk": {"kernel_driver":"ixgbevf", "dpdk_driver":"igb_uio", "dpdk_tool":"/opt/dpdk/usertools/dpdk-devbind.py"}}`, "",
			spec{pfs: []string{"enp1s0f1"}, vf: -1, driver: "igb_uio"}},
		{"intel v1.0", `{"name": "mynet", "type": "sriov", "master": "enp1s0f1", "cniDir": "/var/lib/cni/sriov", "l2enable": true}`, "", spec{pfs: []string{"enp1s0f1"}, vf: -1, l2: true}},
		{"the seed", `{"type": "sriov", "if0": "ens786f1", "if0name": "net0", "dpdk": {"kernel_driver": "ixgbevf", "dpdk_driver": "igb_uio", "dpdk_tool": "/path/to/dpdk/tools/dpdk-devbind.py"}}`, "",
			spec{pfs: []string{"ens786f1"}, vf: -1, driver: "igb_uio"}},
	} {
		t.Run(c.name, func(t *testing.T) { sameSpec(t, mustParse(t, c.text, c.args), &c.means) })
	}
}

// A configuration whose device a device plugin chooses is whole as it is; one
// that names a device or a PF is checked for it.
func TestParseWithoutDevice(t *testing.T) {
	d := New(logTo(t))
	for _, text := range []string{`{"type": "sriov", "vlan": 0, "vlanQoS": 0, "ipam": {}}`, `{"type": "sriov", "pfOnly": true}`, `{"type": "sriov", "if0": "eth1"}`, `{"DeviceID": "0000:03:02.3"}`} {
		if _, warnings, err := d.Parse("default/fast", []byte(text)); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q", text, err, warnings)
		}
	}
	for text, says := range map[string]string{
		`{"vlan": 5000}`: `"vlan"`, `{"deviceid": "x"}`: `"deviceID"`, `{"PF": "a/b"}`: `"pf"`, `null`: "object", `[]`: "object", `{`: "invalid JSON", `{"trsut": "on"}`: "trust",
	} {
		_, _, err := d.Parse("default/fast", []byte(text))
		wantError(t, err, says, "default/fast")
	}
	_, warnings, err := d.Parse("default/fast", []byte(`{"x": 1}`))
	if err != nil || len(warnings) != 1 {
		t.Errorf("%v, warnings %q, want one about x", err, warnings)
	}
}
