package conf_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// What no input may exceed.
const (
	maxNetworksOfAPod = 64
	maxText           = 1 << 20
)

// hostile are texts that have broken parsers before.
var hostile = []string{
	"", " ", "null", "[]", "{}", "[[]]", "[{}]", "[null]", `""`, "0", "[", "{", `"`, "{\"\x00\":1}", "\xef\xbb\xbf{}",
	"../x", "a/b/c", "@", "a@", "@a", "a@b@c", "/", "a,,b", ",", "a\x00b", "\xff", "f\u0430st", "lab/fast@data0, b",
	strings.Repeat("n", 200), strings.Repeat("n", 254), strings.Repeat("a,", 70), strings.Repeat("[", 2000), strings.Repeat(`{"plugins":[`, 1000),
	`[{"name": "a", "name": "../b", "NAME": "c"}]`,
	`[{"name": "a", "interface": "0123456789abcdef"}]`,
	`[{"name": "a", "ips": ["::ffff:10.0.0.1", "10.0.0.7/24"], "mac": "0200.0000.0001", "default-route": ["fe80::1"]}]`,
	`[{"name": "a", "portMappings": [{"hostPort": 1e3, "containerPort": 9223372036854775808}], "bandwidth": {"ingressRate": -0}}]`,
	`[{"name": "a", "cni-args": {"": null, "x": {"y": []}}, "deviceID": "0000:03:02.1"}]`,
	`{"type": "../../bin/sh"}`, `{"type": "plexus"}`, `{"plugins": [{"type": "a"}, null]}`, `{"plugins": null}`, `{"Plugins": [{"type": "a"}]}`,
	`{"type": "../../bin/sh", "Type": "a"}`, `{"plugins": [{"type": "plexus", "TYPE": "a"}], "Plugins": []}`, `{"type": "a", "disableCheck": "true", "pluginſ": []}`,
	`{"type": "a", "args": null}`, `{"type": "a", "args": {"cni": null}}`, `{"type": "a", "args": []}`, `{"type": "a", "capabilities": null}`,
	`{"name": "node", "type": "plexus", "delegates": [{"type": "a", "masterplugin": true}, {"type": "b", "masterplugin": true}]}`,
	`{"name": "node", "type": "plexus", "delegates": [null], "agent": null, "logOptions": {}}`,
	`{"name": "node", "type": "plexus", "runtimeConfig": {"a": null}, "logToStderr": null, "x<y": 1}`,
}

func addSeeds(f *testing.F, add func(text string)) {
	f.Helper()
	for _, text := range hostile {
		add(text)
	}
	for _, data := range examples(f) {
		add(string(data))
	}
}

func FuzzParse(f *testing.F) {
	addSeeds(f, func(text string) { f.Add(text) })
	f.Add(settings(`"namespaceIsolation": true, "globalNamespaces": "a,b", "logOptions": {"maxAge": 5}, "agent": {"socket": "/x"}, "result": "merged"`))
	f.Add(settings(`"delegate": [], "cni.dev/attachments": [], "prevResult": {}`))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := conf.Parse([]byte(text))
		if err != nil {
			checkMessage(t, err)
			return
		}
		checkNetworkName(t, c.Name)
		first := asJSON(t, c)
		again, err := conf.Parse(first)
		if len(first) > maxText {
			return
		}
		if err != nil {
			t.Fatalf("what was parsed does not parse again: %v\n%s", err, first)
		}
		if second := asJSON(t, again); string(second) != string(first) {
			t.Errorf("parsed again it is another configuration:\n%s\n%s", first, second)
		}
	})
}

func FuzzParseSelections(f *testing.F) {
	addSeeds(f, func(text string) { f.Add(text) })
	for _, d := range exampleDocuments(f) {
		if d.Pod != nil {
			f.Add(d.Pod.Annotations[conf.NetworksAnnotation])
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, _, err := conf.ParseSelections("annotation", text, "shop")
		if err != nil {
			checkMessage(t, err)
			return
		}
		if len(got) > maxNetworksOfAPod {
			t.Fatalf("%d networks", len(got))
		}
		for _, s := range got {
			if err := conf.CheckObjectName(s.Namespace, s.Name); err != nil {
				t.Error(err)
			}
			if s.Interface != "" {
				checkIfName(t, s.Interface)
			}
		}
		checkSelectionsAgain(t, got)
	})
}

func checkSelectionsAgain(t *testing.T, first []conf.Selection) {
	t.Helper()
	if len(first) == 0 {
		return
	}
	text := asJSON(t, first)
	if len(text) > 128<<10 {
		return
	}
	again, warnings, err := conf.ParseSelections("annotation", string(text), "other")
	if err != nil || len(warnings) > 0 {
		t.Fatalf("what was parsed does not parse again: %v %q\n%s", err, warnings, text)
	}
	if second := asJSON(t, again); string(second) != string(text) {
		t.Errorf("parsed again they are other networks:\n%s\n%s", text, second)
	}
}

func FuzzParseList(f *testing.F) {
	addSeeds(f, func(text string) { f.Add(text, "1.1.0") })
	for _, d := range exampleDocuments(f) {
		if d.Network != nil {
			f.Add(string(d.Network.Config), "")
		}
	}
	f.Fuzz(func(t *testing.T, text, version string) {
		l, err := nad(text).ParseList(version)
		_ = nad(text).PluginOfType("ovsdpdk")
		if err != nil {
			checkMessage(t, err)
			return
		}
		checkList(t, l)
		out, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > maxText {
			return
		}
		again, err := nad(string(out)).ParseList("")
		if err != nil {
			t.Fatalf("what was parsed does not parse again: %v\n%s", err, out)
		}
		if again.Name != l.Name || again.CNIVersion != l.CNIVersion || !reflect.DeepEqual(again.Types(), l.Types()) {
			t.Errorf("parsed again it is another network:\n%s\n%s", out, asJSON(t, again))
		}
	})
}

func FuzzResolve(f *testing.F) {
	add := func(networks, config string) {
		for kind := range byte(5) {
			f.Add(kind, networks, "", config, "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.0.7")
			f.Add(kind, "fast", networks, config, "")
		}
	}
	for _, text := range hostile {
		add(text, anyNAD)
		add("a,lab/b@data0", text)
	}
	add(`[{"name": "a", "ips": ["10.0.0.7/24"], "deviceID": "0000:03:02.1", "cni-args": {"x": 1}, "default-route": ["10.0.0.1"]}]`, anyNAD)
	for _, d := range exampleDocuments(f) {
		if d.Network != nil {
			add("fast", string(d.Network.Config))
		}
	}
	configurations := []string{
		settings(`"defaultNetworks": ["side"]`),
		`{"name": "node", "type": "plexus", "clusterNetwork": "calico", "runtimeConfig": {"mac": "x"}}`,
		`{"name": "node", "type": "plexus", "delegates": [{"type": "a"}, {"type": "b", "masterplugin": true}], "namespaceIsolation": true, "globalNamespaces": "lab"}`,
		settings(`"clusterNetwork": "/etc/cni/x.conf", "defaultNetworks": ["side"], "systemNamespaces": ["shop"]`),
		`{"name": "node", "type": "plexus"}`,
	}
	f.Fuzz(func(t *testing.T, kind byte, networks, defaultNetwork, config, args string) {
		c := parse(t, configurations[int(kind)%len(configurations)])
		parsed, err := conf.ParseArgs(args)
		if err != nil {
			return
		}
		wanted, _, err := conf.References(c, podOf(conf.NetworksAnnotation, networks, conf.DefaultNetworkAnnotation, defaultNetwork))
		if err != nil {
			checkMessage(t, err)
			return
		}
		definitions := make([]*conf.Definition, len(wanted))
		for i := range definitions {
			definitions[i] = nad(config)
		}
		p, err := conf.Resolve(c, wanted, definitions, "eth0", parsed)
		if err != nil {
			checkMessage(t, err)
			return
		}
		checkPlan(t, p)
	})
}

// checkPlan is what holds for every plan, whatever was asked.
func checkPlan(t *testing.T, p *conf.Plan) {
	t.Helper()
	if n := len(p.Networks); n == 0 || n > maxNetworksOfAPod+3 {
		t.Fatalf("%d networks", n)
	}
	seen := map[string]bool{}
	for i := range p.Networks {
		n := &p.Networks[i]
		checkIfName(t, n.IfName)
		if seen[n.IfName] {
			t.Errorf("interface name %q twice", n.IfName)
		}
		seen[n.IfName] = true
		if n.Default != (i == 0) {
			t.Errorf("network %d: default is %v", i, n.Default)
		}
		if !n.Default && n.Args.Get("IP") != "" {
			t.Errorf("network %d has the cluster network's IP", i)
		}
		checkList(t, &n.List)
	}
	if !seen["eth0"] || p.Networks[0].IfName != "eth0" {
		t.Errorf("the cluster network is %q", p.Networks[0].IfName)
	}
	if _, err := json.Marshal(p); err != nil {
		t.Error(err)
	}
}

func checkList(t *testing.T, l *conf.List) {
	t.Helper()
	checkNetworkName(t, l.Name)
	types := l.Types()
	if len(types) == 0 {
		t.Error("a list without plugins")
	}
	for _, typ := range types {
		if typ == "" || typ == "." || typ == ".." || conf.IsOwnType(typ) || len(typ) > 200 || strings.ContainsAny(typ, "/\x00") {
			t.Errorf("type %q", typ)
		}
	}
}

func checkNetworkName(t *testing.T, name string) {
	t.Helper()
	if name == "" || len(name) > 200 || strings.ContainsAny(name, "/\x00\n ") || strings.HasPrefix(name, ".") {
		t.Errorf("network name %q", name)
	}
}

func checkIfName(t *testing.T, name string) {
	t.Helper()
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "/:\x00\n ") || name == "." || name == ".." {
		t.Errorf("interface name %q", name)
	}
}

// checkMessage wants an error that fits on a terminal and in a log.
func checkMessage(t *testing.T, err error) {
	t.Helper()
	if strings.ContainsAny(err.Error(), "\x00\x1b") {
		t.Errorf("the error has control characters: %q", err)
	}
}
