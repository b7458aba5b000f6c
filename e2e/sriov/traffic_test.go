package sriov

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/node"
)

// has wants every word in a text.
func has(t testing.TB, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: %q, want %q in it", what, text, w)
		}
	}
}

// await waits for something that the kernel does on its own.
func await(t testing.TB, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// sh runs a line of a shell on the node, at the end of a test too. busybox has an
// ip of its own, and prefers it.
func sh(t testing.TB, line string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", "ip() { /usr/bin/ip \"$@\"; }; "+line).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}

// setPF changes a PF, which may lose its carrier by it for a while.
func setPF(t testing.TB, pf, change string) {
	t.Helper()
	sh(t, "ip link set "+pf+" "+change+" && ip link set "+pf+" up")
	awaitCarrier(t, pf)
}

func awaitCarrier(t testing.TB, pf string) {
	t.Helper()
	await(t, "carrier of "+pf, func() bool {
		now, err := os.ReadFile("/sys/class/net/" + pf + "/operstate")
		return err == nil && string(now) == "up\n"
	})
}

// jumbo gives all PFs an MTU of 9000 while the test runs.
func jumbo(t testing.TB) {
	t.Helper()
	for _, pf := range pfs {
		setPF(t, pf, "mtu 9000")
		t.Cleanup(func() { setPF(t, pf, "mtu 1500") })
	}
}

// static is an ipam with one address.
func static(address string) map[string]any {
	return map[string]any{"type": "static", "addresses": []any{map[string]any{"address": address}}}
}

// Every setting is on both sides as asked, and gone after DEL.
func TestSettings(t *testing.T) {
	const mac = "02:00:00:00:00:17"
	cases := []struct {
		name        string
		keys        map[string]any
		onPF, inPod []string
	}{
		{"none", nil, []string{"vlan 0|", "trust off", "spoof checking on"}, []string{"mtu 1500"}},
		{"vlan 0, as the operator writes it", map[string]any{"vlan": 0, "vlanQoS": 0, "ipam": map[string]any{}}, []string{"vlan 0|"}, nil},
		{"vlan, vlanQoS", map[string]any{"vlan": 4094, "vlanQoS": 3, "vlanProto": "802.1Q"}, []string{"vlan 4094", "qos 3"}, nil},
		{"spoofchk", map[string]any{"spoofchk": "off"}, []string{"spoof checking off"}, nil},
		{"trust", map[string]any{"trust": "on"}, []string{"trust on"}, nil},
		{"mac without trust", map[string]any{"mac": mac}, []string{"link/ether " + mac, "trust off"}, []string{"link/ether " + mac}},
		{"mac with trust", map[string]any{"mac": mac, "trust": "on"}, []string{"link/ether " + mac, "trust on"}, []string{"link/ether " + mac}},
		{"mac of the runtime", map[string]any{"mac": "02:00:00:00:00:01", "capabilities": map[string]any{"mac": true}, "runtimeConfig": map[string]any{"mac": mac}}, []string{mac}, []string{mac}},
		{"max_tx_rate", map[string]any{"max_tx_rate": 100}, []string{"max_tx_rate 100Mbps"}, nil},
		{"mtu 1400", map[string]any{"mtu": 1400}, nil, []string{"mtu 1400"}},
		{"mtu 9000", map[string]any{"mtu": 9000}, nil, []string{"mtu 9000"}},
		{"all", map[string]any{"vlan": 9, "vlanQoS": 5, "spoofchk": "off", "mac": mac, "max_tx_rate": 50, "mtu": 9000},
			[]string{"vlan 9", "qos 5", "spoof checking off", "max_tx_rate 50Mbps", mac}, []string{"mtu 9000", mac}},
	}
	jumbo(t)
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		p := newPod(t, "settings")
		for _, c := range cases {
			if s.as == "plexus" && c.keys["runtimeConfig"] != nil {
				continue // a runtime gives plexus none for a network that is not a list of one's own
			}
			t.Run(c.name, func(t *testing.T) {
				s := newSite(t, s.as)
				keys := map[string]any{"deviceID": vf(t, "eth0", 3)}
				for k, v := range c.keys {
					keys[k] = v
				}
				r := s.mustAdd("sandbox000001", p, keys)
				has(t, "PF", strings.ReplaceAll(vfLine(t, "eth0", 3)+"|", ", spoof", "|, spoof")+vlanless(vfLine(t, "eth0", 3)), c.onPF...)
				link := inPod(t, p, "ip", "-d", "link", "show", "net1")
				has(t, "pod", link, append(c.inPod, "UP", "link/ether "+r.Interfaces[0].Mac, fmt.Sprintf("mtu %d ", r.Interfaces[0].Mtu))...)
				if err := s.check("sandbox000001", p, keys); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				s.mustDel("sandbox000001", p.Path(), keys)
				sameWorld(t, before)
			})
		}
	})
}

// vlanless says that a VF has no VLAN, which ip does by saying nothing.
func vlanless(line string) string {
	if strings.Contains(line, "vlan") {
		return ""
	}
	return " vlan 0|"
}

// reaches pings; it is given as many tries as fit into the seconds.
func reaches(t testing.TB, from *node.Pod, to string, seconds int, args ...string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := from.Exec(ctx, append([]string{"/usr/bin/ping", "-n", "-c", "1", "-i", "0.2", "-w", fmt.Sprint(seconds), to}, args...)...)
	return err == nil
}

// Pods of one VLAN reach each other, on one PF and from one PF to the other;
// those of two VLANs do not.
func TestTraffic(t *testing.T) {
	pods := []struct {
		pf     string
		number int
		vlan   int
	}{{"eth0", 0, 7}, {"eth0", 1, 7}, {"eth1", 0, 7}, {"eth0", 2, 8}, {"eth1", 1, 8}}
	jumbo(t)
	both(t, func(t *testing.T, s *site) {
		before := world(t)
		var all []*node.Pod
		var keys []map[string]any
		for i, w := range pods {
			all = append(all, newPod(t, fmt.Sprintf("traffic%d", i)))
			keys = append(keys, map[string]any{"deviceID": vf(t, w.pf, w.number), "vlan": w.vlan, "mtu": 9000,
				"mac": fmt.Sprintf("02:00:00:00:01:%02x", i), "ipam": static(fmt.Sprintf("10.1.0.%d/24", i+1))})
			s.mustAdd(fmt.Sprintf("sandbox%06d", i), all[i], keys[i])
		}
		var group sync.WaitGroup
		for i, from := range pods {
			for j, to := range pods {
				if i >= j {
					continue
				}
				group.Go(func() {
					address := fmt.Sprintf("10.1.0.%d", j+1)
					if from.vlan != to.vlan {
						if reaches(t, all[i], address, 1) {
							t.Errorf("%+v reaches %+v", from, to)
						}
						return
					}
					if !reaches(t, all[i], address, 10) || !reaches(t, all[i], address, 10, "-M", "do", "-s", "8900") {
						t.Errorf("%+v does not reach %+v", from, to)
					}
				})
			}
		}
		group.Wait()
		for i := range pods {
			s.mustDel(fmt.Sprintf("sandbox%06d", i), all[i].Path(), keys[i])
		}
		sameWorld(t, before)
	})
}
