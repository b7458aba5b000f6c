package sriov

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

// hold keeps a pod's namespace alive with a process until it is released.
func hold(t testing.TB, p *node.Pod) (release func()) {
	t.Helper()
	_, release = process(t, p)
	return release
}

// process starts one in a pod's namespace.
func process(t testing.TB, p *node.Pod) (pid int, end func()) {
	t.Helper()
	process := p.Command(t.Context(), "sleep", "600")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "process in "+p.Name(), func() bool {
		to, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", process.Process.Pid))
		if err != nil {
			return false
		}
		pod, err := os.Stat(p.Path())
		return err == nil && os.SameFile(to, pod)
	})
	end = sync.OnceFunc(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
	t.Cleanup(end)
	return process.Process.Pid, end
}

// ends are the ways in which a pod's namespace is when DEL comes. They return
// CNI_NETNS, and what undoes them.
var ends = []struct {
	name string
	end  func(t *testing.T, p *node.Pod, pci string) (netns string, undo func())
}{
	{"alive", func(_ *testing.T, p *node.Pod, _ string) (string, func()) { return p.Path(), func() {} }},
	{"alive, no CNI_NETNS", func(*testing.T, *node.Pod, string) (string, func()) { return "", func() {} }},
	{"gone", func(t *testing.T, p *node.Pod, _ string) (string, func()) {
		closed(t, p)
		return p.Path(), func() {}
	}},
	{"gone, no CNI_NETNS, the interface is back", func(t *testing.T, p *node.Pod, pci string) (string, func()) {
		closed(t, p)
		await(t, "interface of "+pci, func() bool { return netdev(pci) != "" })
		return "", func() {}
	}},
	{"gone, its name is taken on the node", func(t *testing.T, p *node.Pod, pci string) (string, func()) {
		sh(t, "ip link add net1 type bridge")
		closed(t, p)
		await(t, "interface of "+pci, func() bool { return netdev(pci) != "" })
		return p.Path(), func() { sh(t, "ip link del net1") }
	}},
	{"unlinked, a process in it", func(t *testing.T, p *node.Pod, _ string) (string, func()) {
		release := hold(t, p)
		closed(t, p)
		return p.Path(), release
	}},
	{"unlinked, another pod's at its path", func(t *testing.T, p *node.Pod, _ string) (string, func()) {
		release := hold(t, p)
		closed(t, p)
		newPod(t, p.Name())
		return p.Path(), release
	}},
}

func closed(t testing.TB, p *node.Pod) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// However the pod ends, its VF comes home: one and the same VF, one pod after the
// other.
func TestHome(t *testing.T) {
	sh(t, "modprobe uio_pci_generic")
	t.Cleanup(func() { sh(t, "rmmod uio_pci_generic uio") })
	both(t, func(t *testing.T, s *site) {
		pci := vf(t, "eth0", 1)
		before := world(t)
		for _, want := range []string{"igbvf", "vfio-pci", "uio_pci_generic"} {
			keys := map[string]any{"deviceID": pci, "vlan": 9, "mac": "02:00:00:00:00:09"}
			some := ends
			if want == "igbvf" {
				keys["mtu"] = 1400
			} else {
				keys["driver"] = want
				some = ends[:3] // the others are about an interface
			}
			for _, e := range some {
				t.Run(want+" "+e.name, func(t *testing.T) {
					s, p := newSite(t, s.as), newPod(t, "home")
					s.mustAdd("sandbox000001", p, keys)
					if now := driver(pci); now != want {
						t.Errorf("driver %s", now)
					}
					netns, undo := e.end(t, p, pci)
					s.mustDel("sandbox000001", netns, keys)
					undo()
					sameWorld(t, before)
					s.mustDel("sandbox000001", netns, keys)
				})
			}
		}
		sameWorld(t, before)
	})
}

// A VF that the node has bound to a user-space driver is given as it is, or with
// another driver, and goes back to it.
func TestFoundOnUserDriver(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		pci, p := vf(t, "eth1", 2), newPod(t, "found")
		bind(t, pci, "vfio-pci")
		t.Cleanup(func() { bind(t, pci, "") })
		before := world(t)
		for asked, want := range map[string]string{"": "vfio-pci", "vfio-pci": "vfio-pci", "kernel": "igbvf"} {
			keys := map[string]any{"deviceID": pci, "vlan": 9, "mac": "02:00:00:00:00:09"}
			if asked != "" {
				keys["driver"] = asked
			}
			s.mustAdd("sandbox000001", p, keys)
			if now := driver(pci); now != want {
				t.Errorf("driver %q asked for: %s, want %s", asked, now, want)
			}
			if asked == "kernel" {
				has(t, "pod", inPod(t, p, "ip", "link", "show", "net1"), "02:00:00:00:00:09", "UP")
			}
			if err := s.check("sandbox000001", p, keys); err != nil {
				t.Errorf("CHECK: %v", err)
			}
			s.mustDel("sandbox000001", p.Path(), keys)
			sameWorld(t, before)
		}
	})
}

// bind gives a function to a driver by hand, to the kernel's if it is empty.
func bind(t testing.TB, pci, to string) {
	t.Helper()
	at := "/sys/bus/pci/devices/" + pci
	sh(t, fmt.Sprintf("[ ! -e %s/driver ] || echo %s >%s/driver/unbind; echo '%s' >%s/driver_override; echo %s >/sys/bus/pci/drivers_probe", at, pci, at, to, at, pci))
	if to == "" {
		await(t, "interface of "+pci, func() bool { return netdev(pci) != "" })
	}
}

// A DEL that comes when another pod has the VF by now harms nobody, and the VF
// comes home as the first pod found it.
func TestLateDel(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		pci := vf(t, "eth0", 5)
		before := world(t)
		for _, drivers := range [][2]string{{"", ""}, {"vfio-pci", ""}, {"", "vfio-pci"}} {
			first, second := newPod(t, "late1"), newPod(t, "late2")
			a := map[string]any{"deviceID": pci, "vlan": 7, "vlanQoS": 2, "mac": "02:00:00:00:00:71", "spoofchk": "off", "driver": drivers[0]}
			b := map[string]any{"deviceID": pci, "vlan": 8, "mac": "02:00:00:00:00:72", "max_tx_rate": 70, "driver": drivers[1]}
			s.mustAdd("sandbox000001", first, a)
			closed(t, first)
			s.mustAdd("sandbox000002", second, b)
			state := func() string {
				text := vfLine(t, "eth0", 5) + " " + driver(pci)
				if drivers[1] == "" {
					text += inPod(t, second, "ip", "-d", "link", "show", "net1")
				}
				return text
			}
			if drivers[1] == "" {
				await(t, "carrier of net1", func() bool { return strings.Contains(inPod(t, second, "ip", "link", "show", "net1"), "state UP") })
			}
			had := state()
			has(t, "second pod", had, "vlan 8", "spoof checking on", "02:00:00:00:00:72", "max_tx_rate 70Mbps")
			s.mustDel("sandbox000001", first.Path(), a)
			if now := state(); now != had {
				t.Errorf("after the late DEL %s, before %s", now, had)
			}
			if err := s.check("sandbox000002", second, b); err != nil {
				t.Errorf("CHECK after the late DEL: %v", err)
			}
			s.mustDel("sandbox000002", second.Path(), b)
			closed(t, second)
			sameWorld(t, before)
		}
	})
}

// Of two ADDs for one VF one wins; the other says who has it, and its DEL harms
// nothing.
func TestRace(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		pods := []*node.Pod{newPod(t, "race0"), newPod(t, "race1")}
		sandboxes := []string{"sandbox000000", "sandbox000001"}
		keys := map[string]any{"deviceID": vf(t, "eth0", 6), "vlan": 7, "mac": "02:00:00:00:00:73"}
		before := world(t)
		for range 3 {
			errs := make([]error, 2)
			var group sync.WaitGroup
			for i := range pods {
				group.Go(func() { _, errs[i] = s.add(sandboxes[i], pods[i], keys) })
			}
			group.Wait()
			won, lost := 0, 1
			if errs[0] != nil {
				won, lost = 1, 0
			}
			if errs[won] != nil {
				t.Fatalf("nobody won: %v; %v", errs[0], errs[1])
			}
			refused(t, errs[lost], "in use", sandboxes[won])
			s.mustDel(sandboxes[lost], pods[lost].Path(), keys)
			if err := s.check(sandboxes[won], pods[won], keys); err != nil {
				t.Errorf("CHECK of the winner: %v", err)
			}
			s.mustDel(sandboxes[won], pods[won].Path(), keys)
			sameWorld(t, before)
		}
	})
}

// A VF whose pod runs is not another pod's when only the path of the pod's namespace has gone,
// as a process' does with the process.
func TestPathGone(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before, p, other := world(t), newPod(t, "path"), newPod(t, "other")
		for _, driver := range []string{"kernel", "vfio-pci"} {
			keys := map[string]any{"deviceID": vf(t, "eth0", 1), "driver": driver}
			first, end := process(t, p)
			release := hold(t, p)
			netns := fmt.Sprintf("/proc/%d/ns/net", first)
			if _, err := s.call("ADD", "sandbox000001", netns, s.conf(keys)); err != nil {
				t.Fatal(err)
			}
			end()
			if driver == "vfio-pci" {
				closed(t, p)
			}
			_, err := s.add("sandbox000002", other, keys)
			refused(t, err, "in use by sandbox sandbox000001")
			s.mustDel("sandbox000001", netns, keys)
			release()
			sameWorld(t, before)
		}
	})
}

// Two VFs of a PF do not have one MAC. What a pod that is gone has left with it is brought home;
// a pod that is there keeps it.
func TestOneMAC(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		before, p, again := world(t), newPod(t, "mac0"), newPod(t, "mac1")
		const mac = "02:00:00:00:00:74"
		first, second := map[string]any{"deviceID": vf(t, "eth0", 2), "mac": mac, "vlan": 7}, map[string]any{"pf": "eth0", "mac": mac}
		s.mustAdd("sandbox000001", p, first)
		for _, keys := range []map[string]any{second, {"deviceID": vf(t, "eth0", 3), "mac": mac, "driver": "vfio-pci"}} {
			_, err := s.add("sandbox000002", again, keys)
			refused(t, err, mac, "VF 2 of eth0", "in use by sandbox sandbox000001")
			if failed, ok := err.(*cniError); !ok || failed.Code != 11 {
				t.Errorf("%v, want code 11", err)
			}
			s.mustDel("sandbox000002", again.Path(), keys)
		}
		closed(t, p)
		s.mustAdd("sandbox000002", again, second)
		if line := vfLine(t, "eth0", 2); strings.Contains(line, mac) || strings.Contains(line, "vlan 7") {
			t.Errorf("the VF of the pod that is gone: %s", line)
		}
		s.mustDel("sandbox000001", p.Path(), first)
		if err := s.check("sandbox000002", again, second); err != nil {
			t.Errorf("CHECK after the late DEL: %v", err)
		}
		s.mustDel("sandbox000002", again.Path(), second)
		sameWorld(t, before)

		line := vfLine(t, "eth0", 5)
		sh(t, "ip link set eth0 vf 5 mac "+mac) // by the operator
		_, err := s.add("sandbox000002", again, map[string]any{"deviceID": vf(t, "eth0", 3), "mac": mac})
		refused(t, err, mac, "VF 5 of eth0")
		s.mustDel("sandbox000002", again.Path(), second)
		if r := s.mustAdd("sandbox000002", again, second); r.Interfaces[0].PciID != vf(t, "eth0", 5) {
			t.Errorf("picked %s, want the VF that has the address", r.Interfaces[0].PciID)
		}
		s.mustDel("sandbox000002", again.Path(), second)
		sh(t, "ip link set eth0 vf 5 mac 00:00:00:00:00:00")
		if own := regexp.MustCompile(`link/ether (\S+)`).FindStringSubmatch(line)[1]; own != "00:00:00:00:00:00" { // as its driver had told
			sh(t, "ip link set "+netdev(vf(t, "eth0", 5))+" address "+own)
		}
		sameWorld(t, before)
	})
}

// Seven VFs at once, for pods of plexus and of the drop-in, with and without a
// kernel interface, again and again.
func TestStorm(t *testing.T) {
	before := world(t)
	var group sync.WaitGroup
	for n := range numVFs {
		s, p, sandbox := newSite(t, []string{"plexus", "sriov"}[n%2]), newPod(t, fmt.Sprintf("storm%d", n)), fmt.Sprintf("sandbox%06d", n)
		keys := map[string]any{"pf": []string{"eth0", "eth1"}[n/6], "vlan": 100 + n}
		group.Go(func() {
			for round := range 20 {
				delete(keys, "driver")
				if (n+round)%5 == 0 {
					keys["driver"] = "vfio-pci"
				}
				if _, err := s.add(sandbox, p, keys); err != nil {
					t.Errorf("VF %d, round %d: ADD: %v", n, round, err)
				}
				if n == round%numVFs {
					if err := s.check(sandbox, p, keys); err != nil {
						t.Errorf("VF %d, round %d: CHECK: %v", n, round, err)
					}
				}
				if err := s.del(sandbox, p.Path(), keys); err != nil {
					t.Errorf("VF %d, round %d: DEL: %v", n, round, err)
				}
			}
		})
	}
	group.Wait()
	sameWorld(t, before)
}

// What somebody does behind the back of a running pod: DEL brings the VF home
// all the same, or says what it cannot do, again and again until it can.
func TestBehind(t *testing.T) {
	nop := func() {}
	cases := []struct {
		name   string
		change func(t *testing.T, p *node.Pod, pci, name string) (undo func())
		says   []string // of a DEL that cannot finish
	}{
		{"PF renamed", func(t *testing.T, _ *node.Pod, _, _ string) func() {
			rename := func(from, to string) {
				sh(t, "ip link set "+from+" down && ip link set "+from+" name "+to+" && ip link set "+to+" up")
				awaitCarrier(t, to)
			}
			rename("eth0", "wire0")
			return func() { rename("wire0", "eth0") }
		}, nil},
		{"PF in another namespace", func(t *testing.T, _ *node.Pod, _, _ string) func() {
			other := newPod(t, "pf")
			sh(t, "ip link set eth0 netns "+other.Name())
			return func() {
				sh(t, "ip netns exec "+other.Name()+" ip link set eth0 netns 1 && ip link set eth0 up")
				awaitCarrier(t, "eth0")
			}
		}, []string{"PF 0000:01:00.0", "no interface in this network namespace"}},
		{"name taken on the node", func(t *testing.T, _ *node.Pod, pci, name string) func() {
			sh(t, "ip link add "+name+" type bridge")
			return func() {
				if now := netdev(pci); now != name+"_1" {
					t.Errorf("it is called %q", now)
				}
				sh(t, "ip link del "+name+" && ip link set "+name+"_1 name "+name)
			}
		}, nil},
		{"renamed in the pod, with an alternative name", func(t *testing.T, p *node.Pod, _, _ string) func() {
			inPod(t, p, "ip", "link", "set", "net1", "down")
			inPod(t, p, "ip", "link", "set", "net1", "name", "other")
			inPod(t, p, "ip", "link", "property", "add", "dev", "other", "altname", "net1")
			return nop
		}, nil},
		{"changed in the pod", func(t *testing.T, p *node.Pod, _, _ string) func() {
			inPod(t, p, "ip", "link", "set", "net1", "promisc", "on", "allmulticast", "on", "mtu", "1300")
			return nop
		}, nil},
		{"bound anew", func(t *testing.T, _ *node.Pod, pci, _ string) func() {
			bind(t, pci, "")
			return nop
		}, nil},
		{"changed on the PF", func(t *testing.T, _ *node.Pod, _, _ string) func() {
			sh(t, "ip link set eth0 vf 2 vlan 99 qos 1 && ip link set eth0 vf 2 mac 02:00:00:00:00:99 && ip link set eth0 vf 2 max_tx_rate 5 spoofchk off trust on")
			return nop
		}, nil},
		{"unbound", func(t *testing.T, _ *node.Pod, pci, _ string) func() {
			sh(t, "echo "+pci+" >/sys/bus/pci/devices/"+pci+"/driver/unbind")
			return nop
		}, nil},
		{"bound to another driver", func(t *testing.T, _ *node.Pod, pci, _ string) func() {
			sh(t, "modprobe uio_pci_generic")
			bind(t, pci, "uio_pci_generic")
			return func() { sh(t, "rmmod uio_pci_generic uio") }
		}, nil},
		{"driver_override", func(t *testing.T, _ *node.Pod, pci, _ string) func() {
			sh(t, "echo igb_uio >/sys/bus/pci/devices/"+pci+"/driver_override")
			return nop
		}, nil},
	}
	both(t, func(t *testing.T, s *site) {
		pci := vf(t, "eth0", 2)
		name := netdev(pci)
		sh(t, "ip link property add dev "+name+" altname vf2of0 altname enp1s16f4")
		t.Cleanup(func() { sh(t, "ip link property del dev "+name+" altname vf2of0 altname enp1s16f4") })
		before := world(t)
		for _, to := range []string{"", "vfio-pci"} {
			for i, c := range cases {
				if to != "" && i < 6 {
					continue // it is about the interface
				}
				t.Run(to+" "+c.name, func(t *testing.T) {
					s, p := newSite(t, s.as), newPod(t, "behind")
					keys := map[string]any{"deviceID": pci, "vlan": 9, "driver": to}
					s.mustAdd("sandbox000001", p, keys)
					undo := sync.OnceFunc(c.change(t, p, pci, name))
					t.Cleanup(undo)
					if c.says != nil {
						for range 2 {
							refused(t, s.del("sandbox000001", p.Path(), keys), c.says...)
						}
						undo()
					}
					s.mustDel("sandbox000001", p.Path(), keys)
					if c.says == nil {
						undo()
					}
					sameWorld(t, before)
				})
			}
		}
	})
}

// setVFs gives a PF another number of VFs, and waits for what that sets off.
func setVFs(t testing.TB, pf string, n int) {
	t.Helper()
	sh(t, fmt.Sprintf("echo %d >/sys/class/net/%s/device/sriov_numvfs", n, pf))
	for i := range n {
		pci := vf(t, pf, i)
		await(t, "interface of "+pci, func() bool { return netdev(pci) != "" })
	}
	awaitCarrier(t, pf)
}

// A VF that is gone needs nothing, and one that is made anew in its place is
// nobody's.
func TestVFsMadeAnew(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		files := func() string {
			_, text, _ := strings.Cut(world(t), "netdev="+netdev(vf(t, "eth1", numVFs-1)))
			return text
		}
		none := files()
		p, other := newPod(t, "anew0"), newPod(t, "anew1")
		keys := map[string]any{"deviceID": vf(t, "eth0", 0), "vlan": 9, "mac": "02:00:00:00:00:09"}
		others := map[string]any{"deviceID": vf(t, "eth0", 1), "vlan": 9, "driver": "vfio-pci"}
		s.mustAdd("sandbox000000", p, keys)
		s.mustAdd("sandbox000001", other, others)
		gone := map[string]any{"deviceID": vf(t, "eth0", 2), "vlan": 9}
		s.mustAdd("sandbox000002", other, gone, "CNI_IFNAME=net2")

		setVFs(t, "eth0", 0)
		refused(t, s.check("sandbox000000", p, keys), "0000:01:10.0", "no such PCI device")
		if _, err := s.call("DEL", "sandbox000002", other.Path(), s.conf(gone), "CNI_IFNAME=net2"); err != nil {
			t.Errorf("DEL without the VF: %v", err)
		}
		setVFs(t, "eth0", numVFs)
		line := vfLine(t, "eth0", 0) + vfLine(t, "eth0", 1)
		refused(t, s.check("sandbox000000", p, keys), "0000:01:10.0", "made anew")
		s.mustDel("sandbox000000", p.Path(), keys)
		s.mustDel("sandbox000001", other.Path(), others)
		if now := vfLine(t, "eth0", 0) + vfLine(t, "eth0", 1); now != line {
			t.Errorf("the new VFs: %s, before DEL %s", now, line)
		}
		if now := files(); now != none {
			t.Errorf("left: %s, before: %s", now, none)
		}
		before := world(t)
		s.mustAdd("sandbox000003", p, keys)
		s.mustDel("sandbox000003", p.Path(), keys)
		sameWorld(t, before)
	})
}

// A VF with an address of its pod comes home without a start of its driver, which takes longer
// than all the rest of DEL. A driver that starts makes an interface with another number.
func TestMACWithTrustKeepsTheDriver(t *testing.T) {
	both(t, func(t *testing.T, s *site) {
		p, pci := newPod(t, "keeps"), vf(t, "eth1", 2)
		before, link := world(t), run(t, "/usr/bin/ip", "-d", "link", "show", netdev(pci))
		keys := map[string]any{"deviceID": pci, "trust": "on", "spoofchk": "off", "mac": "02:00:00:00:00:07"}
		s.mustAdd("sandbox000001", p, keys)
		s.mustDel("sandbox000001", p.Path(), keys)
		sameWorld(t, before)
		number := func(link string) string { return link[:strings.Index(link, ":")] }
		if after := run(t, "/usr/bin/ip", "-d", "link", "show", netdev(pci)); number(after) != number(link) {
			t.Errorf("the driver has started anew: %s", after)
		}
	})
}
