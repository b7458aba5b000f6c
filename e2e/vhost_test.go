package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// vhost is a network of type ovsdpdk on the test's vswitch.
func vhost(v *ovs.Switch, s *site, keys map[string]any) map[string]any {
	all := map[string]any{
		"cniVersion": "1.1.0", "type": "ovsdpdk", "ovsdb": v.OVSDB(), "bridge": "br-fast", "createBridge": true,
		"vhost": map[string]any{"socketDir": filepath.Join(s.dir, "vhost")},
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

// newVhostSite has a bridge cluster network and one vhost-user network, fast.
func newVhostSite(t testing.TB, v *ovs.Switch) *site {
	t.Helper()
	s := newSite(t, nil)
	cluster := clusterBridge(filepath.Join(s.dir, "ipam"))
	s.conf = jsonOf(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.manifests, "dataDir": s.dataDir, "endpoints": testEndpoints, "socketDirs": testSocketDirs,
		"delegates": []any{cluster},
	})
	s.nad("fast", vhost(v, s, map[string]any{
		"vlan": 7, "mtu": 1500,
		"ipam": map[string]any{"type": "host-local", "subnet": "192.168.7.0/24", "dataDir": filepath.Join(s.dir, "ipam")},
	}))
	// The bridge and the folders that stay are there from the first pod on.
	p := newPod(t, "warmup")
	s.pod("warmup", "fast")
	s.mustAdd("warmup0", p, "warmup")
	s.mustDel("warmup0", p, "warmup")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return s
}

// Two pods get their cluster network and a vhost-user port each, reach each
// other over both, and leave no trace.
func TestTwoPods(t *testing.T) {
	v := startOVS(t)
	s := newVhostSite(t, v)
	ctx := deadline(t)
	before := s.world(v)

	left, right := newPod(t, "left"), newPod(t, "right")
	s.pod("left", "fast")
	s.pod("right", `[{"name": "fast", "interface": "fast0"}]`)
	r := s.mustAdd("left00000000001", left, "left")
	other := s.mustAdd("right0000000001", right, "right")

	if r.Interfaces[0].Name != "cni0" || r.Interfaces[2].Name != "eth0" || r.Interfaces[3].Name != "net1" {
		t.Errorf("interfaces %v: want the cluster network's first, then net1", r.Interfaces)
	}
	socket := r.Interfaces[3].SocketPath
	if socket == "" || r.Interfaces[3].Mtu != 1500 || *r.IPs[1].Interface != 3 || *r.IPs[0].Interface != 2 {
		t.Errorf("merged result: %v, ips %v", r.Interfaces[3], r.IPs)
	}
	if other.Interfaces[3].Name != "fast0" {
		t.Errorf("right's interface is %s, want fast0", other.Interfaces[3].Name)
	}
	if len(r.Routes) != 1 || !r.Routes[0].GW.Equal(r.IPs[0].Gateway) {
		t.Errorf("routes %v, want the cluster network's default route alone", r.Routes)
	}

	var status struct {
		Metadata struct{ Annotations map[string]string }
	}
	data, err := os.ReadFile(filepath.Join(s.manifests, "left.status.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &status); err != nil {
		t.Fatal(err)
	}
	var networks []conf.NetworkStatus
	if err := json.Unmarshal([]byte(status.Metadata.Annotations[conf.NetworkStatusAnnotation]), &networks); err != nil {
		t.Fatal(err)
	}
	if len(networks) != 2 || !networks[0].Default || networks[1].Name != "default/fast" || networks[1].DeviceInfo.VhostUser.Path != socket {
		t.Errorf("network-status: %s", data)
	}

	gateway := r.IPs[0].Gateway.String()
	if out, err := left.Exec(ctx, "ping", "-c1", "-W5", gateway); err != nil {
		t.Errorf("ping of the gateway: %v\n%s", err, out)
	}
	if out, err := left.Exec(ctx, "ping", "-c1", "-W5", other.IPs[0].Address.IP.String()); err != nil {
		t.Errorf("ping of the other pod: %v\n%s", err, out)
	}

	a := startPeer(t, socket)
	b := startPeer(t, other.Interfaces[3].SocketPath)
	for _, p := range []*ovs.Peer{a, b} {
		if err := p.WaitLink(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := ovs.WarmUp(ctx, a, b); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][2]*ovs.Peer{{a, b}, {b, a}} {
		if got, err := ovs.Transfer(ctx, way[0], way[1], 1000); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived: %v", got, err)
		}
	}
	if err := s.check("left00000000001", left, "left"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	for _, p := range []*ovs.Peer{a, b} {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}

	s.mustDel("left00000000001", left, "left")
	s.mustDel("right0000000001", right, "right")
	for _, name := range []string{"left", "right"} {
		if err := os.Remove(filepath.Join(s.manifests, name+".pod.yaml")); err != nil {
			t.Error(err)
		}
	}
	if err := left.Close(); err != nil {
		t.Error(err)
	}
	if err := right.Close(); err != nil {
		t.Error(err)
	}
	sameWorld(t, before, s.world(v))
	if strings.Contains(before, "br-fast") {
		t.Errorf("the bridge that plexus made was not removed with its last port:\n%s", before)
	}
}

func startPeer(t testing.TB, socket string) *ovs.Peer {
	t.Helper()
	p, err := ovs.StartPeer(deadline(t), t.TempDir(), socket, ovs.PeerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop() })
	return p
}
