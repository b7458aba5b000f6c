package cluster_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

// Over TCP the agent is read by whom the API server knows and lets.
func TestReadingOverTCP(t *testing.T) {
	n := theNode
	const address = "127.0.0.1:9499"
	n.stopAgent()
	if err := n.startAgent(t.Context(), "--listen", address); err != nil {
		t.Fatal(err)
	}
	n.apply(t, `
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{nonResourceURLs: [/metrics, /v1/attachments], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
`)
	config, err := clientcmd.BuildConfigFromFlags("", n.control(t, "/token?namespace=default&account=reader", nil))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the certificate is the agent's own
	for _, test := range []struct {
		path, token string
		want        int
		says        string
	}{
		{"/healthz", "", 200, "ok"},
		{"/metrics", "", 401, "bearer token"},
		{"/metrics", "nonsense", 403, "not known"},
		{"/metrics", config.BearerToken, 200, "plexus_reconcile_findings_total"},
		{"/v1/attachments", config.BearerToken, 200, `"sandboxes"`},
		{"/v1/history", config.BearerToken, 403, "may not get"},
		{"/v1/resync", config.BearerToken, 403, "may not get"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.token != "" {
			r.Header.Set("Authorization", "Bearer "+test.token)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != test.want || !strings.Contains(string(text), test.says) {
			t.Errorf("%s with token %.8q: %s %.300s (%v), want %d and %q", test.path, test.token, resp.Status, text, err, test.want, test.says)
		}
	}
	n.stopAgent()
	if err := n.startAgent(t.Context()); err != nil {
		t.Fatal(fmt.Errorf("without --listen: %w", err))
	}
}
