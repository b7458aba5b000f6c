package ovsdpdk

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/ovs"
)

// newVswitch is a rig with the real thing: ovsdb-server and ovs-vswitchd with
// DPDK, and no stand-in between.
func newVswitch(t *testing.T) *rig {
	t.Helper()
	base := tempDir(t)
	v, err := ovs.Start(t.Context(), base, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Stop() })
	return &rig{Switch: v, t: t, dir: filepath.Join(base, "vhost"), address: v.OVSDB()}
}

// A pod's application is connected to a real OVS-DPDK. Whatever of the vswitch
// is lost comes back and the application is connected again; as long as nothing
// is lost its connection is left in peace.
func TestRestoreAtVswitch(t *testing.T) {
	r := newVswitch(t)
	d := newDelegate(t)
	a := r.attachment(d, sandbox, map[string]any{"vlan": 7, "mtu": 1500})
	defer d.Close()
	c := &trial{rig: r, d: d, a: a}
	mustAttach(t, d, a)
	s := decoded(t, c.a.State)
	peer, err := ovs.StartPeer(bounded(t), tempDir(t), s.Socket, ovs.PeerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Stop() })
	c.wantConnected(s)

	c.vsctl("del-br", testBridge)
	c.mustRestore("bridge "+testBridge, "port "+s.Port)
	c.wantConnected(s)

	before := c.reconfigurations()
	c.mustRestore()
	if after := c.reconfigurations(); after != before {
		t.Errorf("ovs-vswitchd was reconfigured %d times for nothing", after-before)
	}

	// ovsdb-server comes back with what it had, and then with nothing.
	back := watch(bounded(t), d, r.address)
	if err := r.StopOVSDB(); err != nil {
		t.Fatal(err)
	}
	if err := r.StartOVSDB(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantErrorNone(t, <-back)
	c.mustRestore()
	c.wantConnected(s)

	dpdk := strings.Trim(c.vsctl("get", "Open_vSwitch", ".", "other_config"), "{}")
	back = watch(bounded(t), d, r.address)
	r.lose()
	args := []string{"--no-wait", "init", "--", "set", "Open_vSwitch", "."}
	for _, pair := range strings.Split(dpdk, ", ") {
		args = append(args, "other_config:"+pair)
	}
	c.vsctl(args...)
	wantErrorNone(t, <-back)
	c.mustRestore("bridge "+testBridge, "port "+s.Port)
	c.wantConnected(s)
	c.vsctl("wait-until", "Interface", s.Port, "statistics:rx_packets=0")
	got, err := a.Network.Inspect(bounded(t), a)
	if err != nil || got["rx_packets"] != "0" || got["tx_packets"] == "" {
		t.Errorf("%v, %v", got, err)
	}
	wantErrorNone(t, a.Network.Check(bounded(t), a))
	mustDetach(t, d, a)
}

func (c *trial) reconfigurations() int {
	c.t.Helper()
	n, err := c.Reconfigurations(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// wantConnected waits until the vswitch has the pod's application, and wants
// Inspect to say so in the vswitch's words.
func (c *trial) wantConnected(s *state) {
	c.t.Helper()
	c.vsctl("wait-until", "Interface", s.Port, "status:status=connected", "mtu=1500", "link_state=up")
	got, err := c.a.Network.Inspect(bounded(c.t), c.a)
	if err != nil {
		c.t.Error(err)
	}
	for key, want := range map[string]string{"bridge": testBridge, "port": s.Port, "mode": "client", "vlan": "7", "mtu": "1500",
		"ofport": "1", "status": "connected", "link_state": "up", "error": ""} {
		if got[key] != want {
			c.t.Errorf("Inspect: %s is %q, want %q", key, got[key], want)
		}
	}
}

// In server mode the pod sees the vswitch's new socket. (OVS 3.1 counts no
// packets of such a port.)
func TestRestoreServerAtVswitch(t *testing.T) {
	r := newVswitch(t)
	d := newDelegate(t)
	defer d.Close()
	a := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
	c := &trial{rig: r, d: d, a: a}
	mustAttach(t, d, a)
	s := decoded(t, c.a.State)
	c.vsctl("del-port", s.Port)
	c.mustRestore("port " + s.Port)
	c.wantLinked(s)
	peer, err := ovs.StartPeer(bounded(t), tempDir(t), s.Place(s.File), ovs.PeerOptions{Client: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Stop() })
	c.vsctl("wait-until", "Interface", s.Port, "status:status=connected")
	got, err := a.Network.Inspect(bounded(t), a)
	if err != nil || got["status"] != "connected" || got["mode"] != "server" {
		t.Errorf("%v, %v", got, err)
	}
	mustDetach(t, d, a)
}
