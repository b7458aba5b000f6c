package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kubeconfig is the path of the administrator's kubeconfig. It works on the
// machine, in the node and, where it can be read, in a pod.
func (c *Cluster) Kubeconfig() string { return c.path("admin.kubeconfig") }

// KubeconfigFor writes a kubeconfig of the user, who is in the groups given, and
// returns its path. The user has a client certificate and what RBAC grants.
func (c *Cluster) KubeconfigFor(user string, groups ...string) (string, error) {
	cred, err := c.ca.client(user, groups...)
	if err != nil {
		return "", err
	}
	return c.newKubeconfig(map[string]any{"client-certificate-data": cred.cert, "client-key-data": cred.key})
}

// KubeconfigForToken writes a kubeconfig of whom the token belongs to and returns
// its path.
func (c *Cluster) KubeconfigForToken(token string) (string, error) {
	return c.newKubeconfig(map[string]any{"token": token})
}

// Token asks for a token of a service account, for the API server or for the
// audiences given. It is good for an hour.
func (c *Cluster) Token(ctx context.Context, namespace, account string, audiences ...string) (string, error) {
	expires := int64(3600)
	t, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &expires},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("get a token of service account %s/%s: %w", namespace, account, err)
	}
	return t.Status.Token, nil
}

// newKubeconfig writes a kubeconfig of a user into a file of its own.
func (c *Cluster) newKubeconfig(user map[string]any) (string, error) {
	f, err := os.CreateTemp(c.path("kubeconfigs"), "*.kubeconfig")
	if err != nil {
		return "", fmt.Errorf("write a kubeconfig: %w", err)
	}
	f.Close()
	return f.Name(), c.writeKubeconfig(f.Name(), user)
}

func (c *Cluster) writeKubeconfig(path string, user map[string]any) error {
	type named map[string]any
	// JSON is YAML; what is bytes is base64 in both.
	text, err := json.MarshalIndent(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"clusters":        []named{{"name": "plexus", "cluster": named{"server": c.Server(), "certificate-authority-data": c.ca.pem}}},
		"users":           []named{{"name": "user", "user": user}},
		"contexts":        []named{{"name": "plexus", "context": named{"cluster": "plexus", "user": "user"}}},
		"current-context": "plexus",
	}, "", "  ")
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write a kubeconfig: %w", err)
	}
	return nil
}

// writeKubeconfigs writes the kubeconfigs of the administrator and of Kubernetes'
// own programs.
func (c *Cluster) writeKubeconfigs() error {
	for name, who := range map[string][]string{
		"admin":                   {"admin", "system:masters"},
		"kube-controller-manager": {"system:kube-controller-manager"},
		"kube-scheduler":          {"system:kube-scheduler"},
		"kubelet":                 {NodeUser, "system:nodes"},
	} {
		cred, err := c.ca.client(who[0], who[1:]...)
		if err != nil {
			return err
		}
		user := map[string]any{"client-certificate-data": cred.cert, "client-key-data": cred.key}
		if err := c.writeKubeconfig(c.path(name+".kubeconfig"), user); err != nil {
			return err
		}
	}
	return nil
}
