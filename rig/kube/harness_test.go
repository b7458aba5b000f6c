package kube_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/plexus-cni/plexus/rig/kube"
)

// bridges is the network of the pods: the reference plugins alone.
const bridges = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "subnet": "10.244.0.0/24"}}]}`

// options are a node with that network.
func options() kube.Options {
	return kube.Options{
		CNI:     map[string]string{"10-pods.conflist": bridges},
		Plugins: []string{"../../bin/bridge", "../../bin/host-local", "../../bin/loopback"},
	}
}

// timed logs how long a step takes and ends the test if it fails.
func timed(t testing.TB, what string, step func() error) {
	t.Helper()
	begin := time.Now()
	err := step()
	t.Logf("%-32s %8.1f ms", what, float64(time.Since(begin).Microseconds())/1000)
	if err != nil {
		t.Fatal(err)
	}
}

// start starts a cluster, and sees to it that nothing of it stays.
func start(t *testing.T, o kube.Options) *kube.Cluster {
	t.Helper()
	before := traces(t)
	var c *kube.Cluster
	timed(t, "Start", func() (err error) {
		c, err = kube.Start(t.Context(), o)
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			logs(t, c)
		}
		timed(t, "Close", c.Close)
		compare(t, before)
	})
	return c
}

// logs shows what the programs printed last.
func logs(t *testing.T, c *kube.Cluster) {
	for _, program := range []string{"node", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet"} {
		text, err := os.ReadFile(c.Log(program))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s:\n%s", program, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// deadline bounds what a test waits for; it is no measure.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// kubectl runs kubectl, or ends the test.
func kubectl(t testing.TB, c *kube.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(deadline(t), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pod is the manifest of a pod that waits to be deleted.
func pod(name, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  %s
  containers:
    - {name: app, image: "%s", command: [sleep, infinity]}
`, name, more, kube.BusyboxImage)
}

func apply(t testing.TB, c *kube.Cluster, yaml string) {
	t.Helper()
	if _, err := c.Apply(deadline(t), yaml); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, c *kube.Cluster, name, more string) {
	t.Helper()
	apply(t, c, pod(name, more))
	timed(t, "pod "+name+" ready", func() error {
		_, err := c.Kubectl(deadline(t), "wait", "--for=condition=Ready", "--timeout=40s", "pod/"+name)
		return err
	})
}

func client(t testing.TB, c *kube.Cluster, kubeconfig string) *kubernetes.Clientset {
	t.Helper()
	config, err := c.RESTConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func audit(t testing.TB, c *kube.Cluster, match func(kube.Event) bool) []kube.Event {
	t.Helper()
	events, err := c.Audit(match)
	if err != nil {
		t.Fatal(err)
	}
	return events
}
