package kube

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containerd's and kubelet's configurations. Folders and sockets are the default
// ones: they are the node's.
var (
	containerdConf = template.Must(template.New("containerd.toml").Parse(`version = 2
# These would load kernel modules, or start what is not there.
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  disable_apparmor = true
  restrict_oom_score_adj = true # the test itself may be restricted
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`))
	kubeletConf = template.Must(template.New("kubelet.yaml").Parse(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {{.IP}}
tlsCertFile: {{.Dir}}/pki/kubelet.crt
tlsPrivateKeyFile: {{.Dir}}/pki/kubelet.key
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: {{.Dir}}/pki/ca.crt}}
authorization: {mode: Webhook}
readOnlyPort: 0
cgroupDriver: cgroupfs
cgroupRoot: {{.Cgroup}}
failCgroupV1: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/volumeplugins
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
# Whatever the machine is short of, it is no reason for a test to lose its pods.
evictionHard: {memory.available: 50Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
failSwapOn: false
serializeImagePulls: false
`))
)

func (c *Cluster) startContainerd(ctx context.Context) error {
	if err := c.writeConf(containerdConf); err != nil {
		return err
	}
	var err error
	if c.containerd, err = c.start("containerd", c.node, "--config", c.path("containerd.toml")); err != nil {
		return err
	}
	return c.containerd.await(ctx, "containerd answers", func(ctx context.Context) (bool, error, error) {
		if _, err := os.Stat(c.NodePath("/run/containerd/containerd.sock")); err != nil {
			return false, err, nil
		}
		_, err := c.NodeExec(ctx, "ctr", "--connect-timeout", "1s", "version")
		return err == nil, err, nil
	})
}

func (c *Cluster) startKubelet() error {
	if err := c.writeConf(kubeletConf); err != nil {
		return err
	}
	var err error
	c.kubelet, err = c.start("kubelet", c.node, append([]string{
		"--config=" + c.path("kubelet.yaml"),
		"--kubeconfig=" + c.path("kubelet.kubeconfig"),
		"--hostname-override=" + NodeName,
		"--node-ip=" + c.NodeIP(),
	}, c.options.Kubelet...)...)
	return err
}

func (c *Cluster) writeConf(t *template.Template) error {
	var text bytes.Buffer
	err := t.Execute(&text, struct{ Pause, IP, Dir, Cgroup string }{PauseImage, c.NodeIP(), c.dir, cgroupRoot})
	if err == nil {
		err = os.WriteFile(c.path(t.Name()), text.Bytes(), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", t.Name(), err)
	}
	return nil
}

// RestartContainerd ends containerd and starts it again; containers run on.
func (c *Cluster) RestartContainerd(ctx context.Context) error {
	if c.node == nil {
		return errNoNode
	}
	c.containerd.stop()
	return c.startContainerd(ctx)
}

// RestartKubelet ends kubelet, starts it again and waits until the node has heard
// of it.
func (c *Cluster) RestartKubelet(ctx context.Context) error {
	if c.node == nil {
		return errNoNode
	}
	c.kubelet.stop()
	if err := c.startKubelet(); err != nil {
		return err
	}
	return c.kubelet.await(ctx, "kubelet is healthy", func(ctx context.Context) (bool, error, error) {
		_, err := c.NodeExec(ctx, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:10248/healthz")
		return err == nil, err, nil
	})
}

// WaitNode waits until the node is ready and pods can be scheduled on it: it needs a
// CNI configuration for that.
func (c *Cluster) WaitNode(ctx context.Context) error {
	return c.awaitNode(ctx, "the node is schedulable", func(n *corev1.Node) error {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status != corev1.ConditionTrue {
				return fmt.Errorf("the node is not ready: %s", cond.Message)
			}
		}
		if len(n.Status.Conditions) == 0 || len(n.Spec.Taints) > 0 {
			return fmt.Errorf("the node has taints %v", n.Spec.Taints)
		}
		return nil
	})
}

// awaitNode waits until the API server's Node is as it should be.
func (c *Cluster) awaitNode(ctx context.Context, what string, check func(*corev1.Node) error) error {
	return c.kubelet.await(ctx, what, func(ctx context.Context) (bool, error, error) {
		for _, p := range []*daemon{c.controllers, c.scheduler, c.containerd} {
			if err := p.Ended(); err != nil {
				return false, nil, err
			}
		}
		n, err := c.client.CoreV1().Nodes().Get(ctx, NodeName, metav1.GetOptions{})
		if err == nil {
			err = check(n)
		}
		return err == nil, err, nil
	})
}

// awaitNamespace waits until pods can be created: they have a service account and
// what they check the API server with.
func (c *Cluster) awaitNamespace(ctx context.Context, name string) error {
	return c.controllers.await(ctx, "pods can be created", func(ctx context.Context) (bool, error, error) {
		if _, err := c.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
			return false, err, nil
		}
		_, err := c.client.CoreV1().ConfigMaps(name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil, err, nil
	})
}
