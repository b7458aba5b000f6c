package cluster_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// annotate asks for other networks of a running pod.
func (n *testNode) annotate(t testing.TB, pod, asked string) {
	t.Helper()
	n.must(t, "annotate", "--overwrite", "pod", pod, "k8s.v1.cni.cncf.io/networks="+asked)
}

// has waits until the pod's network-status has these interfaces, in this order.
func (n *testNode) has(t testing.TB, app string, want ...string) pod {
	t.Helper()
	var p pod
	await(t, fmt.Sprintf("interfaces %v", want), func() error {
		p = n.pods(t, app)[0]
		var have []string
		for _, s := range p.status(t) {
			have = append(have, s.Interface+"="+s.Name)
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("have %v\nagent: %s", have, n.agent.Tail())
		}
		return nil
	})
	return p
}

// A running pod's networks follow its annotation; what others wrote into its
// status stays.
func TestHotPlug(t *testing.T) {
	n := theNode
	n.apply(t, networks)
	n.apply(t, deployment("plug", 1, "lan"))
	n.must(t, "rollout", "status", "deployment/plug", "--timeout=90s")
	p := n.has(t, "plug", "eth0=pods", "net1=default/lan")
	name, address := p.Metadata.Name, p.status(t)[1].IPs[0]
	for round := range 20 {
		n.annotate(t, name, "lan,fast,shm,lan@second")
		p = n.has(t, "plug", "eth0=pods", "net1=default/lan", "net2=default/fast", "net3=default/shm", "second=default/lan")
		if got := p.status(t)[1].IPs[0]; got != address {
			t.Fatalf("round %d: net1 has %s, had %s: it was not to be touched", round, got, address)
		}
		n.must(t, "exec", name, "--", "ip", "link", "show", "second")
		n.annotate(t, name, "lan")
		n.has(t, "plug", "eth0=pods", "net1=default/lan")
		if out, err := n.kubectl(t.Context(), "exec", name, "--", "ip", "link", "show", "second"); err == nil {
			t.Fatalf("round %d: second is there: %s", round, out)
		}
	}
	// Another party's attachment.
	status := p.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"]
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(n.pods(t, "plug")[0].Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"]), &list); err != nil {
		t.Fatal(status, err)
	}
	theirs, _ := json.Marshal(append(list, json.RawMessage(`{"name":"others/net","interface":"ext0","ips":["192.0.2.7"]}`)))
	n.must(t, "annotate", "--overwrite", "pod", name, "k8s.v1.cni.cncf.io/network-status="+string(theirs))
	n.annotate(t, name, "lan,fast")
	n.has(t, "plug", "eth0=pods", "net1=default/lan", "net2=default/fast", "ext0=others/net")
	// What cannot be done changes nothing and is told.
	n.annotate(t, name, "lan,fast,nowhere")
	await(t, "an event tells", func() error {
		out := n.must(t, "get", "events", "--field-selector", "reason=NetworksFailed,involvedObject.name="+name, "-o", "jsonpath={.items[*].message}")
		if !strings.Contains(out, "default/nowhere does not exist") {
			return fmt.Errorf("events: %q", out)
		}
		return nil
	})
	n.has(t, "plug", "eth0=pods", "net1=default/lan", "net2=default/fast", "ext0=others/net")
	n.must(t, "delete", "deployment", "plug", "--cascade=foreground")
	n.nothingLeft(t)
}
