package conf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

// Headings of docs/differences.md.
const (
	wrongAnnotation = "A wrong annotation fails the pod"
	emptyLists      = "Empty lists and zeroes ask for nothing"
	statusKeys      = "network-status has mtu and gateway"
	installation    = "Readiness is awaited by ADD and STATUS, not by DEL"
	notOurs         = "What others have to do"
	ofTheRuntime    = "The runtime's portMappings go to every network that declares them"
	undeclared      = "mac and ips need no capability"
	inParallel      = "Attachments run together only when asked"
)

const (
	ips     = `"ips": ["10.0.0.7/24", "fd00::7"]`
	mac     = `"mac": "02:00:00:00:00:07"`
	guid    = `"infiniband-guid": "02:00:00:00:00:00:00:07"`
	ports   = `"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]`
	traffic = `"bandwidth": {"ingressRate": 8000, "ingressBurst": 800, "egressRate": 9000, "egressBurst": 900}`
)

// selectionRows are sections 3 and 4.
var selectionRows = []requirement{
	{at: "3.2", says: "the object is its metadata and a spec with a text config that may be missing", check: TestANADOfTheSpecification},
	{at: "3.2", says: "without config the network is one that the node knows by the object's name", check: onDisk("x.conf", "", "", "x.conf")},
	{at: "3.2", says: "plugins that delegate nothing keep their settings out of config", check: refusedConfig("bandwidth=10M"), differs: notOurs},
	{at: "3.3", says: "names of objects are made of DNS labels", check: all(plans("a", "eth0=cluster* net1=shop/a"), refusedNames("A", "a_b", "a..b"))},
	{at: "3.3", says: "a label has lower-case letters, digits and dashes, no dash first or last", check: refusedNames("-a", "a-", "ä", "a b", "a/b/c")},
	{at: "3.4.1", says: "config, else a list on disk, else a single configuration on disk, each by the object's name", check: all(
		onDisk("a.conf", "b.conflist", `{"type": "inline"}`, ""), onDisk("a.conf", "b.conflist", "", "b.conflist"), onDisk("a.conf", "", "", "a.conf"))},
	{at: "3.4.1", says: "else the request fails", check: TestANADWithNothingFails},
	{at: "3.4.2", says: "a config without a name gets the object's", check: all(nameOf("blue", `{"type": "x"}`), nameOf("blue", `{"plugins": [{"type": "x"}]}`))},
	{at: "3.4.3", says: "every object has a name; the config's own may be another", check: all(nameOf("own", `{"name": "own", "type": "x"}`), func(t *testing.T) {
		_, err := kube.ParseManifests("x", []byte("{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {}}"))
		checkError(t, err, "metadata")
	})},

	{at: "4", says: "an annotation of the pod selects the networks beside the cluster's", check: plans("a", "eth0=cluster* net1=shop/a")},
	{at: "4.1", says: "it is k8s.v1.cni.cncf.io/networks", check: func(t *testing.T) { checkEqual(t, conf.NetworksAnnotation, "k8s.v1.cni.cncf.io/networks") }},
	{at: "4.1", says: "it has the short form or the JSON form, nothing else", check: func(t *testing.T) {
		_, _, err := asked(`{"name": "a"}`, anyNAD).plan()
		checkError(t, err, "JSON list", "short form")
	}},
	{at: "4.1", says: "both forms are understood", check: all(
		plans("a,lab/a,b@data0", "eth0=cluster* net1=shop/a net2=lab/a data0=shop/b"),
		plans(`[{"name": "a"}, {"name": "a", "namespace": "lab"}, {"name": "b", "interface": "data0"}]`, "eth0=cluster* net1=shop/a net2=lab/a data0=shop/b"))},
	{at: "4.1.2.1", says: "keys beyond the specification's have a domain in them; plexus writes none, and reads any with a warning", check: func(t *testing.T) {
		_, warnings, err := asked(`[{"name": "a", "org.example.hint": 1}]`, anyNAD).plan()
		checkError(t, err)
		checkEqual(t, len(warnings), 1)
	}},

	{at: "4.1.2.1.3", says: "ips has at least one element, each an address with or without a prefix", differs: emptyLists, check: all(
		accepts(ips, `"ips": ["192.0.2.1"]`, `"ips": ["2001:db8::5/64"]`), refuses(`"ips": [""]`, `"ips": ["10.0.0"]`, `"ips": ["10.0.0.1/33"]`, `"ips": ["::1/129"]`, `"ips": "10.0.0.1"`))},
	{at: "4.1.2.1.3", says: "an annotation with other ips is not followed", check: refuses(`"ips": ["one"]`), differs: wrongAnnotation},
	{at: "4.1.2.1.3.2", says: "a plugin of the network has the capability ips", check: passes(ips, "ips", `["10.0.0.7/24", "fd00::7"]`), differs: undeclared, test: "e2e/core.TestCapabilityArgs"},
	{at: "4.1.2.1.3.2", says: "else the whole request fails", test: "engine.TestMACAndIPsThatAPodAsksFor", differs: undeclared},
	{at: "4.1.2.1.4", says: "mac has six bytes", check: all(accepts(mac), refuses(`"mac": "02:00:00:00:07"`, `"mac": "02:00:00:00:00:00:00:07"`, `"mac": "x"`))},
	{at: "4.1.2.1.4", says: "an annotation with another mac is not followed", check: refuses(`"mac": "02:00:00:00:00:0g"`), differs: wrongAnnotation},
	{at: "4.1.2.1.4.2", says: "a plugin of the network has the capability mac", check: passes(mac, "mac", `"02:00:00:00:00:07"`), differs: undeclared, test: "e2e/core.TestCapabilityArgs"},
	{at: "4.1.2.1.4.2", says: "else the whole request fails", test: "engine.TestMACAndIPsThatAPodAsksFor", differs: undeclared},
	{at: "4.1.2.1.5", says: "interface is a name that the kernel takes; it becomes CNI_IFNAME", test: "e2e/ovs.TestTwoPods", check: all(
		accepts(`"interface": "data0"`, `"interface": "abcdefghijklmno"`), refuses(`"interface": "abcdefghijklmnop"`, `"interface": "a/b"`, `"interface": "a b"`, `"interface": ".."`, `"interface": "a:b"`))},
	{at: "4.1.2.1.5", says: "an annotation with another name is not followed", check: refuses(`"interface": "a/b"`), differs: wrongAnnotation},
	{at: "4.1.2.1.5", says: "a name that is taken fails", check: func(t *testing.T) {
		for _, networks := range []string{"a@x,b@x", "a@eth0", "a@net2,b", "a@x,a@x"} {
			_, _, err := asked(networks, anyNAD).plan()
			checkError(t, err, "shop/a", "interface")
		}
	}},
	{at: "4.1.2.1.6", says: "cni-args are handed to the plugin", test: "e2e/core.TestCapabilityArgs", check: mergedArgs(`{"type": "x"}`, `{"type": "x", "args": {"cni": {"colour": "red"}}}`)},
	{at: "4.1.2.1.6.2", says: "they come before the args of the network's config", check: mergedArgs(
		`{"type": "x", "args": {"other": 1, "cni": {"colour": "blue", "kept": true}}}`, `{"type": "x", "args": {"other": 1, "cni": {"colour": "red", "kept": true}}}`)},

	{at: "4.1.2.1.7", says: "an annotation with other portMappings is not followed", check: refuses(`"portMappings": 8080`, `"portMappings": ["8080"]`), differs: wrongAnnotation},
	{at: "4.1.2.1.7", says: "portMappings has at least one element, each with two keys at least", check: refuses(`"portMappings": [{}]`, `"portMappings": [{"hostPort": 80}]`), differs: emptyLists},
	{at: "4.1.2.1.7", says: "hostPort is needed, 1 to 65535", check: all(accepts(ports),
		refuses(`"portMappings": [{"containerPort": 80}]`, `"portMappings": [{"hostPort": 0, "containerPort": 80}]`, `"portMappings": [{"hostPort": 65536, "containerPort": 80}]`))},
	{at: "4.1.2.1.7", says: "containerPort is needed, 1 to 65535", check: refuses(`"portMappings": [{"hostPort": 80}]`, `"portMappings": [{"hostPort": 80, "containerPort": 65536}]`)},
	{at: "4.1.2.1.7", says: "protocol is udp, tcp or sctp in any case, tcp when it is missing", check: all(
		needs(`"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "Sctp"}]`, "portMappings", `[{"hostPort": 8080, "containerPort": 80, "protocol": "sctp"}]`),
		needs(`"portMappings": [{"hostPort": 8080, "containerPort": 80}]`, "portMappings", `[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]`),
		refuses(`"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "icmp"}]`))},
	{at: "4.1.2.1.7", says: "a network that cannot map ports fails", check: needs(ports, "portMappings", `[{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]`)},
	{at: "4.1.2.1.7.2", says: "a plugin of the network has the capability portMappings", check: needs(ports, "portMappings", `[{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]`)},
	{at: "4.1.2.1.7.2", says: "else the whole request fails", check: needs(ports, "portMappings", `[{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]`)},

	{at: "4.1.2.1.8", says: "an annotation with another bandwidth is not followed", check: refuses(`"bandwidth": 8000`, `"bandwidth": {"ingressRate": "8000"}`), differs: wrongAnnotation},
	{at: "4.1.2.1.8", says: "bandwidth has at least one of four keys", check: refuses(`"bandwidth": {}`, `"bandwidth": {"ingresRate": 8000}`)},
	{at: "4.1.2.1.8", says: "ingressRate is not zero", check: refuses(`"bandwidth": {"ingressRate": 0}`, `"bandwidth": {"ingressRate": -1}`), differs: emptyLists},
	{at: "4.1.2.1.8", says: "ingressBurst is not zero", check: refuses(`"bandwidth": {"ingressRate": 8000, "ingressBurst": -1}`), differs: emptyLists},
	{at: "4.1.2.1.8", says: "ingressBurst needs ingressRate", check: refuses(`"bandwidth": {"ingressBurst": 800}`, `"bandwidth": {"ingressBurst": 800, "egressRate": 9000}`)},
	{at: "4.1.2.1.8", says: "egressRate is not zero", check: refuses(`"bandwidth": {"egressRate": 0}`, `"bandwidth": {"egressRate": -1}`), differs: emptyLists},
	{at: "4.1.2.1.8", says: "egressBurst is not zero", check: refuses(`"bandwidth": {"egressRate": 9000, "egressBurst": -1}`), differs: emptyLists},
	{at: "4.1.2.1.8", says: "egressBurst needs egressRate", check: refuses(`"bandwidth": {"egressBurst": 900}`, `"bandwidth": {"egressBurst": 900, "ingressRate": 8000}`)},
	{at: "4.1.2.1.8", says: "a network that cannot limit bandwidth fails", check: needs(traffic, "bandwidth", trafficArgument)},
	{at: "4.1.2.1.8.2", says: "a plugin of the network has the capability bandwidth", check: needs(traffic, "bandwidth", trafficArgument)},
	{at: "4.1.2.1.8.2", says: "else the whole request fails", check: needs(traffic, "bandwidth", trafficArgument)},

	{at: "4.1.2.1.9", says: "default-route is set on one network", check: all(accepts(`"default-route": ["10.0.0.1", "fd00::1"]`), refuses(`"default-route": ["gateway"]`)), differs: emptyLists},
	{at: "4.1.2.1.9", says: "the cluster network then has no default route and no gateway", test: "e2e/core.TestDefaultRoute", check: accepts(`"default-route": ["10.0.0.1"]`)},
	{at: "4.1.2.1.9", says: "an annotation that sets it on more is not followed", differs: wrongAnnotation, check: func(t *testing.T) {
		_, _, err := asked(`[{"name": "a", "default-route": ["10.0.0.1"]}, {"name": "b", "default-route": ["fd00::1"]}]`, anyNAD).plan()
		checkError(t, err, "shop/a", "shop/b", "default route")
	}},
	{at: "4.1.2.1.10", says: "infiniband-guid has eight bytes", check: all(accepts(guid), refuses(`"infiniband-guid": "02:00:00:00:00:07"`, `"infiniband-guid": "x"`))},
	{at: "4.1.2.1.10", says: "an annotation with another GUID is not followed", check: refuses(`"infiniband-guid": "02"`), differs: wrongAnnotation},
	{at: "4.1.2.1.10.2", says: "a plugin of the network has the capability infinibandGUID", check: needs(guid, "infinibandGUID", `"02:00:00:00:00:00:00:07"`)},
	{at: "4.1.2.1.10.2", says: "else the whole request fails", check: needs(guid, "infinibandGUID", `"02:00:00:00:00:00:00:07"`)},
	{at: "4.1.2.1.11.1", says: "a plugin that knows IPAMClaims takes the addresses from the claim; beside ips it is an error", differs: notOurs,
		check: accepts(`"ipam-claim-reference": "vm-a.blue"`, `"ipam-claim-reference": "vm-a.blue", `+ips)},

	{at: "4.2", says: "one network asked for twice is two attachments with a status each", check: plans("a,a", "eth0=cluster* net1=shop/a net2=shop/a"), test: "status.TestNetworkStatus"},
	{at: "4.2.1", says: "every verb names an attachment by the same container, network and interface", test: "e2e/core.TestCapabilityArgs"},
	{at: "4.2.1", says: "interface names that are made up are unique", check: plans("a,b@net7,a,lab/a", "eth0=cluster* net1=shop/a net7=shop/b net3=shop/a net4=lab/a")},
	{at: "4.2.2", says: "net-a,net-a attaches it twice", check: plans("a,a", "eth0=cluster* net1=shop/a net2=shop/a")},
}

const trafficArgument = `{"ingressRate": 8000, "ingressBurst": 800, "egressRate": 9000, "egressBurst": 900}`

func TestANADOfTheSpecification(t *testing.T) {
	documents, err := kube.ParseManifests("x", []byte(`{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: a, namespace: shop}, spec: {config: '{"type": "x"}'}}`))
	checkError(t, err)
	checkEqual(t, string(documents[0].Network.Config), `{"type": "x"}`)
	for _, spec := range []string{"", ", spec: {}", ", spec: {config: ''}"} {
		documents, err := kube.ParseManifests("x", []byte(`{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: a}`+spec+`}`))
		checkError(t, err)
		checkEqual(t, documents[0].Network.Name, "default/a")
	}
}

// node is a node with these files of networks named blue, and a NAD shop/blue.
func node(t *testing.T, config string, files ...string) *kube.Manifests {
	t.Helper()
	m := &kube.Manifests{Dir: t.TempDir(), ConfDir: t.TempDir()}
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(m.Dir, "a.yaml"), "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: blue, namespace: shop}\nspec: {config: '"+config+"'}\n")
	for _, name := range files {
		switch filepath.Ext(name) {
		case ".conflist":
			write(filepath.Join(m.ConfDir, name), `{"name": "blue", "plugins": [{"type": "`+name+`"}]}`)
		case ".conf":
			write(filepath.Join(m.ConfDir, name), `{"name": "blue", "type": "`+name+`"}`)
		}
	}
	return m
}

// onDisk wants the network shop/blue to be that of a file, or the inline one.
func onDisk(single, list, config, want string) func(t *testing.T) {
	return func(t *testing.T) {
		d, err := node(t, config, single, list).Network(t.Context(), conf.Reference{Namespace: "shop", Name: "blue"})
		checkError(t, err)
		l, err := d.ParseList("")
		checkError(t, err)
		if want == "" {
			want = "inline"
		}
		checkEqual(t, l.Types(), []string{want})
	}
}

func TestANADWithNothingFails(t *testing.T) {
	_, err := node(t, "").Network(t.Context(), conf.Reference{Namespace: "shop", Name: "blue"})
	checkError(t, err, "shop/blue", "no config")
}

func refusedConfig(config string) func(t *testing.T) {
	return func(t *testing.T) {
		_, err := nad(config).ParseList("")
		checkError(t, err, nadName, "config")
	}
}

func refusedNames(names ...string) func(t *testing.T) {
	return func(t *testing.T) {
		for _, name := range names {
			_, _, err := asked(name, anyNAD).plan()
			checkError(t, err, conf.NetworksAnnotation)
			checkError(t, conf.CheckObjectName("shop", name), "name")
		}
	}
}

// mergedArgs wants a network's config to become another one by cni-args.
func mergedArgs(config, want string) func(t *testing.T) {
	return func(t *testing.T) {
		checkJSON(t, asked(`[{"name": "a", "cni-args": {"colour": "red"}}]`, config).mustPlan(t).Networks[1].List.Plugins[0], want)
	}
}
