package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/process"
	"github.com/plexus-cni/plexus/rig/standin"
)

// testNode is the node that the tests run in.
type testNode struct {
	place
	client  *kubernetes.Clientset
	ovs     *ovs.Switch
	vpp     *standin.Process
	empty   string // state of VPP without pods
	agent   *process.Process
	account string // kubeconfig of plexus' service account
}

// theNode is made by TestMain's inside.
var theNode *testNode

const (
	ovsDir      = "/run/openvswitch"
	vppDir      = "/run/vpp"
	confDir     = "/etc/cni/net.d"
	agentSocket = "/run/plexus/agent.sock"
	dataDir     = "/var/lib/plexus"
)

// clusterNetwork is what the node had before plexus.
const clusterNetwork = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "subnet": "10.244.0.0/16"}}]}`

// plexusConf has plexus in front of it.
const plexusConf = `{"cniVersion": "1.0.0", "name": "plexus", "type": "plexus",
  "clusterNetwork": "/etc/cni/net.d/10-pods.conflist", "kubeconfig": "%s", "agent": {"socket": "` + agentSocket + `"}}`

func inside(m *testing.M, text string) int {
	ctx := context.Background()
	n := &testNode{}
	if err := json.Unmarshal([]byte(text), &n.place); err != nil {
		return complain(err)
	}
	theNode = n
	config, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig)
	if err != nil {
		return complain(err)
	}
	config.QPS = -1
	if n.client, err = kubernetes.NewForConfig(config); err != nil {
		return complain(err)
	}
	for _, dir := range []string{ovsDir, vppDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return complain(err)
		}
	}
	if n.ovs, err = ovs.Start(ctx, ovsDir, nil); err != nil {
		return complain(err)
	}
	defer n.ovs.Stop()
	if _, err := n.ovs.VSCtl(ctx, "add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"); err != nil {
		return complain(err)
	}
	// With a MAC of its own: the plugin's CHECK compares it, and a bridge without one
	// takes the lowest of its ports'.
	if out, err := exec.CommandContext(ctx, "ip", "link", "add", "br-lan", "address", "02:00:00:00:55:01", "type", "bridge").CombinedOutput(); err != nil {
		return complain(fmt.Errorf("br-lan: %w: %s", err, out))
	}
	if err := n.startVPP(ctx); err != nil {
		return complain(err)
	}
	defer func() { n.vpp.Kill() }()
	if n.empty, err = n.vpp.State(); err != nil {
		return complain(err)
	}
	if err := n.install(ctx); err != nil {
		return complain(err)
	}
	defer n.stopAgent()
	status := m.Run()
	if status != 0 {
		fmt.Fprintln(os.Stderr, "the agent's log:\n"+n.agent.Tail())
	}
	return status
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "cluster:", err)
	return 1
}

func (n *testNode) startVPP(ctx context.Context) (err error) {
	n.vpp, err = standin.StartProcess(ctx, filepath.Join(n.Bin, "standin"), vppDir)
	return err
}

// install is what the DaemonSet does, by hand: TestDeploy has the DaemonSet.
func (n *testNode) install(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(confDir, "10-pods.conflist"), []byte(clusterNetwork), 0o644); err != nil {
		return err
	}
	if out, err := n.kubectlIn(ctx, rbac, "apply", "-f", "-"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	t := &failing{}
	n.account = n.control(t, "/token?namespace=plexus-system&account=plexus", nil)
	if t.err != nil {
		return t.err
	}
	if err := n.startAgent(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(confDir, "00-plexus.conf"), []byte(fmt.Sprintf(plexusConf, n.account)), 0o600); err != nil {
		return err
	}
	return eventually(ctx, "the node is ready", func() error {
		out, err := n.kubectl(ctx, "get", "node", "-o", `jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}{.items[0].spec.taints}`)
		if err == nil && out != "True" {
			err = errors.New(out)
		}
		return err
	})
}

// failing is a testing.TB for what runs before a test does.
type failing struct {
	testing.TB
	err error
}

func (f *failing) Helper()                           {}
func (f *failing) Fatal(args ...any)                 { f.err = errors.New(fmt.Sprint(args...)) }
func (f *failing) Fatalf(format string, args ...any) { f.err = fmt.Errorf(format, args...) }

func (n *testNode) startAgent(ctx context.Context, flags ...string) error {
	if err := n.launchAgent(flags...); err != nil {
		return err
	}
	return eventually(ctx, "the agent is ready", func() error {
		if err := n.agent.Ended(); err != nil {
			return err
		}
		_, err := n.ask("GET", "/readyz")
		return err
	})
}

// launchAgent starts the agent and does not wait for it.
func (n *testNode) launchAgent(flags ...string) (err error) {
	args := append([]string{"/opt/cni/bin/plexusd", "serve", "--kubeconfig", n.account, "--node", "plexus-node"}, flags...)
	n.agent, err = process.Start(process.Options{Name: "the agent", Log: filepath.Join(n.Dir, "log/plexusd.log")}, args...)
	return err
}

// stopAgent ends the agent as a container runtime does that has patience.
func (n *testNode) stopAgent() {
	_ = n.agent.Signal(syscall.SIGTERM)
	<-n.agent.Done()
}

// ask asks the agent on its socket.
func (n *testNode) ask(method, path string) ([]byte, error) {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", agentSocket)
	}}}
	r, err := http.NewRequest(method, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, text.String())
	}
	return text.Bytes(), nil
}

func (n *testNode) kubectl(ctx context.Context, args ...string) (string, error) {
	return n.kubectlIn(ctx, "", args...)
}

func (n *testNode) kubectlIn(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", n.Kubeconfig}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

// patience bounds what a test waits for; it is no measure.
const patience = 2 * time.Minute

// eventually waits until check holds.
func eventually(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func await(t testing.TB, what string, check func() error) {
	t.Helper()
	if err := eventually(t.Context(), what, check); err != nil {
		t.Fatal(err)
	}
}

func (n *testNode) must(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := n.kubectl(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (n *testNode) apply(t testing.TB, yaml string) {
	t.Helper()
	if _, err := n.kubectlIn(t.Context(), yaml, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// left is what pods have left on the node, one line each: nothing when all of
// them are gone.
func (n *testNode) left(t testing.TB) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{dataDir + "/sandboxes/*", dataDir + "/results/*", "/run/netns/cni-*", "/var/lib/cni/networks/*/1*", "/run/k8s.cni.cncf.io/devinfo/cni/*", "/run/plexus/vf/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	ports, err := n.ovs.VSCtl(t.Context(), "--bare", "--columns=name", "find", "Interface", "external_ids:plexus-sandbox!=none")
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range strings.Fields(ports) {
		left = append(left, "port "+port)
	}
	state, err := n.vpp.State()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(state) {
		if !strings.Contains(n.empty, line) {
			left = append(left, "vpp "+strings.TrimSpace(line))
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "veth") {
			left = append(left, "link "+l.Name)
		}
	}
	slices.Sort(left)
	return left
}

// nothingLeft waits until the node is as it was without pods.
func (n *testNode) nothingLeft(t testing.TB) {
	t.Helper()
	await(t, "nothing is left", func() error {
		if left := n.left(t); len(left) > 0 {
			return fmt.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

// rbac is what the agent may do, as deploy/ has it.
const rbac = `
apiVersion: v1
kind: Namespace
metadata: {name: plexus-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: plexus, namespace: plexus-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: plexus}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [""], resources: [pods/status], verbs: [patch]}
- {apiGroups: [""], resources: [events], verbs: [create, patch]}
- {apiGroups: [k8s.cni.cncf.io], resources: [network-attachment-definitions], verbs: [get, list, watch]}
- {apiGroups: [resource.k8s.io], resources: [resourceclaims], verbs: [get]}
- {apiGroups: [resource.k8s.io], resources: [resourceslices], verbs: [get, list, watch]}
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: plexus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: plexus}
subjects: [{kind: ServiceAccount, name: plexus, namespace: plexus-system}]
`
