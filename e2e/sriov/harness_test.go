// Package sriov drives the whole executables on an emulated SR-IOV NIC, in the
// virtual machine that rig/guest starts (make e2e-sriov).
package sriov

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/rig/fault"
	"github.com/plexus-cni/plexus/rig/node"
)

func TestMain(m *testing.M) {
	if fault.Asked() {
		os.Exit(fault.Answer())
	}
	if os.Getenv("PLEXUS_GUEST") == "" {
		fmt.Println("not run: these tests need an SR-IOV NIC: make e2e-sriov runs them in a virtual machine that has one")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const binDir = "/opt/cni/bin"

// Places of the two PFs in the guest, and how many VFs each has.
var pfs = []string{"eth0", "eth1"}

const numVFs = 7

// vf is the PCI address of a VF.
func vf(t testing.TB, pf string, number int) string {
	t.Helper()
	to, err := os.Readlink(fmt.Sprintf("/sys/class/net/%s/device/virtfn%d", pf, number))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(to)
}

// netdev is the name of a function's interface on the node, empty when it has
// none.
func netdev(pci string) string {
	entries, err := os.ReadDir("/sys/bus/pci/devices/" + pci + "/net")
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

func driver(pci string) string {
	to, err := os.Readlink("/sys/bus/pci/devices/" + pci + "/driver")
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

// site is one installation.
type site struct {
	t       testing.TB
	as      string // executable, in binDir when it is no path
	dataDir string
}

// both runs a test through plexus, with the VF as its cluster network, and
// through the executable called sriov, as a drop-in.
func both(t *testing.T, test func(t *testing.T, s *site)) {
	for _, as := range []string{"plexus", "sriov"} {
		t.Run(as, func(t *testing.T) { test(t, newSite(t, as)) })
	}
}

func newSite(t testing.TB, as string) *site {
	return &site{t: t, as: as, dataDir: "/var/lib/plexus"}
}

// conf is a configuration of type sriov, wrapped where plexus is called.
func (s *site) conf(keys map[string]any) []byte {
	s.t.Helper()
	all := map[string]any{"cniVersion": "1.1.0", "name": "fast", "type": "sriov"}
	for k, v := range keys {
		all[k] = v
	}
	if s.as == "plexus" {
		all = map[string]any{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": s.dataDir, "delegates": []any{all}}
	}
	data, err := json.Marshal(all)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// cniError is what a plugin answers when it fails.
type cniError struct {
	Code uint   `json:"code"`
	Msg  string `json:"msg"`
}

func (e *cniError) Error() string { return fmt.Sprintf("CNI error %d: %s", e.Code, e.Msg) }

func (s *site) command(ctx context.Context, verb, sandbox, netns string, env ...string) *exec.Cmd {
	path := s.as
	if !filepath.IsAbs(path) {
		path = filepath.Join(binDir, path)
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "CNI_PATH=" + binDir, "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + sandbox, "CNI_NETNS=" + netns, "CNI_IFNAME=net1"}, env...)
	return cmd
}

// call executes one verb.
func (s *site) call(verb, sandbox, netns string, conf []byte, env ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := s.command(ctx, verb, sandbox, netns, env...)
	cmd.Stdin = bytes.NewReader(conf)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		failed := &cniError{}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			return nil, fmt.Errorf("%s: %w: no CNI error: %q, stderr %q", verb, err, out.String(), errOut.String())
		}
		return nil, failed
	}
	return out.Bytes(), nil
}

func (s *site) add(sandbox string, p *node.Pod, keys map[string]any, env ...string) (*types100.Result, error) {
	out, err := s.call("ADD", sandbox, p.Path(), s.conf(keys), env...)
	if err != nil {
		return nil, err
	}
	r := &types100.Result{}
	return r, json.Unmarshal(out, r)
}

func (s *site) mustAdd(sandbox string, p *node.Pod, keys map[string]any, env ...string) *types100.Result {
	s.t.Helper()
	r, err := s.add(sandbox, p, keys, env...)
	if err != nil {
		s.t.Fatalf("ADD: %v", err)
	}
	return r
}

func (s *site) check(sandbox string, p *node.Pod, keys map[string]any) error {
	_, err := s.call("CHECK", sandbox, p.Path(), s.conf(keys))
	return err
}

func (s *site) del(sandbox, netns string, keys map[string]any) error {
	_, err := s.call("DEL", sandbox, netns, s.conf(keys))
	return err
}

func (s *site) mustDel(sandbox, netns string, keys map[string]any) {
	s.t.Helper()
	if err := s.del(sandbox, netns, keys); err != nil {
		s.t.Fatalf("DEL: %v", err)
	}
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

// run executes a command on the node and gives its output.
func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func inPod(t testing.TB, p *node.Pod, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if args[0] == "ip" {
		args[0] = "/usr/bin/ip" // busybox has one of its own, and prefers it
	}
	out, err := p.Exec(ctx, args...)
	if err != nil {
		t.Fatalf("%v in %s: %v: %s", args, p.Name(), err, out)
	}
	return out
}

// world is all that plexus may change on the node: the PFs' VF tables and the
// links, as ip shows them, drivers, files. Numbers of interfaces are left out: a
// driver that starts anew gets another one.
func world(t testing.TB) string {
	t.Helper()
	var parts []string
	for _, stanza := range stanzas.Split("\n"+run(t, "ip", "-d", "link", "show"), -1) {
		stanza = carrier.ReplaceAllString(strings.TrimSpace(stanza), "")
		if stanza != "" {
			parts = append(parts, stanza)
		}
	}
	slices.Sort(parts)
	for _, pf := range pfs {
		for n := range numVFs {
			pci := vf(t, pf, n)
			override, err := os.ReadFile("/sys/bus/pci/devices/" + pci + "/driver_override")
			if err != nil {
				t.Fatal(err)
			}
			parts = append(parts, fmt.Sprintf("%s driver=%s override=%s netdev=%s", pci, driver(pci), strings.TrimSpace(string(override)), netdev(pci)))
		}
	}
	var dirs []string
	for _, dir := range []string{"/run/plexus", "/var/lib/plexus", "/run/k8s.cni.cncf.io", "/var/lib/cni"} {
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	tree, err := node.Tree(dirs...)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(tree) {
		if !strings.HasPrefix(line, "d") && !strings.Contains(line, "last_reserved_ip") && !strings.Contains(line, " /run/plexus/locks") && !strings.Contains(line, "/undone") {
			parts = append(parts, strings.TrimSpace(line))
		}
	}
	return strings.Join(parts, "\n")
}

// carrier comes and goes on a PF when its VFs change, and an interface has no
// qdisc before it was up for the first time.
var carrier = regexp.MustCompile(`NO-CARRIER,|,LOWER_UP| state \w+| qdisc \w+`)

var stanzas = regexp.MustCompile(`\n\d+: `)

func sameWorld(t testing.TB, before string) {
	t.Helper()
	after := world(t)
	if before == after {
		return
	}
	old := strings.Split(before, "\n")
	now := strings.Split(after, "\n")
	for _, line := range now {
		if !slices.Contains(old, line) {
			t.Errorf("now:    %s", line)
		}
	}
	for _, line := range old {
		if !slices.Contains(now, line) {
			t.Errorf("before: %s", line)
		}
	}
}

// vfLine is what ip says of a VF on its PF.
func vfLine(t testing.TB, pf string, number int) string {
	t.Helper()
	for line := range strings.Lines(run(t, "ip", "-d", "link", "show", pf)) {
		if strings.HasPrefix(strings.TrimSpace(line), fmt.Sprintf("vf %d ", number)) {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("no VF %d of %s", number, pf)
	return ""
}
