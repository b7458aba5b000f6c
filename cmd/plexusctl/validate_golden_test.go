package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// broken is an input that is not valid: what is said of it names the document,
// the key and what is to be done.
type broken struct {
	name, file, text string
	document         string // "document 2"; empty in a file that is one document
	key, remedy      string
}

func nadOf(config string) string {
	return fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec: {config: %q}\n", config)
}

// second is a good network and, as document 2, a pod with this annotation.
func second(networks string) string {
	return nadOf(`{"type": "macvlan", "master": "eth1"}`) + fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  annotations: {k8s.v1.cni.cncf.io/networks: %q}\n", networks)
}

func nodeConf(keys string) string {
	return `{"cniVersion": "1.1.0", "name": "node", "type": "plexus", ` + keys + "}"
}

const vpp = `{"type": "vppmemif", "name": "n", `

var brokenInputs = []broken{
	{"a misspelt key of the node", "a.conf", nodeConf(`"clusterNetwrok": "pods"`), "", `"clusterNetwrok"`, `did you mean "clusterNetwork"`},
	{"a key of the node that is near to none", "a.conf", nodeConf(`"clusterNetwork": "", "x": 1`), "", `"x"`, "has no effect"},
	{"no cluster network", "a.conf", nodeConf(`"logLevel": "error"`), "", `"clusterNetwork"`, `set "clusterNetwork" or "delegates"`},
	{"a log level that is none", "a.conf", nodeConf(`"clusterNetwork": "pods", "logLevel": "loud"`), "", `"logLevel"`, "allowed are debug, verbose, info, warning, error, panic"},
	{"a relative folder", "a.conf", nodeConf(`"clusterNetwork": "pods", "confDir": "net.d"`), "", `"confDir"`, "want an absolute path"},
	{"a text for a list", "a.conf", nodeConf(`"clusterNetwork": "pods", "defaultNetworks": "logs"`), "", `"defaultNetworks"`, "want a list"},
	{"a node without a name", "a.conf", `{"type": "multus", "clusterNetwork": "pods"}`, "", `"name"`, "letters, digits"},
	{"a version that is none", "a.conf", `{"cniVersion": "2.0.0", "name": "node", "type": "plexus", "clusterNetwork": "pods"}`, "", `"cniVersion"`, "known are"},
	{"an inline network without a type", "a.conf", nodeConf(`"delegates": [{"name": "pods"}]`), "", `"type"`, "it names the plugin"},
	{"an inline network of a built-in", "a.conf", nodeConf(`"delegates": [{"name": "pods", "type": "ovsdpdk"}]`), "", `"bridge"`, "name a bridge"},
	{"two masterplugins", "a.conf", nodeConf(`"delegates": [{"type": "a", "masterplugin": true}, {"type": "b", "masterplugin": true}]`), "", `"masterplugin"`, "keep one"},
	{"no JSON", "a.conf", "{\n  \"name\": \"node\",\n}", "", "line 3", "invalid JSON"},

	{"a network that is no JSON", "b.yaml", nadOf(`{type: macvlan}`), "document 1", `"config"`, "invalid JSON"},
	{"a network that is YAML", "b.yaml", "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec:\n  config:\n    type: macvlan\n", "document 1", `"spec.config"`, "want a string that holds JSON"},
	{"a network without a type", "b.yaml", nadOf(`{"name": "net"}`), "document 1", `"type"`, "it names the plugin"},
	{"a network without plugins", "b.yaml", nadOf(`{"name": "net", "plugins": []}`), "document 1", `"plugins"`, "name one"},
	{"a type that is a path", "b.yaml", nadOf(`{"type": "../../bin/sh"}`), "document 1", `"type"`, "no plugin name"},
	{"plexus below plexus", "b.yaml", nadOf(`{"type": "plexus"}`), "document 1", `"type"`, "cannot be a delegate of itself"},
	{"a name with capital letters", "b.yaml", strings.Replace(nadOf(`{"type": "macvlan"}`), "name: net", "name: Net", 1), "document 1", `"metadata"`, "lower-case"},
	{"broken YAML", "b.yaml", nadOf(`{"type": "macvlan"}`) + "---\nkind: [\n", "document 2", "line", "invalid YAML"},
	{"a key of a VF that is one slip away", "b.yaml", nadOf(`{"type": "sriov", "spoofchck": "on"}`), "document 1", `"spoofchck"`, `"spoofchk"`},
	{"a VLAN out of range", "b.yaml", nadOf(`{"type": "sriov", "vlan": 4095}`), "document 1", `"vlan"`, "want 0 to 4094"},
	{"an engine that is none", "b.yaml", nadOf(`{"type": "userspace", "host": {"engine": "snabb"}}`), "document 1", `"host.engine"`, "allowed are ovs-dpdk, vpp"},
	{"a bridge domain in L3 mode", "b.yaml", nadOf(vpp + `"mode": "ip", "bridgeDomain": {"id": 4}}`), "document 1", `"bridgeDomain"`, "use mode ethernet"},
	{"a ring that is no power of 2", "b.yaml", nadOf(vpp + `"ringSize": 1000}`), "document 1", `"ringSize"`, "want a power of 2"},

	{"an annotation with a path", "c.yaml", second("../net"), "document 2", "k8s.v1.cni.cncf.io/networks", "DNS label"},
	{"an annotation that is an object", "c.yaml", second(`{"name": "net"}`), "document 2", "k8s.v1.cni.cncf.io/networks", "want a JSON list"},
	{"an interface name that is too long", "c.yaml", second("net@abcdefghijklmnop"), "document 2", `"interface"`, "at most 15"},
	{"an address that is none", "c.yaml", second(`[{"name": "net", "ips": ["10.0.0"]}]`), "document 2", `"ips"`, "10.0.0.7/24"},
	{"a hardware address that is too short", "c.yaml", second(`[{"name": "net", "mac": "02:00"}]`), "document 2", `"mac"`, "want 6 bytes"},
	{"a port out of range", "c.yaml", second(`[{"name": "net", "portMappings": [{"hostPort": 80, "containerPort": 70000}]}]`), "document 2", `"portMappings.containerPort"`, "want 1 to 65535"},
	{"a negative rate", "c.yaml", second(`[{"name": "net", "bandwidth": {"ingressRate": -1}}]`), "document 2", `"bandwidth"`, "must be 0 or more"},
	{"a misspelt key of the annotation", "c.yaml", second(`[{"name": "net", "defaultroute": ["10.0.0.1"]}]`), "document 2", `"defaultroute"`, `"default-route"`},
	{"the default route twice", "c.yaml", second(`[{"name": "net", "default-route": ["10.0.0.1"]}, {"name": "net", "default-route": ["10.0.1.1"]}]`), "document 2", `"default-route"`, "one may"},
	{"the same interface twice", "c.yaml", second("net@x,net@x"), "document 2", `"interface"`, "another"},

	{"a network that is not among those of its namespace", "c.yaml", second("other"), "document 2", "default/other", "correct the name"},
	{"a port mapping that no plugin does", "c.yaml", second(`[{"name": "net", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]`), "document 2", "portMappings", `"capabilities"`},
	{"addresses of a network that gives none", "c.yaml", second(`[{"name": "net", "ips": ["10.0.0.7/24"]}]`), "document 2", `"ips"`, `"ipam": {"type": "static"}`},
	{"a MAC that no plugin sets", "c.yaml", strings.Replace(second(`[{"name": "net", "mac": "02:00:00:00:00:07"}]`), "macvlan", "ipvlan", 1), "document 2", `"mac"`, `"tuning"`},
	{"a socket that no container sees", "c.yaml", strings.Replace(second("net"), `\"type\": \"macvlan\", \"master\": \"eth1\"`, `\"type\": \"ovsdpdk\", \"bridge\": \"br0\"`, 1) + "spec: {containers: [{name: a}]}\n", "document 2", `"spec.volumes"`, "name: shared-dir, emptyDir: {}"},
}

// What plexusctl validate says of each is in testdata/validate.txt.
func TestValidateGolden(t *testing.T) {
	if len(brokenInputs) < 30 {
		t.Errorf("%d broken inputs, want 30 at least", len(brokenInputs))
	}
	back, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // so that the text has no folder
	var all strings.Builder
	for _, b := range brokenInputs {
		if err := os.WriteFile(b.file, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := plexusctl(t, "validate", b.file)
		fmt.Fprintf(&all, "# %s\n%s\n", b.name, out)
		t.Run(b.name, func(t *testing.T) {
			if err == nil {
				t.Fatalf("it is called valid: %s", out)
			}
			for what, part := range map[string]string{"file": b.file, "document": b.document, "key": b.key, "remedy": b.remedy} {
				if !strings.Contains(out, part) {
					t.Errorf("%q does not tell the %s, %s", out, what, part)
				}
			}
		})
	}
	t.Chdir(back)
	golden(t, "validate.txt", all.String())
}
