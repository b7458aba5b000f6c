package node_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/rig/node"
)

func TestMain(m *testing.M) { os.Exit(node.Main(m)) }

func snapshot(t *testing.T) string {
	t.Helper()
	text, err := node.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The node starts with nothing but its loopback.
func TestFresh(t *testing.T) {
	want := "addr lo 127.0.0.1/8\naddr lo ::1/128\nlink lo kind=device mtu=65536 up\n"
	if got := snapshot(t); got != want {
		t.Errorf("snapshot of a fresh node:\n%swant:\n%s", got, want)
	}
	if !strings.HasPrefix(t.TempDir(), node.Dir()) {
		t.Errorf("TempDir is %s, not below %s", t.TempDir(), node.Dir())
	}
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "lo" {
		t.Errorf("/sys/class/net shows %v, want lo alone", entries)
	}
}

func TestPod(t *testing.T) {
	before := snapshot(t)
	pod, err := node.NewPod("sandbox-1")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	if _, err := node.NewPod("sandbox-1"); err == nil {
		t.Error("a second pod of the same name was made")
	}
	if got := snapshot(t); got != before+"netns sandbox-1\n" {
		t.Errorf("snapshot with a pod:\n%s", got)
	}

	peer := netlink.NewLinkAttrs()
	peer.Name = "host0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: peer, PeerName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []string{
		"ip link set eth0 netns sandbox-1",
		"ip addr add 10.9.0.1/24 dev host0",
		"ip link set host0 up alias test",
		"ip netns exec sandbox-1 ip addr add 10.9.0.2/24 dev eth0",
		"ip netns exec sandbox-1 ip link set eth0 up",
		"ip netns exec sandbox-1 ip route add default via 10.9.0.1",
	} {
		args := strings.Fields(cmd)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", cmd, err, out)
		}
	}
	if out, err := pod.Exec(t.Context(), "ping", "-c1", "-W5", "10.9.0.1"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	inside, err := pod.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		inside:      "route4 default via 10.9.0.1 dev eth0 proto boot scope universe",
		snapshot(t): `link host0 kind=veth mtu=1500 up alias="test"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: peer}); err != nil {
		t.Fatal(err)
	}
	if err := pod.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pod.Close(); err != nil {
		t.Errorf("close a closed pod: %v", err)
	}
	if got := snapshot(t); got != before {
		t.Errorf("left behind:\n%sbefore:\n%s", got, before)
	}
}

// A process that loses its parent is reaped by the init, and an exit status is
// never taken from the one that waits for it.
func TestReaping(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 50 {
		cmd := exec.CommandContext(ctx, "sh", "-c", "true & true & exit 7")
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
			t.Fatalf("exit status: %v", err)
		}
	}
	for zombies(t) > 0 {
		if ctx.Err() != nil {
			t.Fatalf("%d zombies", zombies(t))
		}
	}
}

func zombies(t *testing.T) (n int) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range stats {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), ") Z ") {
			n++
		}
	}
	return n
}

func TestTree(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "b"), []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	got, err := node.Tree(dir, dir+"/none")
	if err != nil {
		t.Fatal(err)
	}
	want := "drwxr-xr-x DIR\nLrwxrwxrwx DIR/a -> b\n-rw------- 3 DIR/b\nabsent DIR/none\n"
	if got = strings.ReplaceAll(got, dir, "DIR"); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}
