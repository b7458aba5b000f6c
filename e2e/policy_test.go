package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// policySite has the network "a", by a recorder, as a NAD of many namespaces:
// its name in the plugin's configuration is NAMESPACE-a.
func policySite(t *testing.T) (s *site, log string) {
	s = newSite(t, nil)
	s.installRecorder()
	log = filepath.Join(s.dir, "log")
	for _, namespace := range []string{"shop", "lab", "default", "shared", "kube-system", "infra"} {
		s.manifest(namespace+".yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: a, namespace: %s}\nspec:\n  config: %q\n",
			namespace, jsonOf(t, policyNetwork(namespace+"-a", log))))
	}
	return s.withConf(map[string]any{"delegates": []any{policyNetwork("cluster", log)}}), log
}

func policyNetwork(name, log string) map[string]any {
	return map[string]any{"cniVersion": "1.1.0", "name": name, "type": recorder, "log": log}
}

// podIn writes a pod of a namespace.
func (s *site) podIn(namespace, networks, def string) {
	s.t.Helper()
	annotations := map[string]string{"k8s.v1.cni.cncf.io/networks": networks}
	if def != "" {
		annotations["v1.multus-cni.io/default-network"] = def
	}
	s.manifest("pod.yaml", string(jsonOf(s.t, map[string]any{
		"apiVersion": "v1", "kind": "Pod", "spec": map[string]any{},
		"metadata": map[string]any{"name": "pod", "namespace": namespace, "annotations": annotations},
	})))
}

// attached are the networks that the recorders were asked to ADD, as
// "INTERFACE=NAME".
func attached(t testing.TB, log string) string {
	t.Helper()
	got := stdins(t, log)
	var all []string
	for _, command := range slices.Sorted(maps.Keys(got)) {
		if ifName, ok := strings.CutPrefix(command, "ADD "); ok {
			all = append(all, fmt.Sprintf("%s=%s", ifName, got[command]["name"]))
		}
	}
	return strings.Join(all, " ")
}

// Which networks a pod gets, and which it is refused, by namespaces.
func TestPolicy(t *testing.T) {
	s, log := policySite(t)
	isolated := map[string]any{"namespaceIsolation": true}
	open := map[string]any{"namespaceIsolation": true, "globalNamespaces": "shared,lab"}
	sides := map[string]any{"defaultNetworks": []string{"a"}}
	p := newPod(t, "policy")
	for n, test := range []struct {
		name, namespace, networks, def string
		keys                           map[string]any
		want                           string
		refused                        []string
	}{
		{"open", "shop", "a, lab/a", "", nil, "eth0=cluster net1=shop-a net2=lab-a", nil},
		{"isolated, its own and default", "shop", "a, default/a", "", isolated, "eth0=cluster net1=shop-a net2=default-a", nil},
		{"isolated, another's", "shop", "a, lab/a", "", isolated, "", []string{`"lab"`, `"shop"`, "namespaceIsolation", "network 2"}},
		{"isolated, another's in JSON", "shop", `[{"name": "a", "namespace": "kube-system"}]`, "", isolated, "", []string{`"kube-system"`, `"shop"`}},
		{"global namespaces", "shop", "shared/a, lab/a", "", open, "eth0=cluster net1=shared-a net2=lab-a", nil},
		{"global namespaces without default", "shop", "default/a", "", open, "", []string{`"default"`, "shared, lab"}},
		{"default networks", "shop", "a", "", sides, "eth0=cluster net1=kube-system-a net2=shop-a", nil},
		{"isolation does not bind the configuration", "shop", "", "", map[string]any{"defaultNetworks": []string{"a"}, "namespaceIsolation": true}, "eth0=cluster net1=kube-system-a", nil},
		{"a system namespace", "kube-system", "a", "", sides, "eth0=cluster net1=kube-system-a", nil},
		{"a system namespace without networks", "kube-system", "", "", sides, "eth0=cluster", nil},
		{"system namespaces", "shop", "", "", map[string]any{"defaultNetworks": []string{"a"}, "systemNamespaces": []string{"shop"}}, "eth0=cluster", nil},
		{"kube-system is none of them", "kube-system", "", "", map[string]any{"defaultNetworks": []string{"a"}, "systemNamespaces": []string{"shop"}}, "eth0=cluster net1=kube-system-a", nil},
		{"multusNamespace", "shop", "", "", map[string]any{"clusterNetwork": "a", "delegates": nil, "multusNamespace": "infra", "defaultNetworks": []string{"a"}}, "eth0=infra-a net1=infra-a", nil},
		{"default-network", "shop", "a", "a", nil, "eth0=kube-system-a net1=shop-a", nil},
		{"default-network of multusNamespace", "shop", "", "a", map[string]any{"multusNamespace": "infra"}, "eth0=infra-a", nil},
		{"default-network with its namespace", "shop", "", "kube-system/a", nil, "eth0=kube-system-a", nil},
		{"default-network of the pod's namespace", "shop", "", "shop/a", nil, "", []string{"default-network", `"shop"`, `"kube-system"`, "multusNamespace"}},
		{"the same NAD twice", "shop", "a, a@again", "", nil, "again=shop-a eth0=cluster net1=shop-a", nil},
		{"the same NAD under one name", "shop", "a@x, a@x", "", nil, "", []string{`"x"`, "shop/a"}},
		{"a NAD that is nowhere", "shop", "b", "", nil, "", []string{"shop/b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, id := s.on(t).withConf(test.keys), sandboxID(820+n)
			s.podIn(test.namespace, test.networks, test.def)
			r := request{verb: "ADD", sandbox: id, netns: p.Path(), env: []string{"CNI_ARGS=K8S_POD_NAMESPACE=" + test.namespace + ";K8S_POD_NAME=pod"}}
			before := s.world(nil)
			_, _, err := s.call(r)
			if test.refused != nil {
				says(t, err, test.refused...)
				sameWorld(t, before, s.world(nil))
				return
			}
			must(t, err)
			if got := attached(t, log); got != test.want {
				t.Errorf("attached %q, want %q", got, test.want)
			}
			for _, verb := range []string{"CHECK", "DEL"} {
				r.verb = verb
				_, _, err := s.call(r)
				must(t, err)
			}
			commands := recorded(t, log)
			third := len(commands) / 3
			undone := slices.Clone(commands[2*third:])
			slices.Reverse(undone)
			for i, command := range commands[:third] {
				if undone[i] != strings.Replace(command, "ADD", "DEL", 1) {
					t.Errorf("commands %q: want DEL in the reverse order of ADD", commands)
				}
			}
			must(t, os.Remove(log))
		})
	}
}

// clusterNetwork is found in each of its forms, a malformed neighbour or not.
func TestClusterNetworkForms(t *testing.T) {
	s, log := policySite(t)
	net := filepath.Join(s.dir, "net.d")
	must(t, os.MkdirAll(filepath.Join(s.dir, "folder"), 0o755))
	must(t, os.MkdirAll(net, 0o755))
	writeFile(t, filepath.Join(net, "05-broken.conf"), "{")
	writeFile(t, filepath.Join(net, "10-named.conflist"), string(jsonOf(t, map[string]any{"cniVersion": "1.1.0", "name": "by-name", "plugins": []any{policyNetwork("", log)}})))
	writeFile(t, filepath.Join(s.dir, "one.conf"), string(jsonOf(t, policyNetwork("of-file", log))))
	writeFile(t, filepath.Join(s.dir, "folder/20-second.conf"), string(jsonOf(t, policyNetwork("second", log))))
	writeFile(t, filepath.Join(s.dir, "folder/10-first.conf"), string(jsonOf(t, policyNetwork("first", log))))
	p := newPod(t, "forms")
	for n, test := range []struct{ name, network, want string }{
		{"a NAD", "a", "kube-system-a"},
		{"a name", "by-name", "by-name"},
		{"a file", filepath.Join(s.dir, "one.conf"), "of-file"},
		{"a folder", filepath.Join(s.dir, "folder"), "first"},
	} {
		for _, key := range []string{"clusterNetwork", "defaultNetworks"} {
			t.Run(test.name+" as "+key, func(t *testing.T) {
				keys, want := map[string]any{"clusterNetwork": test.network, "delegates": nil}, "eth0="+test.want
				if key == "defaultNetworks" {
					keys, want = map[string]any{"defaultNetworks": []string{test.network}}, "eth0=cluster net1="+test.want
				}
				s, id := s.on(t).withConf(keys), sandboxID(850+n)
				s.mustAdd(id, p, "")
				s.mustCheck(id, p, "")
				must(t, os.RemoveAll(net+".gone"))
				s.mustDel(id, p, "")
				if got := attached(t, log); got != want {
					t.Errorf("attached %q, want %q", got, want)
				}
				must(t, os.Remove(log))
			})
		}
	}
}

// ADD waits for readinessindicatorfile; STATUS does not, and DEL and CHECK need
// none.
func TestReadinessIndicator(t *testing.T) {
	s, log := policySite(t)
	ready := filepath.Join(s.dir, "ready")
	s = s.withConf(map[string]any{"readinessindicatorfile": ready})
	p, id := newPod(t, "waiting"), sandboxID(860)
	r := request{verb: "ADD", sandbox: id, netns: p.Path(), ifName: "eth0"}
	cmd := exec.CommandContext(deadline(t), filepath.Join(binDir(t), s.as))
	cmd.Env, cmd.Stdin = s.environ(r), bytes.NewReader(s.conf)
	must(t, cmd.Start())
	for range 20 { // each takes as long as an ADD would
		says(t, s.status(), "readinessindicatorfile "+ready)
	}
	if _, err := os.Stat(log); err == nil {
		t.Error("ADD has not waited for the file")
	}
	writeFile(t, ready, "")
	must(t, cmd.Wait())
	must(t, os.Remove(ready))
	s.mustCheck(id, p, "")
	s.mustDel(id, p, "")
	if got, want := recorded(t, log), []string{"ADD eth0", "CHECK eth0", "DEL eth0"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
}
