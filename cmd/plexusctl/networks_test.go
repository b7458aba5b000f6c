package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

const networksDocument = "../../docs/networks.md"

// yamlOf are the manifests of a document, one after the other.
func yamlOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, block := range fenced.FindAllStringSubmatch(string(text), -1) {
		if block[1] == "yaml" {
			all = append(all, block[2])
		}
	}
	return strings.Join(all, "---\n")
}

// Every pod of docs/networks.md gets the attachments that the text says.
func TestExamplesOfNetworks(t *testing.T) {
	manifests := yamlOf(t, networksDocument)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "manifests"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifests/all.yaml"), []byte(manifests), 0o600); err != nil {
		t.Fatal(err)
	}
	documents, err := kube.ParseManifests("all.yaml", []byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	c, err := conf.Parse([]byte(`{"name": "node", "type": "plexus", "delegates": [{"name": "cluster", "type": "bridge"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range documents {
		if d.Pod == nil {
			continue
		}
		plan, err := planOf(dir, c, conf.Args{{"K8S_POD_NAMESPACE", d.Pod.Namespace}, {"K8S_POD_NAME", d.Pod.Name}})
		if err != nil {
			t.Errorf("pod %s: %v", d.Pod.Name, err)
		}
		got[d.Pod.Name] = plan
	}
	const cluster, lan = "eth0=cluster(bridge) ", "default/lan(macvlan,tuning,portmap,bandwidth"
	if diff := cmp.Diff(map[string]string{
		"short":      cluster + "net1=" + lan + ") fast0=shared/vf(sriov 0000:00:10.0) net3=" + lan + ")",
		"sockets":    "eth0=cluster(bridge) net1=default/fast(ovsdpdk) net2=default/fast(ovsdpdk)",
		"json":       cluster + "net1=" + lan + ") fast0=shared/vf(sriov 0000:00:10.0)",
		"addresses":  cluster + "net1=" + lan + ")",
		"limits":     cluster + "net1=" + lan + ")",
		"edge":       cluster + "net1=" + lan + " default via [10.20.0.1 fd20::1])",
		"devices":    cluster + "net1=shared/vf(sriov 0000:00:10.2) net2=shared/vf(sriov 0000:00:10.0)",
		"infiniband": cluster + "net1=shared/vf(sriov 0000:00:10.0)",
		"arguments":  cluster + "net1=" + lan + ") net2=" + lan + ")",
		"elsewhere":  "eth0=kube-system/isolated(bridge) net1=" + lan + ")",
	}, got); diff != "" {
		t.Error(diff)
	}
}

// Every key of the annotation stands in the table of docs/networks.md and in an
// example, and so does every key of network-status in the text.
func TestEveryKeyOfTheAnnotationIsDocumented(t *testing.T) {
	text, err := os.ReadFile(networksDocument)
	if err != nil {
		t.Fatal(err)
	}
	examples := yamlOf(t, networksDocument)
	for _, key := range keysOf(reflect.TypeFor[conf.Selection]()) {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("the text does not name %q", key)
		}
		if key != "interfaceRequest" && !strings.Contains(examples, `"`+key+`"`) {
			t.Errorf("no example has %q", key)
		}
	}
	for _, key := range keysOf(reflect.TypeFor[conf.NetworkStatus]()) {
		if !strings.Contains(string(text), "`"+key+"`") {
			t.Errorf("the text does not name %q of network-status", key)
		}
	}
}

func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		keys = append(keys, name)
		for e := t.Field(i).Type; ; e = e.Elem() {
			if e.Kind() == reflect.Struct && t == reflect.TypeFor[conf.Selection]() {
				keys = append(keys, keysOf(e)...)
			}
			if e.Kind() != reflect.Pointer && e.Kind() != reflect.Slice {
				break
			}
		}
	}
	return keys
}
