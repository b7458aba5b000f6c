package cluster_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/kube"
)

// networks are the NADs that the pods ask for.
const networks = `
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: lan}
spec:
  config: |
    {"cniVersion": "1.0.0", "type": "bridge", "bridge": "br-lan", "ipam": {"type": "host-local", "subnet": "10.55.0.0/16"}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fast}
spec:
  config: |
    {"cniVersion": "1.0.0", "type": "ovsdpdk", "bridge": "br0", "ipam": {"type": "host-local", "subnet": "10.56.0.0/16"}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: shm}
spec:
  config: |
    {"cniVersion": "1.0.0", "type": "vppmemif", "bridgeDomain": {"name": "demo"}, "ipam": {"type": "host-local", "subnet": "10.57.0.0/16"}}
`

// deployment is of pods that see their network-status by the downward API.
func deployment(name string, replicas int, asked string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata:
      labels: {app: %[1]s}
      annotations: {k8s.v1.cni.cncf.io/networks: '%[3]s'}
    spec:
      terminationGracePeriodSeconds: 0
      volumes:
      - {name: shared-dir, emptyDir: {}}
      - name: podinfo
        downwardAPI: {items: [{path: status, fieldRef: {fieldPath: "metadata.annotations['k8s.v1.cni.cncf.io/network-status']"}}]}
      containers:
      - name: app
        image: %[4]s
        command: [sleep, infinity]
        volumeMounts: [{name: shared-dir, mountPath: /shared}, {name: podinfo, mountPath: /etc/podinfo}]
`, name, replicas, asked, kube.BusyboxImage)
}

// pod is what the tests read of a pod.
type pod struct {
	Metadata struct {
		Name, UID   string
		Annotations map[string]string
	}
	Status struct {
		Phase, PodIP string
	}
}

func (p *pod) status(t testing.TB) []networkStatus {
	t.Helper()
	var s []networkStatus
	if err := json.Unmarshal([]byte(p.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"]), &s); err != nil {
		t.Fatalf("network-status of %s: %v", p.Metadata.Name, err)
	}
	return s
}

type networkStatus struct {
	Name      string
	Interface string
	IPs       []string
	Default   bool
	Info      struct {
		Type      string
		Memif     struct{ Path string }
		VhostUser struct{ Path string } `json:"vhost-user"`
	} `json:"device-info"`
}

func (n *testNode) pods(t testing.TB, app string) []pod {
	t.Helper()
	var list struct{ Items []pod }
	if err := json.Unmarshal([]byte(n.must(t, "get", "pods", "-l", "app="+app, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestDeployment(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	n.apply(t, deployment("ten", 10, "lan,fast,shm"))
	n.must(t, "rollout", "status", "deployment/ten", "--timeout=90s")
	pods := n.pods(t, "ten")
	for _, p := range pods {
		s := p.status(t)
		if len(s) != 4 || s[0].Name != "pods" || !s[0].Default || len(s[0].IPs) != 1 || s[0].IPs[0] != p.Status.PodIP {
			t.Errorf("%s: pod IP %s, network-status %+v", p.Metadata.Name, p.Status.PodIP, s)
			continue
		}
		if s[1].Interface != "net1" || s[2].Info.VhostUser.Path != "/shared/net2.sock" || s[3].Info.Memif.Path != "/shared/net3.sock" {
			t.Errorf("%s: network-status %+v", p.Metadata.Name, s)
		}
		n.must(t, "exec", p.Metadata.Name, "--", "test", "-S", s[3].Info.Memif.Path) // VPP listens, and the container sees it
		if info := n.must(t, "exec", p.Metadata.Name, "--", "cat", "/shared/net2.json"); !strings.Contains(info, s[2].Info.VhostUser.Path) {
			t.Errorf("%s: its net2.json is %q", p.Metadata.Name, info)
		}
		seen := n.must(t, "exec", p.Metadata.Name, "--", "cat", "/etc/podinfo/status")
		if !strings.Contains(seen, s[1].IPs[0]) {
			t.Errorf("%s: the downward API shows %q", p.Metadata.Name, seen)
		}
	}
	first := pods[0].Metadata.Name
	for _, other := range pods[1:3] {
		for _, s := range other.status(t)[:2] {
			n.must(t, "exec", first, "--", "ping", "-c1", "-W5", s.IPs[0])
		}
	}
	n.must(t, "delete", "deployment", "ten", "--cascade=foreground")
	n.nothingLeft(t)
}
