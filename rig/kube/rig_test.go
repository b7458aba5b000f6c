package kube_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/plexus-cni/plexus/rig/kube"
)

func TestCluster(t *testing.T) {
	c := start(t, options())

	t.Run("pod", func(t *testing.T) {
		run(t, c, "a", "")
		if got := kubectl(t, c, "exec", "a", "--", "ip", "-o", "addr", "show", "eth0"); !strings.Contains(got, "10.244.0.") {
			t.Errorf("kubectl exec: eth0 of the pod: %s", got)
		}
		if got := kubectl(t, c, "get", "node", kube.NodeName, "-o", "jsonpath={.status.nodeInfo.kubeletVersion}"); got != kube.Version {
			t.Errorf("kubelet is %s, want %s", got, kube.Version)
		}
	})
	t.Run("service account", func(t *testing.T) {
		// busybox does not speak TLS as the API server does: in the pod it is seen that
		// the Service is reached, and outside that the pod's token is good for it.
		kubectl(t, c, "exec", "a", "--", "sh", "-c", "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null")
		of := kubectl(t, c, "exec", "a", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
		file, err := c.KubeconfigForToken(of)
		if err != nil {
			t.Fatal(err)
		}
		self, err := client(t, c, file).AuthenticationV1().SelfSubjectReviews().Create(deadline(t), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := self.Status.UserInfo.Username; got != "system:serviceaccount:default:default" {
			t.Errorf("the pod's token is of %s", got)
		}
		token, err := c.Token(deadline(t), "default", "default")
		if err != nil {
			t.Fatal(err)
		}
		review, err := c.Clientset().AuthenticationV1().TokenReviews().Create(deadline(t),
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:default" {
			t.Errorf("review of a token: %+v", review.Status)
		}
	})
	t.Run("users", func(t *testing.T) {
		file, err := c.KubeconfigFor("eve", "spies")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client(t, c, file).CoreV1().Pods("default").List(deadline(t), metav1.ListOptions{}); err == nil ||
			!strings.Contains(err.Error(), `User "eve" cannot list resource "pods"`) {
			t.Errorf("list as a user without rights: %v", err)
		}
		denied := audit(t, c, func(e kube.Event) bool { return e.User == "eve" })
		if len(denied) != 1 || denied[0].Code != 403 || denied[0].Verb != "list" || denied[0].Resource != "pods" ||
			denied[0].Namespace != "default" || !slices.Contains(denied[0].Groups, "spies") {
			t.Errorf("audit of it: %+v", denied)
		}
	})
	t.Run("audit", func(t *testing.T) {
		got := audit(t, c, func(e kube.Event) bool {
			return e.User == kube.NodeUser && e.Verb == "patch" && e.Resource == "pods" && e.Subresource == "status" && e.Name == "a" && e.Code == 200
		})
		if len(got) == 0 {
			t.Errorf("no patch of the pod's status by kubelet among:\n%+v", audit(t, c, nil))
		}
	})
	t.Run("node", func(t *testing.T) {
		for cmd, want := range map[string]string{
			"readlink -f /var/run":           "/run\n",
			"ls /etc/cni/net.d":              "10-pods.conflist\n",
			"ls /opt/cni/bin":                "bridge\nhost-local\nloopback\n",
			"cat /proc/1/comm":               "pause\n",
			"readlink -f /proc/self/exe":     "/usr/bin/readlink\n",
			"ls -d /sys/class/net/cni0":      "/sys/class/net/cni0\n",
			"stat -fc %T /run":               "tmpfs\n",
			"ls /var/lib/kubelet/pods -1 -q": kubectl(t, c, "get", "pod", "a", "-o", "jsonpath={.metadata.uid}") + "\n",
		} {
			got, err := c.NodeExec(deadline(t), strings.Fields(cmd)...)
			if err != nil || got != want {
				t.Errorf("%s: %q (%v), want %q", cmd, got, err, want)
			}
		}
		for _, socket := range []string{"/var/lib/kubelet/pod-resources/kubelet.sock", "/var/lib/kubelet/device-plugins/kubelet.sock"} {
			conn, err := net.Dial("unix", c.NodePath(socket))
			if err != nil {
				t.Error(err)
				continue
			}
			conn.Close()
		}
		if _, err := os.Stat(c.NodePath("/var/lib/kubelet/plugins_registry")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(c.Netns()); err != nil {
			t.Error(err)
		}
	})
	t.Run("types", func(t *testing.T) {
		got := kubectl(t, c, "api-resources", "--no-headers", "-o", "name")
		for _, want := range []string{"network-attachment-definitions.k8s.cni.cncf.io", "resourceclaims.resource.k8s.io", "deviceclasses.resource.k8s.io"} {
			if !strings.Contains(got, want+"\n") {
				t.Errorf("%s is not served", want)
			}
		}
		kubectl(t, c, "get", "--raw", "/apis/resource.k8s.io/v1")
		apply(t, c, `{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: fast}, spec: {config: "{}"}}`)
	})
	t.Run("hostPath", func(t *testing.T) {
		run(t, c, "host", `hostNetwork: true
  volumes: [{name: run, hostPath: {path: /run}}]
  tolerations: [{operator: Exists}]`)
		if got := kubectl(t, c, "get", "pod", "host", "-o", "jsonpath={.status.podIP}"); got != c.NodeIP() {
			t.Errorf("address of a pod with hostNetwork: %s, want %s", got, c.NodeIP())
		}
	})
	t.Run("image", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "image.tar")
		i := kube.Image{Ref: "plexus.test/mine:1", Busybox: true, Files: map[string]string{"/opt/bridge": "../../bin/bridge"}, Entrypoint: []string{"/bin/sleep", "infinity"}}
		if err := c.BuildImage(deadline(t), file, i); err != nil {
			t.Fatal(err)
		}
		if err := c.ImportImage(deadline(t), file); err != nil {
			t.Fatal(err)
		}
		kubectl(t, c, "run", "mine", "--image="+i.Ref, "--grace-period=1")
		kubectl(t, c, "wait", "--for=condition=Ready", "--timeout=40s", "pod/mine")
		kubectl(t, c, "exec", "mine", "--", "test", "-x", "/opt/bridge")
	})
	t.Run("API server", func(t *testing.T) {
		c.StopAPIServer()
		if _, err := c.Kubectl(deadline(t), "get", "pods"); err == nil {
			t.Error("kubectl works without an API server")
		}
		timed(t, "StartAPIServer", func() error { return c.StartAPIServer(deadline(t)) })
		if got := kubectl(t, c, "get", "pods", "-o", "name"); !strings.Contains(got, "pod/a\n") {
			t.Errorf("pods after a restart of the API server: %s", got)
		}
	})
	t.Run("restarts", func(t *testing.T) {
		timed(t, "RestartContainerd", func() error { return c.RestartContainerd(deadline(t)) })
		timed(t, "RestartKubelet", func() error { return c.RestartKubelet(deadline(t)) })
		run(t, c, "b", "")
		kubectl(t, c, "exec", "a", "--", "ping", "-c1", "-W5", strings.TrimSpace(kubectl(t, c, "get", "pod", "b", "-o", "jsonpath={.status.podIP}")))
	})
	t.Run("deletion", func(t *testing.T) {
		timed(t, "pod b deleted", func() error {
			_, err := c.Kubectl(deadline(t), "delete", "pod", "b")
			return err
		})
		if got := kubectl(t, c, "get", "pods", "-o", "name"); strings.Contains(got, "pod/b\n") {
			t.Errorf("pods: %s", got)
		}
		// The others stay: Close has to end them.
	})
	t.Run("NodeCommand is killed", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := c.NodeCommand(ctx, "sh", "-c", "echo $$; exec sleep 4242")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := make([]byte, 16)
		n, err := out.Read(pid)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_, _ = io.Copy(io.Discard, out) // until nobody can write any more
		_ = cmd.Wait()
		gone := func() bool {
			_, err := c.NodeExec(deadline(t), "test", "-e", "/proc/"+strings.TrimSpace(string(pid[:n])))
			return err != nil
		}
		for end := time.Now().Add(10 * time.Second); !gone(); { // it has to be reaped yet
			if time.Now().After(end) {
				t.Fatal("the command runs on")
			}
		}
	})
}

// A node without a network gets one from a DaemonSet, which finds the folders of
// CNI where every node has them.
func TestInstalled(t *testing.T) {
	c := start(t, kube.Options{})
	file := filepath.Join(t.TempDir(), "network.tar")
	if err := c.BuildImage(deadline(t), file, kube.Image{
		Ref:     "plexus.test/network:1",
		Busybox: true,
		Files: map[string]string{
			"/plugins/bridge": "../../bin/bridge", "/plugins/host-local": "../../bin/host-local", "/plugins/loopback": "../../bin/loopback",
		},
		Entrypoint: []string{"/bin/sh", "-c", "cp /plugins/* /bin.node && cp /conf/* /conf.node && exec sleep infinity"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.ImportImage(deadline(t), file); err != nil {
		t.Fatal(err)
	}
	apply(t, c, fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: network, namespace: kube-system}
data: {10-pods.conflist: %s}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: network, namespace: kube-system}
spec:
  selector: {matchLabels: {app: network}}
  template:
    metadata: {labels: {app: network}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers:
        - name: network
          image: plexus.test/network:1
          volumeMounts: [{name: bin, mountPath: /bin.node}, {name: conf, mountPath: /conf.node}, {name: data, mountPath: /conf}]
      volumes:
        - {name: bin, hostPath: {path: /opt/cni/bin, type: Directory}}
        - {name: conf, hostPath: {path: /etc/cni/net.d, type: Directory}}
        - {name: data, configMap: {name: network, items: [{key: 10-pods.conflist, path: 10-pods.conflist}]}}
`, strconv.Quote(bridges)))
	timed(t, "WaitNode", func() error { return c.WaitNode(deadline(t)) })
	run(t, c, "a", "")
	if _, err := os.Stat(filepath.Join(c.BinDir(), "bridge")); err != nil {
		t.Error(err)
	}
}

// The control plane alone stores what it is given.
func TestControlPlane(t *testing.T) {
	c := start(t, kube.Options{ControlPlane: true})
	apply(t, c, pod("a", ""))
	apply(t, c, `{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: fast}, spec: {config: "{}"}}`)
	c.StopAPIServer()
	timed(t, "StartAPIServer", func() error { return c.StartAPIServer(deadline(t)) })
	if got := kubectl(t, c, "get", "pods,net-attach-def", "-o", "name"); got != "pod/a\nnetworkattachmentdefinition.k8s.cni.cncf.io/fast\n" &&
		got != "pod/a\nnetwork-attachment-definition.k8s.cni.cncf.io/fast\n" {
		t.Errorf("after a restart there are:\n%s", got)
	}
	if _, err := c.NodeExec(t.Context(), "true"); err == nil {
		t.Error("NodeExec without a node")
	}
}

// A start that fails says what the program said, and leaves nothing.
func TestFailedStart(t *testing.T) {
	for flag, o := range map[string]kube.Options{
		"apiserver": {ControlPlane: true, APIServer: []string{"--no-such-flag"}},
		"kubelet":   {Kubelet: []string{"--no-such-flag"}},
	} {
		t.Run(flag, func(t *testing.T) {
			before := traces(t)
			c, err := kube.Start(t.Context(), o)
			if err == nil {
				c.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), "unknown flag: --no-such-flag") {
				t.Errorf("the error does not tell: %v", err)
			}
			compare(t, before)
		})
	}
}

// The version that is stamped is the one that is compiled.
func TestVersion(t *testing.T) {
	text, err := os.ReadFile("kubernetes/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\tk8s.io/kubernetes " + kube.Version + "\n"; !strings.Contains(string(text), want) {
		t.Errorf("kubernetes/go.mod does not require %s", want)
	}
}
