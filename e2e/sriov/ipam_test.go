package sriov

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// background runs a program of the guest until the test ends.
func background(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// A lease of DHCP is for the VF in the pod, and is given back while the VF is there.
func TestDHCP(t *testing.T) {
	sh(t, "ip addr add 10.5.0.1/24 dev eth1")
	t.Cleanup(func() { sh(t, "ip addr del 10.5.0.1/24 dev eth1") })
	file := filepath.Join(t.TempDir(), "udhcpd.conf")
	text := "start 10.5.0.100\nend 10.5.0.110\ninterface eth1\nlease_file " + file + ".leases\npidfile " + file + ".pid\noption subnet 255.255.255.0\noption lease 600\n"
	for name, content := range map[string]string{file: text, file + ".leases": ""} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	background(t, "busybox", "udhcpd", "-f", file)
	background(t, filepath.Join(binDir, "dhcp"), "daemon")
	t.Cleanup(func() { _ = os.RemoveAll("/run/cni") })
	await(t, "socket of dhcp", func() bool { _, err := os.Stat("/run/cni/dhcp.sock"); return err == nil })
	both(t, func(t *testing.T, s *site) {
		before, p := world(t), newPod(t, "dhcp")
		keys := map[string]any{"deviceID": vf(t, "eth0", 0), "mac": "02:00:00:00:05:00", "ipam": map[string]any{"type": "dhcp"}}
		r := s.mustAdd("sandbox000001", p, keys)
		if len(r.IPs) != 1 || !strings.HasPrefix(r.IPs[0].Address.String(), "10.5.0.1") {
			t.Fatalf("addresses %+v", r.IPs)
		}
		has(t, "pod", inPod(t, p, "ip", "addr", "show", "net1"), r.IPs[0].Address.String())
		if err := s.check("sandbox000001", p, keys); err != nil {
			t.Errorf("CHECK: %v", err)
		}
		s.mustDel("sandbox000001", p.Path(), keys)
		sameWorld(t, before)
		s.mustDel("sandbox000001", p.Path(), keys)
	})
}

// A pod's IPv6 addresses can be used when ADD answers, and one that another host has fails it.
func TestIPv6(t *testing.T) {
	sh(t, "ip addr add fd00:6::2/64 dev eth1 nodad")
	t.Cleanup(func() { sh(t, "ip addr del fd00:6::2/64 dev eth1") })
	both(t, func(t *testing.T, s *site) {
		before, p := world(t), newPod(t, "six")
		keys := func(address string) map[string]any {
			return map[string]any{"deviceID": vf(t, "eth0", 0), "mac": "02:00:00:00:06:00", "ipam": static(address)}
		}
		s.mustAdd("sandbox000001", p, keys("fd00:6::1/64"))
		if text := inPod(t, p, "ip", "addr", "show", "net1"); strings.Contains(text, "tentative") || !strings.Contains(text, "fd00:6::1/64") {
			t.Errorf("pod: %s", text)
		}
		if delay := inPod(t, p, "cat", "/proc/sys/net/ipv6/neigh/net1/retrans_time_ms"); delay != "1000\n" {
			t.Errorf("retrans_time_ms %q stays", delay)
		}
		if !reaches(t, p, "fd00:6::2", 5) {
			t.Error("it does not reach the PF")
		}
		s.mustDel("sandbox000001", p.Path(), keys("fd00:6::1/64"))
		_, err := s.add("sandbox000001", p, keys("fd00:6::2/64"))
		refused(t, err, "fd00:6::2", "DADFAILED")
		s.mustDel("sandbox000001", p.Path(), keys("fd00:6::2/64"))
		sameWorld(t, before)
	})
}

// What tuning has changed behind the VF is as it should be; what the pod changes is told. The
// address is of IPv4: a change of the mtu starts igbvf anew, and the emulated NIC can bring the
// VF a probe for duplicates that was its own before.
func TestCheckOfThePod(t *testing.T) {
	s, p := newSite(t, "plexus"), newPod(t, "check")
	before := world(t)
	config, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": s.dataDir, "delegates": []any{map[string]any{
		"cniVersion": "1.1.0", "name": "fast", "plugins": []any{
			map[string]any{"type": "sriov", "deviceID": vf(t, "eth0", 0), "ipam": static("10.66.0.2/24")},
			map[string]any{"type": "tuning", "mtu": 1400}}}}})
	if err != nil {
		t.Fatal(err)
	}
	call := func(verb string) error {
		_, err := s.call(verb, "sandbox000001", p.Path(), config)
		return err
	}
	if err := call("ADD"); err != nil {
		t.Fatal(err)
	}
	if err := call("CHECK"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	inPod(t, p, "ip", "link", "set", "net1", "mtu", "1300")
	refused(t, call("CHECK"), "net1", "1300")
	inPod(t, p, "ip", "link", "set", "net1", "mtu", "1400")
	inPod(t, p, "ip", "link", "set", "net1", "arp", "off")
	refused(t, call("CHECK"), "net1", "ARP")
	inPod(t, p, "ip", "link", "set", "net1", "arp", "on")
	if err := call("CHECK"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	dropAll(t, p, "net1")
	refused(t, call("CHECK"), "net1", "XDP program")
	if err := call("DEL"); err != nil {
		t.Error(err)
	}
	sameWorld(t, before)
}
