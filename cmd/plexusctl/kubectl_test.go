package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// TestMain is plexusctl when the stand-in for kubectl executes it.
func TestMain(m *testing.M) {
	if os.Getenv("AS_PLEXUSCTL") != "" {
		os.Exit(run(context.Background(), "plexusctl", os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// fakeCluster is a folder of the stand-in for kubectl (testdata/kubectl.sh), and
// the agents that it reaches.
type fakeCluster struct {
	t     *testing.T
	dir   string
	nodes map[string]*standIn
	items []map[string]any
}

func newCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{t: t, dir: shortDir(t), nodes: map[string]*standIn{}}
	script, err := os.ReadFile("testdata/kubectl.sh")
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "kubectl"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("FAKE", c.dir)
	t.Setenv("PROGRAM", program)
	return c
}

// node adds a node whose agent answers so; nil for one that no agent answers on.
func (c *fakeCluster) node(name string, answers map[string]any) {
	c.pod(name, "agent-"+name, "Running", "")
	root := filepath.Join(c.dir, "agent-"+name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		c.t.Fatal(err)
	}
	if answers != nil {
		c.nodes[name] = &standIn{answers: answers}
		c.nodes[name].start(c.t, root)
	}
}

// pod adds the pod of an agent.
func (c *fakeCluster) pod(node, name, phase, deleted string) {
	metadata := map[string]any{"namespace": "kube-system", "name": name}
	if deleted != "" {
		metadata["deletionTimestamp"] = deleted
	}
	c.items = append(c.items, map[string]any{
		"metadata": metadata, "spec": map[string]any{"nodeName": node},
		"status": map[string]any{"phase": phase, "conditions": []map[string]string{{"type": "Ready", "status": "True"}}},
	})
	c.write("pods.json", map[string]any{"items": c.items})
}

func (c *fakeCluster) write(name string, v any) {
	c.t.Helper()
	data, ok := v.(string)
	if !ok {
		encoded, err := json.Marshal(v)
		if err != nil {
			c.t.Fatal(err)
		}
		data = string(encoded)
	}
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(data), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// calls are the executions of kubectl so far.
func (c *fakeCluster) calls() string {
	data, err := os.ReadFile(filepath.Join(c.dir, "calls"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

// otherNode is what the agent of another node answers.
func otherNode() map[string]any {
	other := cut()
	other.Sandbox = "a1ffffffffffffff"
	later := events()[1:2]
	later[0].Time = began.Add(2500e6)
	return map[string]any{
		"GET /readyz":         "ok\n",
		"GET /healthz":        "ok\n",
		"GET /v1/node":        agent.NodeInfo{Node: "n2", Why: "the journal is being compared with the world"},
		"GET /v1/attachments": agent.Attachments{Node: "n2", Sandboxes: []*journal.Record{other}, Damaged: []string{}},
		"GET /v1/history":     later,
		"GET /v1/explain":     agent.Explanation{Node: "n2", Pod: "default/left", Error: "nothing is recorded of this pod on node n2"},
		"POST /v1/check":      []agent.Checked{},
		"POST /v1/resync":     []engine.Finding{},
		"POST /v1/reclaim":    agent.Checked{Sandbox: other.Sandbox, Pod: "prod/cut"},
	}
}

// What kubectl plexus says of two nodes is in testdata/kubectl.txt.
func TestKubectlGolden(t *testing.T) {
	c := newCluster(t)
	first := answers(t)
	first["POST /v1/reclaim?sandbox="+sandboxA] = first["POST /v1/reclaim?sandbox=a1"]
	c.node("n1", first)
	c.node("n2", otherNode())
	c.pod("n2", "agent-n2-old", "Running", "2026-01-01T00:00:00Z")
	c.pod("", "agent-of-no-node", "Pending", "")
	c.write("namespace", "prod")
	var all strings.Builder
	for _, line := range []string{
		"health", "nodes", "nodes -o wide", "pods", "pods cut", "pods nobody", "history", "check", "check cut", "resync", "resync -o json", "nodes -o yaml",
		"explain default/left", "reclaim a1", "reclaim a1b2", "reclaim a1f", "reclaim ff",
		"add left", "del left --netns /x", "show", "migrate --apply",
	} {
		out, errs, status := execute(t, kubectlName, strings.Fields(line)...)
		fmt.Fprintf(&all, "$ kubectl plexus %s\n%s%s[exit %d]\n\n", line, out, errs, status)
	}
	golden(t, "kubectl.txt", all.String())
	if c.nodes["n1"].was("POST /v1/reclaim?sandbox=a1f") || c.nodes["n2"].was("POST /v1/reclaim?sandbox="+sandboxA) {
		t.Error("a node was told to reclaim what another one has")
	}
}

// Answers are merged: objects as they are, elements of lists with their node.
func TestKubectlMerges(t *testing.T) {
	c := newCluster(t)
	c.node("n2", otherNode())
	c.node("n1", answers(t))
	out, _, _ := execute(t, kubectlName, "history", "-o", "json")
	var history []struct {
		agent.Event
		Node string
	}
	if err := json.Unmarshal([]byte(out), &history); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var nodes []string
	for _, e := range history {
		nodes = append(nodes, e.Node)
	}
	if !slices.Equal(nodes, []string{"n1", "n1", "n1", "n2"}) || history[1].Steps[2].What != "net1: delete port" {
		t.Errorf("history of nodes %v: %s", nodes, out)
	}
	out, _, _ = execute(t, kubectlName, "pods", "-o", "json")
	var pods []agent.Attachments
	if err := json.Unmarshal([]byte(out), &pods); err != nil || len(pods) != 2 || pods[0].Node != "n1" || len(pods[0].Sandboxes) != 2 {
		t.Errorf("%v: %s", err, out)
	}
}

// A node that does not answer is named, and the others are shown.
func TestKubectlNodesThatFail(t *testing.T) {
	c := newCluster(t)
	c.node("n1", answers(t))
	c.node("n2", nil)
	c.node("n3", answers(t))
	c.node("n4", answers(t))
	c.write("agent-n3/broken", "")
	c.write("agent-n4/chatters", "")
	c.pod("n5", "agent-n5", "Pending", "")
	c.pod("n6", "--rm", "Running", "")
	out, errs, status := execute(t, kubectlName, "nodes", "--context", "there", "--kubeconfig=/k")
	if status != 1 || !strings.Contains(out, "n1    yes") {
		t.Errorf("exit %d: %s", status, out)
	}
	for _, want := range []string{
		"node n2: kubectl exec: the node agent at", "is plexusd serve running on this node?",
		"node n3: kubectl exec: error: Internal error occurred: unable to upgrade connection\n",
		`node n4: pod kube-system/agent-n4 answers what is no JSON: "not JSON\n"`,
		`node n5: the agent's pod kube-system/agent-n5 is "Pending", want Running`,
		`node n6: the agent's pod: name "--rm" is no DNS subdomain`,
		"kubectl plexus: 5 of 6 nodes failed: n2, n3, n4, n5, n6",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q does not tell %q", errs, want)
		}
	}
	if strings.Contains(errs, "command terminated") {
		t.Errorf("what kubectl adds is told: %q", errs)
	}
	for _, line := range strings.Split(strings.TrimSpace(c.calls()), "\n") {
		if !strings.HasPrefix(line, "--context=there --kubeconfig=/k ") {
			t.Errorf("kubectl %s: without the flags given", line)
		}
	}
	if !strings.Contains(c.calls(), " exec -n kube-system agent-n1 -c agent -- /plexusctl --host /host nodes -o json\n") {
		t.Errorf("calls: %s", c.calls())
	}
}

// A node that hangs costs the time that a node may take.
func TestKubectlNodeThatHangs(t *testing.T) {
	c := newCluster(t)
	c.node("n1", nil)
	c.write("agent-n1/hangs", "")
	_, errs, status := execute(t, kubectlName, "nodes", "--timeout", "2s")
	if status != 1 || !strings.Contains(errs, "node n1: kubectl exec: no answer in 2s") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// explain asks the pod's node alone, and all when nobody knows it.
func TestKubectlExplainAsksOneNode(t *testing.T) {
	c := newCluster(t)
	c.node("n1", answers(t))
	c.node("n2", otherNode())
	c.write("pod-default-left.json", map[string]any{"spec": map[string]any{"nodeName": "n1"}})
	c.write("pod-default-far.json", map[string]any{"spec": map[string]any{"nodeName": "n9"}})
	out, errs, status := execute(t, kubectlName, "explain", "left")
	if status != 0 || !strings.Contains(out, "pod default/left on node n1") || c.nodes["n2"].was("GET") {
		t.Errorf("exit %d, n2 was asked %v: %s%s", status, c.nodes["n2"].asked, out, errs)
	}
	_, errs, status = execute(t, kubectlName, "explain", "far")
	if status != 1 || !strings.Contains(errs, "node n9 has no pod of the agent") {
		t.Errorf("exit %d: %s", status, errs)
	}
	_, errs, status = execute(t, kubectlName, "explain", "gone", "-n", "prod")
	if status != 1 || !strings.Contains(errs, "nothing is recorded of pod prod/gone") || !c.nodes["n2"].was("GET /v1/explain?pod=prod%2Fgone") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// A bare word is a pod of the namespace on every node before it is a sandbox on one.
func TestKubectlSandboxByItsBeginning(t *testing.T) {
	c := newCluster(t)
	c.node("n1", answers(t))
	c.node("n2", otherNode())
	out, errs, status := execute(t, kubectlName, "check", "b1b2")
	if status != 0 || !strings.Contains(out, "n1    prod/cut  b1b2c3d4e5f6a  ok") {
		t.Errorf("exit %d: %s%s", status, out, errs)
	}
	if n2 := c.nodes["n2"]; !n2.was("POST /v1/check?about=default%2Fb1b2") || !n2.was("POST /v1/check?about=b1b2") {
		t.Errorf("n2 was asked %v", n2.asked)
	}
	c.nodes["n2"].forget()
	execute(t, kubectlName, "check", "b1b2", "-n", "other")
	if n2 := c.nodes["n2"]; !n2.was("POST /v1/check?about=other%2Fb1b2") || n2.was("POST /v1/check?about=default%2Fb1b2") {
		t.Errorf("with --namespace other n2 was asked %v", n2.asked)
	}
}

func TestKubectlWithoutAgentsOrKubectl(t *testing.T) {
	c := newCluster(t)
	c.write("pods.json", `{"items": []}`)
	_, errs, status := execute(t, kubectlName, "nodes")
	if status != 1 || !strings.Contains(errs, "no pod of a node agent is found (label "+agentLabels) {
		t.Errorf("exit %d: %s", status, errs)
	}
	c.write("pods.json", `{"items": [`)
	if _, errs, status = execute(t, kubectlName, "nodes"); status != 1 || !strings.Contains(errs, "find the agents' pods: answer of kubectl") {
		t.Errorf("exit %d: %s", status, errs)
	}
	t.Setenv("PATH", t.TempDir())
	if _, errs, status = execute(t, kubectlName, "nodes"); status != 1 || !strings.Contains(errs, "kubectl is not in PATH") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// The name of the executable decides what the command is.
func TestNameOfTheExecutable(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "add", "left")
	cmd.Env = append(os.Environ(), "AS_PLEXUSCTL=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "--netns is needed") {
		t.Errorf("plexusctl add: %v: %s", err, out)
	}
	_, errs, status := execute(t, kubectlName, "add", "left")
	if status != 1 || !strings.Contains(errs, "run plexusctl add there") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// Nothing of a cluster's answers reaches the terminal as it is.
func TestKubectlHostile(t *testing.T) {
	c := newCluster(t)
	rec := &journal.Record{Sandbox: hostile, Transactions: []*journal.Transaction{{IfName: hostile, Pod: &conf.Pod{Name: hostile}}}}
	c.node("n1", map[string]any{
		"GET /v1/attachments": agent.Attachments{Sandboxes: []*journal.Record{rec}, Damaged: []string{hostile}},
		"GET /v1/node":        refusal{500, hostile},
	})
	c.pod("n\x1b[2J", "x", hostile, "")
	for _, command := range []string{"pods", "pods -o json", "pods -o yaml", "nodes", "reclaim x"} {
		out, errs, _ := execute(t, kubectlName, strings.Fields(command)...)
		if strings.ContainsFunc(out+errs, func(r rune) bool { return r != '\n' && hidden(r) }) {
			t.Errorf("%s: %q %q", command, out, errs)
		}
	}
}
