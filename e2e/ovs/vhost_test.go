package ovs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/ovs"
	"github.com/plexus-cni/plexus/rig/site"
)

// Two pods get their cluster network and a vhost-user port each, reach each
// other over both, and leave no trace.
func TestTwoPods(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhost(t, v)
	ctx := must.Deadline(t)
	before := s.World(v)

	left, right := site.NewPod(t, "left"), site.NewPod(t, "right")
	s.Pod("left", "fast")
	s.Pod("right", `[{"name": "fast", "interface": "fast0"}]`)
	r := s.MustAdd("left00000000001", left, "left")
	other := s.MustAdd("right0000000001", right, "right")

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
	data, err := os.ReadFile(filepath.Join(s.Manifests, "left.status.json"))
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

	a := site.StartPeer(t, socket)
	b := site.StartPeer(t, other.Interfaces[3].SocketPath)
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
	if err := s.Check("left00000000001", left, "left"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	for _, p := range []*ovs.Peer{a, b} {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}

	s.MustDel("left00000000001", left, "left")
	s.MustDel("right0000000001", right, "right")
	for _, name := range []string{"left", "right"} {
		if err := os.Remove(filepath.Join(s.Manifests, name+".pod.yaml")); err != nil {
			t.Error(err)
		}
	}
	if err := left.Close(); err != nil {
		t.Error(err)
	}
	if err := right.Close(); err != nil {
		t.Error(err)
	}
	site.SameWorld(t, before, s.World(v))
	if strings.Contains(before, "br-fast") {
		t.Errorf("the bridge that plexus made was not removed with its last port:\n%s", before)
	}
}
