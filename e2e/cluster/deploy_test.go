package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/kube"
)

// plexusImage is what deploy/Dockerfile makes, by the name that deploy/ has.
const plexusImage = "ghcr.io/plexus-cni/plexus:latest"

// becomeDaemonSet takes the hand-made installation away and makes the image.
func (n *testNode) becomeDaemonSet(t *testing.T) {
	t.Helper()
	n.stopAgent()
	if err := os.Remove(filepath.Join(confDir, "00-plexus.conf")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plexus", "plexusd", "plexusbuiltin", "plexusctl", "sriov", "ovsdpdk", "vppmemif", "userspace"} {
		if err := os.Remove("/opt/cni/bin/" + name); err != nil {
			t.Fatal(err)
		}
	}
	n.must(t, "delete", "namespace", "plexus-system", "--wait=true")
	image, err := json.Marshal(kube.Image{Ref: plexusImage, Entrypoint: []string{"/plexusd"}, Files: map[string]string{
		"/plexus": filepath.Join(n.Bin, "plexus"), "/plexusd": filepath.Join(n.Bin, "plexusd"), "/plexusctl": filepath.Join(n.Bin, "plexusctl"), "/plexusbuiltin": filepath.Join(n.Bin, "plexusbuiltin"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	n.control(t, "/image", bytes.NewReader(image))
}

// becomeHandMade is the way back.
func (n *testNode) becomeHandMade(t *testing.T) {
	t.Helper()
	for _, name := range []string{"plexus", "plexusd", "plexusbuiltin", "plexusctl", "sriov", "ovsdpdk", "vppmemif", "userspace"} {
		data, err := os.ReadFile(filepath.Join(n.Bin, name))
		if err == nil {
			err = os.WriteFile("/opt/cni/bin/"+name, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := n.install(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func confFiles(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(confDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// The DaemonSet of deploy/ puts plexus on the node, follows the cluster network's
// configuration, is upgraded, and takes plexus off again.
func TestDeploy(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	n.becomeDaemonSet(t)
	t.Cleanup(func() { n.becomeHandMade(t) })
	// A pod that is there before plexus comes.
	n.apply(t, strings.Replace(deployment("former", 1, "[]"), "'[]'", "''", 1))
	n.must(t, "rollout", "status", "deployment/former", "--timeout=90s")
	n.must(t, "apply", "-k", filepath.Join(n.Deploy, "kustomize/base"))
	n.must(t, "-n", "plexus-system", "rollout", "status", "daemonset/plexus", "--timeout=90s")
	await(t, "plexus' configuration is there", func() error {
		if files := confFiles(t); files != "00-plexus.conflist 10-pods.conflist plexus.d" {
			return errors.New(files)
		}
		return nil
	})
	n.apply(t, deployment("two", 2, "lan,fast,shm"))
	n.must(t, "rollout", "status", "deployment/two", "--timeout=90s")
	for _, p := range n.pods(t, "two") {
		if s := p.status(t); len(s) != 4 || s[0].Name != "pods" || s[0].IPs[0] != p.Status.PodIP {
			t.Errorf("%s: pod IP %s, network-status %+v", p.Metadata.Name, p.Status.PodIP, s)
		}
	}
	n.kubectlPlexus(t)
	// What was wired before is undone by its own network.
	n.must(t, "delete", "deployment", "former", "--cascade=foreground")
	await(t, "the former pod's address is free", func() error {
		files, err := filepath.Glob("/var/lib/cni/networks/pods/1*")
		if err == nil && len(files) != 2 {
			err = fmt.Errorf("%d addresses: %v", len(files), files)
		}
		return err
	})
	// The cluster network's configuration changes.
	changed := strings.Replace(clusterNetwork, `"hairpinMode": true,`, `"hairpinMode": true, "capabilities": {"mac": true},`, 1)
	if err := os.WriteFile(filepath.Join(confDir, "10-pods.conflist"), []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	await(t, "plexus follows it", func() error {
		data, err := os.ReadFile(filepath.Join(confDir, "00-plexus.conflist"))
		if err == nil && !strings.Contains(string(data), `"mac"`) {
			err = errors.New(string(data))
		}
		return err
	})
	// An upgrade, while a pod comes.
	n.must(t, "-n", "plexus-system", "rollout", "restart", "daemonset/plexus")
	n.must(t, "scale", "deployment/two", "--replicas=4")
	n.must(t, "-n", "plexus-system", "rollout", "status", "daemonset/plexus", "--timeout=90s")
	n.must(t, "rollout", "status", "deployment/two", "--timeout=90s")
	if files := confFiles(t); !strings.Contains(files, "00-plexus.conflist") {
		t.Errorf("after the upgrade: %s", files)
	}
	n.must(t, "delete", "deployment", "two", "--cascade=foreground")
	n.nothingLeft(t)
	// And away.
	n.must(t, "delete", "-k", filepath.Join(n.Deploy, "kustomize/base"), "--wait=true")
	await(t, "plexus is off the node", func() error {
		if files := confFiles(t); files != "10-pods.conflist" {
			return errors.New(files)
		}
		if _, err := os.Stat("/opt/cni/bin/plexus"); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("/opt/cni/bin/plexus: %v", err)
		}
		return nil
	})
	n.apply(t, strings.Replace(deployment("after", 1, "[]"), "'[]'", "''", 1))
	n.must(t, "rollout", "status", "deployment/after", "--timeout=90s")
	n.must(t, "delete", "deployment", "after", "--cascade=foreground")
	n.nothingLeft(t)
}

// kubectlPlexus asks from outside of the node.
func (n *testNode) kubectlPlexus(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(n.Bin, "plexusctl"), filepath.Join(dir, "kubectl-plexus")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"nodes"}, {"pods"}, {"pods", "-o", "wide"}, {"history"}, {"check"}, {"explain", n.pods(t, "two")[0].Metadata.Name}} {
		cmd := exec.CommandContext(t.Context(), "kubectl", append([]string{"plexus"}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "KUBECONFIG="+n.Kubeconfig)
		out, err := cmd.CombinedOutput()
		t.Logf("kubectl plexus %s\n%s", strings.Join(args, " "), out)
		if err != nil {
			t.Errorf("kubectl plexus %s: %v", strings.Join(args, " "), err)
		}
	}
}
