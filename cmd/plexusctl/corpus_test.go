package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/kube"
	"github.com/plexus-cni/plexus/node"
)

const corpusDir = "../../conf/testdata/corpus"

// The corpus are configurations of the kinds that users of Multus, sriov-cni,
// the SR-IOV network operator, userspace-cni, ovs-cni, whereabouts, bond-cni and
// the reference plugins have: each is checked and planned, and the verdict is
// what testdata/corpus.txt says.
func TestCorpus(t *testing.T) {
	files, err := os.ReadDir(corpusDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 60 {
		t.Errorf("%d configurations, want 60 at least", len(files))
	}
	var verdicts strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(corpusDir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		verdicts.WriteString(verdict(t, f.Name(), data))
	}
	golden(t, "corpus.txt", verdicts.String())
}

// verdict is what plexus says of a file: "accepted" or "refused", what it would
// attach, and each warning and problem.
func verdict(t *testing.T, name string, data []byte) string {
	t.Helper()
	_, findings := agent.Validate(name, data)
	var lines []string
	word := "accepted"
	for _, f := range findings {
		switch {
		case !f.Warning:
			word = "refused"
		case word == "accepted":
			word = "accepted with warnings"
		}
		lines = append(lines, "  "+strings.ReplaceAll(strings.TrimPrefix(f.String(), name+": "), "\n", " "))
	}
	plans, err := plansOf(t, name, data)
	for _, p := range plans {
		lines = append(lines, "  "+p)
	}
	if err != nil && word != "refused" {
		word = "refused"
		lines = append(lines, "  plan: "+strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if word == "refused" && strings.HasPrefix(name, "multus") && filepath.Ext(name) == ".conf" {
		lines = append(lines, "  plexusctl migrate: "+migrated(t, name, data))
	}
	return name + ": " + word + "\n" + strings.Join(append(lines, ""), "\n")
}

// migrated is what becomes of a node's configuration that plexus does not take
// as it is.
func migrated(t *testing.T, name string, data []byte) string {
	t.Helper()
	n := node.Multus{ConfDir: t.TempDir(), CacheDir: t.TempDir(), Delegates: t.TempDir()}
	if err := os.WriteFile(filepath.Join(n.ConfDir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := node.FromMultus(n)
	if err != nil {
		return strings.ReplaceAll(err.Error(), n.ConfDir+"/", "")
	}
	text := "accepted"
	if len(m.Dropped) > 0 {
		text += " without " + strings.Join(m.Dropped, ", ")
	}
	c, err := conf.Parse(m.Conf)
	if err != nil {
		return err.Error()
	}
	if strings.HasPrefix(c.ClusterNetwork, "/") {
		text += ", cluster network " + c.ClusterNetwork
	}
	return text
}

// plansOf plans every pod of a file, or a pod that asks for its networks, or one
// on the node that the file configures.
func plansOf(t *testing.T, name string, data []byte) ([]string, error) {
	t.Helper()
	dir := t.TempDir()
	write := func(file, text string) string {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, known := range []string{"pods", "logs", "metrics", "site-lan"} {
		write("net.d/"+known+".conf", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "type": "bridge", "capabilities": {"portMappings": true}}`, known))
	}
	node := `{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "clusterNetwork": "pods"}`
	if filepath.Ext(name) != ".yaml" {
		if strings.HasPrefix(name, "multus") || strings.HasPrefix(name, "plexus") {
			node = string(data)
		} else {
			node = strings.Replace(node, `"pods"`, fmt.Sprintf("%q", write("file/"+name, string(data))), 1)
		}
		c, err := conf.Parse([]byte(node))
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(c.ClusterNetwork, "/") && !strings.HasPrefix(c.ClusterNetwork, dir) { // one that this machine does not have
			c.ClusterNetwork = "pods"
		}
		p, err := planOf(dir, c, conf.Args{})
		return []string{p}, err
	}
	documents, err := kube.ParseManifests(name, data)
	if err != nil {
		return nil, err
	}
	write("manifests/"+name, string(data))
	var pods []*conf.Pod
	var networks []string
	for _, d := range documents {
		if d.Pod != nil {
			pods = append(pods, d.Pod)
		} else {
			networks = append(networks, d.Network.Name)
		}
	}
	if len(pods) == 0 {
		write("manifests/pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: asks, annotations: {k8s.v1.cni.cncf.io/networks: '"+strings.Join(networks, ",")+"'}}\n")
		pods = []*conf.Pod{{Namespace: "default", Name: "asks"}}
	}
	c, err := conf.Parse([]byte(node))
	if err != nil {
		return nil, err
	}
	var plans []string
	for _, pod := range pods {
		p, err := planOf(dir, c, conf.Args{{"K8S_POD_NAMESPACE", pod.Namespace}, {"K8S_POD_NAME", pod.Name}})
		if err != nil {
			return plans, err
		}
		plans = append(plans, "pod "+pod.Name+": "+p)
	}
	return plans, nil
}

// planOf is a plan in words: "eth0=cluster(bridge) net1=default/fast(sriov 0000:01:00.0)".
func planOf(dir string, c *conf.Conf, args conf.Args) (string, error) {
	e := &engine.Engine{
		Source:  &kube.Manifests{Dir: filepath.Join(dir, "manifests"), ConfDir: filepath.Join(dir, "net.d")},
		Devices: everyDevice{},
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	_, plan, err := e.Plan(context.Background(), &engine.Request{Conf: c, Network: c.Name, IfName: "eth0", Args: args})
	if err != nil {
		return "", err
	}
	var all []string
	for _, n := range plan.Networks {
		text := n.IfName + "=" + n.Name + "(" + strings.Join(n.List.Types(), ",")
		if device, ok := n.CapabilityArgs["deviceID"]; ok {
			text += fmt.Sprint(" ", device)
		}
		if len(n.DefaultRoute) > 0 {
			text += fmt.Sprint(" default via ", n.DefaultRoute)
		}
		all = append(all, text+")")
	}
	return strings.Join(all, " "), nil
}

// everyDevice is a device plugin that has given a pod two devices of each
// resource of the corpus.
type everyDevice struct{}

func (everyDevice) OfPod(context.Context, *conf.Pod) (map[string][]string, error) {
	given := map[string][]string{}
	for i, resource := range []string{
		"example.com/vf_a", "example.com/vf_dpdk", "example.com/vf_left", "example.com/vf_right", "example.com/whole_nic", "example.com/rep_a",
		"openshift.io/vf_a", "openshift.io/vf_b", "openshift.io/vf_c", "openshift.io/vf_d", "openshift.io/ib_a", "openshift.io/rep_a",
	} {
		given[resource] = []string{fmt.Sprintf("0000:%02x:10.0", i), fmt.Sprintf("0000:%02x:10.2", i)}
	}
	given["bridge.network.kubevirt.io/br10"] = []string{"br10-7"}
	return given, nil
}
