package ovs_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

func TestMain(m *testing.M) { os.Exit(node.Main(m)) }

// timed logs how long a step takes and ends the test if it fails.
func timed(t testing.TB, what string, step func() error) {
	t.Helper()
	begin := time.Now()
	err := step()
	t.Logf("%-32s %8.1f ms", what, float64(time.Since(begin).Microseconds())/1000)
	if err != nil {
		t.Fatal(err)
	}
}

// read returns what can be read of a state, or ends the test.
func read[T any](t testing.TB, get func(context.Context) (T, error)) T {
	t.Helper()
	v, err := get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// logs is where the processes print: nowhere, unless asked for.
func logs(t testing.TB) io.Writer {
	if os.Getenv("PLEXUS_E2E_LOG") == "" {
		return nil
	}
	return t.Output()
}

func startSwitch(t testing.TB) *ovs.Switch {
	t.Helper()
	var s *ovs.Switch
	timed(t, "Start", func() (err error) {
		s, err = ovs.Start(t.Context(), t.TempDir(), logs(t))
		return err
	})
	t.Cleanup(func() { s.Stop() })
	return s
}

func vsctl(t testing.TB, s *ovs.Switch, command string) {
	t.Helper()
	if _, err := s.VSCtl(t.Context(), strings.Fields(command)...); err != nil {
		t.Fatal(err)
	}
}

// startPeer adds a port and starts a peer at it.
func startPeer(t testing.TB, s *ovs.Switch, name string, o ovs.PeerOptions) *ovs.Peer {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, name)
	port := "type=dpdkvhostuserclient options:vhost-server-path=" + socket
	if o.Client {
		port = "type=dpdkvhostuser"
		socket = filepath.Join(s.Dir(), name)
		vsctl(t, s, fmt.Sprintf("add-port br0 %s -- set interface %[1]s %s", name, port))
	}
	o.Log = logs(t)
	var p *ovs.Peer
	timed(t, "StartPeer "+name, func() (err error) {
		p, err = ovs.StartPeer(t.Context(), dir, socket, o)
		return err
	})
	t.Cleanup(func() { p.Stop() })
	if !o.Client {
		vsctl(t, s, fmt.Sprintf("add-port br0 %s -- set interface %[1]s %s", name, port))
	}
	return p
}

func TestDatabaseAlone(t *testing.T) {
	var s *ovs.Switch
	timed(t, "StartDB", func() (err error) {
		s, err = ovs.StartDB(t.Context(), t.TempDir(), logs(t))
		return err
	})
	defer s.Stop()
	before := read(t, s.Dump)
	vsctl(t, s, "add-br br0")
	timed(t, "VSCtl", func() error {
		_, err := s.VSCtl(t.Context(), "add-port", "br0", "p", "tag=0", "trunks=3,1", "--", "set", "interface", "p", "external_ids:b=2", "external_ids:a=1")
		return err
	})
	want := `Bridge name=br0 ports={br0, p}
Interface name=br0 type=internal
Interface name=p external_ids={a:1, b:2}
Open_vSwitch bridges=br0
Port name=br0 interfaces=br0
Port name=p interfaces=p tag=0 trunks={1, 3}
`
	if got := read(t, s.Dump); got != want {
		t.Errorf("dump:\n%swant:\n%s", got, want)
	}
	timed(t, "StopOVSDB, StartOVSDB", func() error {
		if err := s.StopOVSDB(); err != nil {
			return err
		}
		return s.StartOVSDB(t.Context())
	})
	if got := read(t, s.Dump); got != want {
		t.Errorf("dump after a restart:\n%swant:\n%s", got, want)
	}
	vsctl(t, s, "del-br br0")
	if got := read(t, s.Dump); got != before {
		t.Errorf("left behind:\n%sbefore:\n%s", got, before)
	}
}

// Frames between two virtio devices arrive to the last one, and nothing of it
// stays.
func TestTraffic(t *testing.T) {
	fresh := read(t, node.Snapshot)
	s := startSwitch(t)
	network, config := read(t, node.Snapshot), read(t, s.Dump)
	timed(t, "add bridge", func() error {
		_, err := s.VSCtl(t.Context(), "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
		return err
	})
	a := startPeer(t, s, "a", ovs.PeerOptions{})
	b := startPeer(t, s, "b", ovs.PeerOptions{})
	timed(t, "WaitLink a", func() error { return a.WaitLink(t.Context()) })
	timed(t, "WaitLink b", func() error { return b.WaitLink(t.Context()) })
	timed(t, "WarmUp", func() error { return ovs.WarmUp(t.Context(), a, b) })
	for _, n := range []int{1, 37, 1000, 10000} {
		transfer(t, a, b, n)
		transfer(t, b, a, n)
	}
	for name, pid := range map[string]int{"ovs-vswitchd": s.PID(), "peer": a.PID()} {
		t.Logf("memory of %s: %s", name, resident(t, pid))
	}

	timed(t, "Stop of both peers", func() error {
		if err := a.Stop(); err != nil {
			return err
		}
		return b.Stop()
	})
	vsctl(t, s, "del-br br0")
	if got := read(t, s.Dump); got != config {
		t.Errorf("configuration left behind:\n%sbefore:\n%s", got, config)
	}
	// The datapath goes with its last bridge, and its device with it.
	if got := read(t, node.Snapshot); got != network {
		t.Errorf("links left behind:\n%sbefore:\n%s", got, network)
	}
	timed(t, "Stop", s.Stop)
	if got := read(t, node.Snapshot); got != fresh {
		t.Errorf("links left behind:\n%sbefore:\n%s", got, fresh)
	}
}

func transfer(t testing.TB, from, to *ovs.Peer, n int) {
	t.Helper()
	timed(t, fmt.Sprintf("transfer of %d frames", n), func() error {
		got, err := ovs.Transfer(t.Context(), from, to, n)
		if err == nil && got != n {
			err = fmt.Errorf("sent %d frames, %d arrived", n, got)
		}
		return err
	})
}

// resident is the memory a process holds.
func resident(t testing.TB, pid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	rss, _, _ = strings.Cut(rss, "\n")
	return strings.TrimSpace(rss)
}
