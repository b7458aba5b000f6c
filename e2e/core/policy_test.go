package core

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

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// policySite has the network "a", by a recorder, as a NAD of many namespaces:
// its name in the plugin's configuration is NAMESPACE-a.
func policySite(t *testing.T) (s *site.Site, log string) {
	s = site.New(t, nil)
	s.InstallRecorder()
	log = filepath.Join(s.Dir, "log")
	for _, namespace := range []string{"shop", "lab", "default", "shared", "kube-system", "infra"} {
		s.Manifest(namespace+".yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: a, namespace: %s}\nspec:\n  config: %q\n",
			namespace, must.JSON(t, policyNetwork(namespace+"-a", log))))
	}
	return s.With(map[string]any{"delegates": []any{policyNetwork("cluster", log)}}), log
}

func policyNetwork(name, log string) map[string]any {
	return map[string]any{"cniVersion": "1.1.0", "name": name, "type": site.Recorder, "log": log}
}

// podIn writes a pod of a namespace.
func podIn(s *site.Site, namespace, networks, def string) {
	s.T.Helper()
	annotations := map[string]string{"k8s.v1.cni.cncf.io/networks": networks}
	if def != "" {
		annotations["v1.multus-cni.io/default-network"] = def
	}
	s.Manifest("pod.yaml", string(must.JSON(s.T, map[string]any{
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
	p := site.NewPod(t, "policy")
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
		{"default-network of the pod's namespace", "shop", "", "shop/a", nil, "eth0=shop-a", nil},
		{"isolated, default-network of the pod's namespace", "shop", "", "shop/a", isolated, "", []string{"default-network", `"shop"`, `"kube-system"`, "multusNamespace"}},
		{"the same NAD twice", "shop", "a, a@again", "", nil, "again=shop-a eth0=cluster net1=shop-a", nil},
		{"the same NAD under one name", "shop", "a@x, a@x", "", nil, "", []string{`"x"`, "shop/a"}},
		{"a NAD that is nowhere", "shop", "b", "", nil, "", []string{"shop/b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, id := s.On(t).With(test.keys), site.SandboxID(820+n)
			podIn(s, test.namespace, test.networks, test.def)
			r := site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), Env: []string{"CNI_ARGS=K8S_POD_NAMESPACE=" + test.namespace + ";K8S_POD_NAME=pod"}}
			before := s.World(nil)
			_, _, err := s.Call(r)
			if test.refused != nil {
				site.Says(t, err, test.refused...)
				site.SameWorld(t, before, s.World(nil))
				return
			}
			must.Do(t, err)
			if got := attached(t, log); got != test.want {
				t.Errorf("attached %q, want %q", got, test.want)
			}
			for _, verb := range []string{"CHECK", "DEL"} {
				r.Verb = verb
				_, _, err := s.Call(r)
				must.Do(t, err)
			}
			commands := site.Recorded(t, log)
			third := len(commands) / 3
			undone := slices.Clone(commands[2*third:])
			slices.Reverse(undone)
			for i, command := range commands[:third] {
				if undone[i] != strings.Replace(command, "ADD", "DEL", 1) {
					t.Errorf("commands %q: want DEL in the reverse order of ADD", commands)
				}
			}
			must.Do(t, os.Remove(log))
		})
	}
}

// clusterNetwork is found in each of its forms, a malformed neighbour or not.
func TestClusterNetworkForms(t *testing.T) {
	s, log := policySite(t)
	net := filepath.Join(s.Dir, "net.d")
	must.Do(t, os.MkdirAll(filepath.Join(s.Dir, "folder"), 0o755))
	must.Do(t, os.MkdirAll(net, 0o755))
	must.WriteFile(t, filepath.Join(net, "05-broken.conf"), "{")
	must.WriteFile(t, filepath.Join(net, "10-named.conflist"), string(must.JSON(t, map[string]any{"cniVersion": "1.1.0", "name": "by-name", "plugins": []any{policyNetwork("", log)}})))
	must.WriteFile(t, filepath.Join(s.Dir, "one.conf"), string(must.JSON(t, policyNetwork("of-file", log))))
	must.WriteFile(t, filepath.Join(s.Dir, "folder/20-second.conf"), string(must.JSON(t, policyNetwork("second", log))))
	must.WriteFile(t, filepath.Join(s.Dir, "folder/10-first.conf"), string(must.JSON(t, policyNetwork("first", log))))
	p := site.NewPod(t, "forms")
	for n, test := range []struct{ name, network, want string }{
		{"a NAD", "a", "kube-system-a"},
		{"a name", "by-name", "by-name"},
		{"a file", filepath.Join(s.Dir, "one.conf"), "of-file"},
		{"a folder", filepath.Join(s.Dir, "folder"), "first"},
	} {
		for _, key := range []string{"clusterNetwork", "defaultNetworks"} {
			t.Run(test.name+" as "+key, func(t *testing.T) {
				keys, want := map[string]any{"clusterNetwork": test.network, "delegates": nil}, "eth0="+test.want
				if key == "defaultNetworks" {
					keys, want = map[string]any{"defaultNetworks": []string{test.network}}, "eth0=cluster net1="+test.want
				}
				s, id := s.On(t).With(keys), site.SandboxID(850+n)
				s.MustAdd(id, p, "")
				s.MustCheck(id, p, "")
				must.Do(t, os.RemoveAll(net+".gone"))
				s.MustDel(id, p, "")
				if got := attached(t, log); got != want {
					t.Errorf("attached %q, want %q", got, want)
				}
				must.Do(t, os.Remove(log))
			})
		}
	}
}

// ADD waits for readinessindicatorfile; STATUS does not, and DEL and CHECK need
// none.
func TestReadinessIndicator(t *testing.T) {
	s, log := policySite(t)
	ready := filepath.Join(s.Dir, "ready")
	s = s.With(map[string]any{"readinessindicatorfile": ready})
	p, id := site.NewPod(t, "waiting"), site.SandboxID(860)
	r := site.Request{Verb: "ADD", Sandbox: id, Netns: p.Path(), IfName: "eth0"}
	cmd := exec.CommandContext(must.Deadline(t), filepath.Join(site.BinDir(t), s.As))
	cmd.Env, cmd.Stdin = s.Environ(r), bytes.NewReader(s.Conf)
	must.Do(t, cmd.Start())
	for range 20 { // each takes as long as an ADD would
		site.Says(t, s.Status(), "readinessindicatorfile "+ready)
	}
	if _, err := os.Stat(log); err == nil {
		t.Error("ADD has not waited for the file")
	}
	must.WriteFile(t, ready, "")
	must.Do(t, cmd.Wait())
	must.Do(t, os.Remove(ready))
	s.MustCheck(id, p, "")
	s.MustDel(id, p, "")
	if got, want := site.Recorded(t, log), []string{"ADD eth0", "CHECK eth0", "DEL eth0"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
}
