package ovsdpdk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
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
	back := follow(bounded(t), t, d, r.address)
	if err := r.StopOVSDB(); err != nil {
		t.Fatal(err)
	}
	if err := r.StartOVSDB(t.Context()); err != nil {
		t.Fatal(err)
	}
	back.want()
	c.mustRestore()
	c.wantConnected(s)

	dpdk := strings.Trim(c.vsctl("get", "Open_vSwitch", ".", "other_config"), "{}")
	r.lose()
	args := []string{"--no-wait", "init", "--", "set", "Open_vSwitch", "."}
	for _, pair := range strings.Split(dpdk, ", ") {
		args = append(args, "other_config:"+pair)
	}
	c.vsctl(args...)
	back.want()
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

// restarts are the ways in which a vswitch comes back, each with what a Watch says meanwhile.
var restarts = map[string]struct {
	restart func(*rig) error
	says    string
}{
	"ovs-vswitchd is killed": {func(r *rig) error {
		return errors.Join(r.StopVswitchd(), r.StartVswitchd(r.t.Context()))
	}, errNoVswitchd.Error()},
	"ovs-vswitchd is told to exit": {func(r *rig) error {
		_, err := r.AppCtl(r.t.Context(), "exit")
		return errors.Join(err, r.StopVswitchd(), r.StartVswitchd(r.t.Context()))
	}, errNoVswitchd.Error()},
	"both are killed": {func(r *rig) error {
		return errors.Join(r.StopVswitchd(), r.StopOVSDB(), r.StartOVSDB(r.t.Context()), r.StartVswitchd(r.t.Context()))
	}, "is unreachable"},
}

// The vswitch is restarted, in whatever way: a Watch says so, and when it works again what is
// ours is made again once: in both modes frames flow without touching the pod.
func TestRestartOfVswitch(t *testing.T) {
	for name, how := range restarts {
		t.Run(name, func(t *testing.T) {
			r := newVswitch(t)
			d := newDelegate(t)
			defer d.Close()
			server := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
			client := sibling(r.attachment(d, sandbox, nil), "net2")
			mustAttach(t, d, server, client)
			s := decoded(t, server.State)
			f := follow(bounded(t), t, d, r.address)
			r.vsctl("set", "Open_vSwitch", ".", "external_ids:x=y")
			f.wantQuiet("nothing happens")
			if err := how.restart(r); err != nil {
				t.Fatal(err)
			}
			f.want(how.says)
			f.want()
			for _, a := range []*delegates.Attachment{server, client} {
				if _, err := a.Network.Restore(bounded(t), a); err != nil {
					t.Errorf("%s: Restore: %v", a.IfName, err)
				}
				wantErrorNone(t, a.Network.Check(bounded(t), a))
			}
			(&trial{rig: r}).wantLinked(s)
			from, err := ovs.StartPeer(bounded(t), tempDir(t), s.Place(s.File), ovs.PeerOptions{Client: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = from.Stop() })
			r.vsctl("wait-until", "Interface", s.Port, "status:status=connected")
			mustDetach(t, d, server, client)
		})
	}
}

// An ovs-vswitchd that is dead, or hangs, is no healthy one: CHECK, STATUS and Watch say so. DEL
// removes the socket that the dead one has left.
func TestVswitchDown(t *testing.T) {
	for _, dead := range []bool{true, false} {
		r := newVswitch(t)
		d := newDelegate(t)
		defer d.Close()
		if err := os.Mkdir(r.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		before := r.world()
		a := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "mode": "server"}})
		mustAttach(t, d, a)
		f := follow(bounded(t), t, newDelegate(t), r.address)
		wantErrorNone(t, a.Network.Check(bounded(t), a))
		wantErrorNone(t, a.Network.Ready(bounded(t)))
		down, says := r.StopVswitchd, errNoVswitchd.Error()
		if !dead {
			down, says = r.PauseVswitchd, "no answer within"
		}
		if err := down(); err != nil {
			t.Fatal(err)
		}
		f.want(says)
		wantAway(t, a.Network.Check(bounded(t), a), "ovs-vswitchd behind OVSDB", r.address)
		wantAway(t, a.Network.Ready(bounded(t)), "ovs-vswitchd behind OVSDB", r.address)
		_, err := a.Network.Restore(bounded(t), a)
		wantAway(t, err, "ovs-vswitchd behind OVSDB", r.address)
		if !dead {
			if err := r.ResumeVswitchd(); err != nil {
				t.Fatal(err)
			}
			f.want()
		}
		mustDetach(t, d, a)
		if socket := filepath.Join(r.Dir(), portName(a)); dead && exists(socket) {
			t.Errorf("%s is left", socket)
		}
		sameWorld(t, before, r.world())
	}
}

// A pod's socket that is not the one that the vswitch listens at is a difference.
func TestCheckComparesSockets(t *testing.T) {
	c := wayOf("server").attached(t)
	s := decoded(t, c.a.State)
	wantErrorNone(t, c.do(bounded(t), "Check"))
	remove(t, s.Place(s.File))
	socketAt(t, s.Place(s.File))
	wantError(t, c.do(bounded(t), "Check"), s.Place(s.File), "is not the socket of port "+s.Port)
}
