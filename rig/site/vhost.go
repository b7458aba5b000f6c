package site

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// Vsctl runs ovs-vsctl, words separated by blanks.
func Vsctl(t testing.TB, v *ovs.Switch, command string) string {
	t.Helper()
	out, err := v.VSCtl(must.Deadline(t), strings.Fields(command)...)
	must.Do(t, err)
	return out
}

// PortOf is the name of the vhost-user port of a sandbox's interface.
func PortOf(t testing.TB, v *ovs.Switch, sandbox, ifName string) string {
	t.Helper()
	out := Vsctl(t, v, "--bare --columns=name find Interface external_ids:plexus-sandbox="+sandbox+" external_ids:plexus-ifname="+ifName)
	if out == "" || strings.Contains(out, "\n") {
		t.Fatalf("OVS has ports %q for %s of sandbox %s, want one", out, ifName, sandbox)
	}
	return out
}

// NewVhostSwept is NewVhost that leaves nothing in the switch even when the test
// fails.
func NewVhostSwept(t testing.TB, v *ovs.Switch) *Site {
	t.Helper()
	s := NewVhost(t, v)
	t.Cleanup(func() {
		if t.Failed() {
			_ = s.GC()
		}
	})
	return s
}

// Vhost is a network of type ovsdpdk on the test's vswitch.
func Vhost(v *ovs.Switch, s *Site, keys map[string]any) map[string]any {
	all := map[string]any{
		"cniVersion": "1.1.0", "type": "ovsdpdk", "ovsdb": v.OVSDB(), "bridge": "br-fast", "createBridge": true,
		"vhost": map[string]any{"socketDir": filepath.Join(s.Dir, "vhost")},
	}
	for k, value := range keys {
		if value == nil {
			delete(all, k)
			continue
		}
		all[k] = value
	}
	return all
}

// NewVhost has a bridge cluster network and one vhost-user network, fast.
func NewVhost(t testing.TB, v *ovs.Switch) *Site {
	t.Helper()
	s := New(t, nil)
	cluster := ClusterBridge(filepath.Join(s.Dir, "ipam"))
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.Manifests, "dataDir": s.DataDir, "endpoints": Endpoints, "socketDirs": SocketDirs,
		"delegates": []any{cluster},
	})
	s.NAD("fast", Vhost(v, s, map[string]any{
		"vlan": 7, "mtu": 1500,
		"ipam": map[string]any{"type": "host-local", "subnet": "192.168.7.0/24", "dataDir": filepath.Join(s.Dir, "ipam")},
	}))
	// The bridge and the folders that stay are there from the first pod on.
	p := NewPod(t, "warmup")
	s.Pod("warmup", "fast")
	s.MustAdd("warmup0", p, "warmup")
	s.MustDel("warmup0", p, "warmup")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// StartPeer starts a virtio device at a socket; it ends with the test.
func StartPeer(t testing.TB, socket string) *ovs.Peer {
	t.Helper()
	p, err := ovs.StartPeer(must.Deadline(t), t.TempDir(), socket, ovs.PeerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}
