package ovs_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

func addBridge(t testing.TB, s *ovs.Switch) {
	t.Helper()
	vsctl(t, s, "add-br br0 -- set bridge br0 datapath_type=netdev")
}

// A peer answers pings from the host through the switch.
func TestEcho(t *testing.T) {
	s := startSwitch(t)
	addBridge(t, s)
	p := startPeer(t, s, "echo", ovs.PeerOptions{Echo: true})
	timed(t, "WaitLink", func() error { return p.WaitLink(t.Context()) })
	for _, cmd := range []string{
		"ip addr add 10.7.0.1/24 dev br0",
		"ip link set br0 up",
		"ping -c 3 -i 0.2 -W 5 10.7.0.9",
	} {
		args := strings.Fields(cmd)
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	if n := read(t, p.Received); n < 4 {
		t.Errorf("the peer has received %d frames, want an ARP request and 3 pings at least", n)
	}
}

// Ports whose socket is the switch's, several queues, a frame size of its own,
// and a pause in which frames wait in the ring.
func TestClientPeers(t *testing.T) {
	s := startSwitch(t)
	addBridge(t, s)
	a := startPeer(t, s, "a", ovs.PeerOptions{Client: true, FrameSize: 1200})
	b := startPeer(t, s, "b", ovs.PeerOptions{Client: true, Queues: 2})
	timed(t, "WarmUp", func() error { return ovs.WarmUp(t.Context(), a, b) })
	transfer(t, a, b, 1000)
	transfer(t, b, a, 1000)

	before := read(t, b.Received)
	if err := b.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	timed(t, "Send of a ring", func() error { return a.Send(t.Context(), ovs.RingSize/2) })
	if err := b.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	timed(t, "WaitReceived", func() error { return b.WaitReceived(t.Context(), before+ovs.RingSize/2) })
}

// The daemon dies and comes back, and the peers find it again.
func TestRestart(t *testing.T) {
	s := startSwitch(t)
	addBridge(t, s)
	a := startPeer(t, s, "a", ovs.PeerOptions{})
	b := startPeer(t, s, "b", ovs.PeerOptions{})
	timed(t, "WarmUp", func() error { return ovs.WarmUp(t.Context(), a, b) })
	transfer(t, a, b, 1000)
	network, config := read(t, node.Snapshot), read(t, s.Dump)
	counts := read(t, s.Reconfigurations)

	timed(t, "StopVswitchd", s.StopVswitchd)
	timed(t, "StartVswitchd", func() error { return s.StartVswitchd(t.Context()) })
	timed(t, "WarmUp again", func() error { return ovs.WarmUp(t.Context(), a, b) })
	transfer(t, a, b, 1000)
	transfer(t, b, a, 1000)
	if got := read(t, s.Dump); got != config {
		t.Errorf("configuration:\n%sbefore:\n%s", got, config)
	}
	if got := read(t, node.Snapshot); got != network {
		t.Errorf("links:\n%sbefore:\n%s", got, network)
	}
	t.Logf("reconfigurations: %d before, %d after", counts, read(t, s.Reconfigurations))
}

// A daemon that hangs makes its clients wait; one that cannot start says why.
func TestFailures(t *testing.T) {
	s := startSwitch(t)
	if err := s.PauseVswitchd(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.VSCtl(ctx, "add-br", "br0"); err == nil {
		t.Error("ovs-vsctl did not wait for a daemon that hangs")
	}
	if err := s.ResumeVswitchd(); err != nil {
		t.Fatal(err)
	}
	timed(t, "VSCtl after ResumeVswitchd", func() error {
		_, err := s.VSCtl(t.Context(), "--if-exists", "del-br", "br0")
		return err
	})
	if err := s.StopVswitchd(); err != nil {
		t.Fatal(err)
	}
	vsctl(t, s, "set Open_vSwitch . other_config:dpdk-extra=--no-such-option")
	timed(t, "StartVswitchd that fails", func() error {
		err := s.StartVswitchd(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no-such-option") {
			t.Errorf("error of a daemon that cannot start: %v", err)
		}
		return nil
	})
	if _, err := ovs.StartPeer(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "none", "s"), ovs.PeerOptions{}); err == nil {
		t.Error("a peer started without a folder for its socket")
	} else {
		t.Log(err)
	}
}
