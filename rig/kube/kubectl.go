package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Kubectl runs kubectl as administrator and returns what it wrote to stdout; what
// it wrote to stderr too is in the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, "", args...)
}

// Apply runs kubectl apply on YAML.
func (c *Cluster) Apply(ctx context.Context, yaml string) (string, error) {
	return c.kubectl(ctx, yaml, "apply", "-f", "-")
}

func (c *Cluster) kubectl(ctx context.Context, in string, args ...string) (string, error) {
	kubectl, err := c.program("kubectl")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, kubectl, args...)
	cmd.Stdin = strings.NewReader(in)
	cmd.Env = append(c.environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECACHEDIR="+c.path("run/kubectl"), "KUBERC=off")
	out, err := output(cmd)
	if err != nil {
		return out, fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// Clientset is a client of the administrator.
func (c *Cluster) Clientset() *kubernetes.Clientset { return c.client }

// RESTConfig reads a kubeconfig for a client that is not slowed down.
func (c *Cluster) RESTConfig(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read a kubeconfig: %w", err)
	}
	config.QPS = -1
	// The API server is on this machine, whatever the environment says.
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	return config, nil
}

// connectClient makes the administrator's client.
func (c *Cluster) connectClient() error {
	config, err := c.RESTConfig(c.Kubeconfig())
	if err == nil {
		c.client, err = kubernetes.NewForConfig(config)
	}
	if err != nil {
		return fmt.Errorf("make a client: %w", err)
	}
	return nil
}
