// Package e2e drives whole binaries against the real thing: network
// namespaces, the reference CNI plugins, a real OVS-DPDK.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/fault"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == recorder {
		os.Exit(recorderPlugin())
	}
	if fault.Asked() {
		os.Exit(fault.Answer())
	}
	node.Enter()
	// What plugins keep below /var/lib stays in this node's memory.
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mount /var/lib:", err)
		os.Exit(1)
	}
	if err := os.MkdirAll(deviceInfoDir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := writeNodeFile(map[string]any{"endpoints": testEndpoints, "socketDirs": testSocketDirs, "ipamDirs": []string{node.Dir()}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	if vswitch.running != nil {
		if err := vswitch.running.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// testEndpoints are the vswitches that tests start, at any depth that they use.
var testEndpoints = endpointPatterns()

func endpointPatterns() (all []string) {
	for depth := 1; depth <= 4; depth++ {
		below := node.Dir() + strings.Repeat("/*", depth)
		all = append(all, below, "unix:"+below)
	}
	return all
}

// testSocketDirs are the folders that tests name.
var testSocketDirs = []string{node.Dir() + "/*/*", node.Dir() + "/*/*/*", node.Dir() + "/*/*/*/*"}

// writeNodeFile writes the settings of the node for built-in delegates that are
// executed under their own names.
func writeNodeFile(keys map[string]any) error {
	data, err := json.Marshal(keys)
	if err == nil {
		err = os.MkdirAll("/etc/plexus", 0o755)
	}
	if err != nil {
		return err
	}
	return os.WriteFile("/etc/plexus/node.json", data, 0o644)
}

// deviceInfoDir is where the device-information specification has the files of
// attachments.
const deviceInfoDir = "/var/run/k8s.cni.cncf.io/devinfo/cni"

// vswitch is the one OVS-DPDK of this node, started by the first test that
// needs it.
var vswitch struct {
	once    sync.Once
	running *ovs.Switch
	err     error
}

func startOVS(t testing.TB) *ovs.Switch {
	t.Helper()
	vswitch.once.Do(func() {
		dir := filepath.Join(node.Dir(), "ovs")
		if vswitch.err = os.Mkdir(dir, 0o755); vswitch.err == nil {
			vswitch.running, vswitch.err = ovs.Start(context.Background(), dir, nil)
		}
	})
	if vswitch.err != nil {
		t.Fatal(vswitch.err)
	}
	return vswitch.running
}

// deadline bounds what a test waits for; it is no measure.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// binDir is where make build puts the executables.
func binDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "plexusd")); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return dir
}

// site is one plexus installation: its configuration and its folders.
type site struct {
	t         testing.TB
	dir       string
	manifests string
	dataDir   string
	conf      []byte
	path      string // CNI_PATH
	as        string // executable
	network   string
}

// newSite makes an installation whose configuration is keys, with folders of
// its own filled in.
func newSite(t testing.TB, keys map[string]any) *site {
	t.Helper()
	dir, err := os.MkdirTemp(node.Dir(), "site")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: dir, manifests: filepath.Join(dir, "manifests"), dataDir: filepath.Join(dir, "data"), path: binDir(t), as: "plexus"}
	if err := os.MkdirAll(s.manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus",
		"manifests": s.manifests, "dataDir": s.dataDir, "confDir": filepath.Join(dir, "net.d"), "endpoints": testEndpoints, "socketDirs": testSocketDirs, "ipamDirs": []string{node.Dir()},
	}
	for k, v := range keys {
		all[k] = v
	}
	s.conf = jsonOf(t, all)
	s.network, _ = all["name"].(string)
	return s
}

// clusterBridge is a cluster network by the reference plugin bridge. Each site
// has an address range and a folder of addresses of its own.
func clusterBridge(dir string) map[string]any {
	return map[string]any{
		"cniVersion": "1.1.0", "name": "cluster", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
		"ipam": map[string]any{"type": "host-local", "subnet": "10.244.0.0/16", "dataDir": dir},
	}
}

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// manifest writes a file into the folder of manifests.
func (s *site) manifest(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.manifests, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// nad writes a NetworkAttachmentDefinition of namespace default.
func (s *site) nad(name string, config map[string]any) {
	s.t.Helper()
	s.manifest(name+".yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: %s}\nspec:\n  config: %q\n", name, jsonOf(s.t, config)))
}

// pod writes a Pod of namespace default that asks for networks.
func (s *site) pod(name, networks string) {
	s.t.Helper()
	s.manifest(name+".pod.yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  annotations:\n    k8s.v1.cni.cncf.io/networks: %q\nspec: {}\n", name, networks))
}

// request is one CNI request of a pod.
type request struct {
	verb, sandbox, netns, ifName, pod string
	conf                              []byte // instead of the site's
	env                               []string
}

func (s *site) environ(r request) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "CNI_PATH=" + s.path, "CNI_COMMAND=" + r.verb,
		"CNI_CONTAINERID=" + r.sandbox, "CNI_NETNS=" + r.netns, "CNI_IFNAME=" + r.ifName,
	}
	if r.pod != "" {
		env = append(env, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME="+r.pod)
	}
	return append(env, r.env...)
}

// cniError is what a CNI plugin answers when it fails.
type cniError struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
	stderr  string
}

func (e *cniError) Error() string { return fmt.Sprintf("CNI error %d: %s", e.Code, e.Msg) }

// call executes plexus as a container runtime does.
func (s *site) call(r request) (stdout []byte, stderr string, err error) {
	if r.ifName == "" {
		r.ifName = "eth0"
	}
	conf := s.conf
	if r.conf != nil {
		conf = r.conf
	}
	cmd := exec.Command(filepath.Join(binDir(s.t), s.as))
	cmd.Env = s.environ(r)
	cmd.Stdin = bytes.NewReader(conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		failed := &cniError{stderr: errOut.String()}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			return nil, errOut.String(), fmt.Errorf("%s: %w: no CNI error: %q, stderr %q", r.verb, err, out.String(), errOut.String())
		}
		return nil, errOut.String(), failed
	}
	return out.Bytes(), errOut.String(), nil
}

func (s *site) add(sandbox string, p *node.Pod, pod string) (*types100.Result, error) {
	out, _, err := s.call(request{verb: "ADD", sandbox: sandbox, netns: p.Path(), pod: pod})
	if err != nil {
		return nil, err
	}
	result := &types100.Result{}
	if err := json.Unmarshal(out, result); err != nil {
		return nil, fmt.Errorf("ADD: %w: %s", err, out)
	}
	return result, nil
}

func (s *site) mustAdd(sandbox string, p *node.Pod, pod string) *types100.Result {
	s.t.Helper()
	result, err := s.add(sandbox, p, pod)
	if err != nil {
		s.t.Fatalf("ADD %s: %v", pod, err)
	}
	return result
}

func (s *site) del(sandbox string, p *node.Pod, pod string) error {
	netns := ""
	if p != nil {
		netns = p.Path()
	}
	_, _, err := s.call(request{verb: "DEL", sandbox: sandbox, netns: netns, pod: pod})
	return err
}

func (s *site) mustDel(sandbox string, p *node.Pod, pod string) {
	s.t.Helper()
	if err := s.del(sandbox, p, pod); err != nil {
		s.t.Fatalf("DEL %s: %v", pod, err)
	}
}

func (s *site) check(sandbox string, p *node.Pod, pod string) error {
	_, _, err := s.call(request{verb: "CHECK", sandbox: sandbox, netns: p.Path(), pod: pod})
	return err
}

func newPod(t testing.TB, name string) *node.Pod {
	t.Helper()
	p, err := node.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// awaitVswitchd waits until ovs-vswitchd has acted on what OVSDB has: DEL waits for the
// link of a bridge that goes for a moment alone. A daemon that is stopped is not waited for
// longer than ten seconds.
func (s *site) awaitVswitchd(v *ovs.Switch) {
	everywhere := []any{}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		found, err := v.Transact(s.t.Context(), map[string]any{"op": "select", "table": "Open_vSwitch", "where": everywhere, "columns": []string{"next_cfg", "cur_cfg"}})
		if err != nil || len(found[0].Rows) == 0 {
			return // it is down: Dump says so
		}
		row := found[0].Rows[0]
		if fmt.Sprint(row["next_cfg"]) == fmt.Sprint(row["cur_cfg"]) {
			return
		}
		_, _ = v.Transact(s.t.Context(), map[string]any{ // the database waits, for 100 ms
			"op": "wait", "timeout": 100, "table": "Open_vSwitch", "where": everywhere, "columns": []string{"cur_cfg"},
			"until": "==", "rows": []any{map[string]any{"cur_cfg": row["next_cfg"]}},
		})
	}
}

// world is all that plexus may change on the node, as text: links, addresses,
// routes, OVSDB rows, addresses in use and files.
func (s *site) world(v *ovs.Switch) string {
	s.t.Helper()
	if v != nil {
		s.awaitVswitchd(v)
	}
	links, err := node.Snapshot(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	rows := ""
	if v != nil {
		if rows, err = v.Dump(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
	var dirs []string
	for _, dir := range []string{s.dir, "/run/plexus", deviceInfoDir, "/var/lib/cni", "/var/lib/plexus", "/var/lib/kubelet"} {
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	files, err := node.Tree(dirs...)
	if err != nil {
		s.t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(files) {
		// host-local's memory of where to go on, and the table of locks, which stays.
		if !strings.Contains(line, "last_reserved_ip") && !strings.Contains(line, " /run/plexus/locks") {
			kept = append(kept, line)
		}
	}
	return links + "\n" + rows + "\n" + strings.Join(kept, "")
}

func sameWorld(t testing.TB, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	old := map[string]int{}
	for line := range strings.Lines(before) {
		old[line]++
	}
	for line := range strings.Lines(after) {
		if old[line]--; old[line] < 0 {
			t.Errorf("left behind: %s", strings.TrimSpace(line))
		}
	}
	for line, n := range old {
		if n > 0 {
			t.Errorf("missing:     %s", strings.TrimSpace(line))
		}
	}
}
