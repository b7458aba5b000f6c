package sriov

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/rig/node"
)

// newHost is a node with the functions of newTree. The PF's interface is the
// veth pf0, that of its first VF the veth vf0; both are up and have addresses
// that are their own.
func newHost(t *testing.T) (*host, *tree) {
	t.Helper()
	s := newTree(t)
	for pci, name := range map[string]string{pfPCI: "pf0", vfPCI: "vf0"} {
		s.remove(s.device(pci, "net"))
		run(t, "ip link add "+name+" type veth peer name "+name+"p")
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
		run(t, "ip link set "+name+"p up")
		run(t, "ip link set "+name+" up")
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		s.netdev(pci, name, link.Attrs().Index)
	}
	for _, pci := range []string{pfPCI, vfPCI, vf2PCI} {
		s.file(pci, "class", "0x020000\n")
	}
	l, err := openLinks("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return &host{s.sysfs, l, logTo(t)}, s
}

func run(t testing.TB, command string) {
	t.Helper()
	words := strings.Fields(command)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// may says whether a configuration may have a function.
func (h *host) may(t testing.TB, pci, text string) error {
	t.Helper()
	f, err := h.sys.function(pci)
	if err != nil {
		t.Fatal(err)
	}
	return h.suits(f, mustParse(t, text, ""), nil)
}

// What the node uses is no pod's, whichever way it is chosen.
func TestInUseByTheNode(t *testing.T) {
	pod, err := node.NewPod("inuse")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	for name, c := range map[string]struct {
		do, undo string // commands; NIC is the interface
		says     string
	}{
		"nothing":                       {"ip link set NIC up", "", ""},
		"promiscuous":                   {"ip link set NIC promisc on", "ip link set NIC promisc off", ""},
		"an IPv4 address":               {"ip addr add 10.9.0.1/24 dev NIC", "ip addr flush dev NIC scope global", "address 10.9.0.1"},
		"a peer's address":              {"ip addr add 10.9.0.1 peer 10.9.0.2 dev NIC", "ip addr flush dev NIC scope global", "address 10.9.0.1"},
		"an IPv4 link-local address":    {"ip addr add 169.254.0.9/16 dev NIC", "ip addr del 169.254.0.9/16 dev NIC", "address 169.254.0.9"},
		"an IPv6 address":               {"ip addr add fd09::1/64 dev NIC nodad", "ip addr del fd09::1/64 dev NIC", "address fd09::1"},
		"a route":                       {"ip route add 10.9.1.0/24 dev NIC", "ip route del 10.9.1.0/24 dev NIC", "route 10.9.1.0/24"},
		"a default route":               {"ip route add default dev NIC metric 7", "ip route del default dev NIC metric 7", "default route"},
		"a route of several ways":       {"ip route add 10.9.1.0/24 nexthop dev lo nexthop dev NIC", "ip route del 10.9.1.0/24", "route 10.9.1.0/24"},
		"a route of another table":      {"ip route add 10.9.1.0/24 dev NIC table 77", "ip route del 10.9.1.0/24 dev NIC table 77", "route 10.9.1.0/24"},
		"an IPv6 route":                 {"ip -6 route add fd09:1::/64 dev NIC", "ip -6 route del fd09:1::/64 dev NIC", "route fd09:1::/64"},
		"a multicast route of people's": {"ip route add 224.0.0.0/4 dev NIC", "ip route del 224.0.0.0/4 dev NIC", "route 224.0.0.0/4"},
		"a bridge":                      {"ip link add br9 type bridge;ip link set NIC master br9", "ip link del br9", "belongs to interface br9"},
		"a macvlan in a pod": {"ip link add link NIC name mv9 type macvlan;ip link set mv9 netns POD;ip netns exec POD ip link set mv9 up",
			"ip netns exec POD ip link del mv9", "macvlan of a pod"},
		"an entry of bridge fdb":       {"bridge fdb add 02:00:00:00:09:09 dev NIC self permanent", "bridge fdb del 02:00:00:00:09:09 dev NIC self permanent", "bridge fdb"},
		"an entry for many in the fdb": {"bridge fdb add 33:33:00:00:09:09 dev NIC self permanent", "bridge fdb del 33:33:00:00:09:09 dev NIC self permanent", ""},
		"filters of tc":                {"tc qdisc add dev NIC clsact", "tc qdisc del dev NIC clsact", "filters of tc"},
		"filters of tc that were":      {"tc qdisc add dev NIC clsact;tc qdisc del dev NIC clsact", "", ""},
	} {
		for nic, function := range map[string][3]string{
			"vf0": {vfPCI, `{"deviceID": "` + vfPCI + `"`, `{"pf": "` + pfPCI + `"`},
			"pf0": {pfPCI, `{"deviceID": "` + pfPCI + `", "pfOnly": true`, `{"pf": "pf0", "pfOnly": true`},
		} {
			t.Run(name+" "+nic, func(t *testing.T) {
				h, _ := newHost(t)
				all := func(commands string) {
					for command := range strings.SplitSeq(commands, ";") {
						if command != "" {
							run(t, strings.NewReplacer("NIC", nic, "POD", pod.Name()).Replace(command))
						}
					}
				}
				all(c.do)
				defer all(c.undo)
				pci := function[0]
				for _, keys := range function[1:] {
					err := h.may(t, pci, keys+"}")
					if c.says == "" && err != nil {
						t.Errorf("%s: %v", keys, err)
					} else if c.says != "" {
						wantError(t, err, pci, "in use by the node", c.says, "allowInUse")
					}
					if err := h.may(t, pci, keys+`, "allowInUse": true}`); err != nil {
						t.Errorf("%s: allowInUse: %v", keys, err)
					}
				}
				if err := h.may(t, vf2PCI, `{"deviceID": "`+vf2PCI+`"}`); err != nil {
					t.Errorf("the other VF: %v", err)
				}
			})
		}
	}
}

// An interface on top is seen in sysfs.
func TestInUseByAnUpperInterface(t *testing.T) {
	h, s := newHost(t)
	s.link("../vf0.7", s.device(vfPCI, "net/vf0/upper_vf0.7"))
	wantError(t, h.may(t, vfPCI, `{"deviceID": "`+vfPCI+`"}`), vfPCI, "in use by the node", "below interface vf0.7")
}

// A whole PF is given to those alone who say so, and a device beside PFs is one
// of theirs.
func TestWhichFunctionMayBeGiven(t *testing.T) {
	h, s := newHost(t)
	s.file("0000:04:00.0", "class", "0x020000\n")
	s.file("0000:04:00.0", "driver_override", "(null)\n")
	s.driver("0000:04:00.0", "ixgbe")
	s.netdev("0000:04:00.0", "other0", 4711)
	for _, c := range []struct {
		pci, keys string
		says      []string
	}{
		{vfPCI, `"pf": "pf0"`, nil},
		{vfPCI, `"pf": ["other0", "pf0"]`, nil},
		{vfPCI, `"pf": "0000:03:00.0"`, nil},
		{vfPCI, `"master": "pf0", "vf": 0`, nil},
		{vfPCI, `"vf": 0`, nil},
		{vfPCI, `"pf": "other0"`, []string{vfPCI, pfPCI, "other0"}},
		{vfPCI, `"if0": "other0"`, []string{vfPCI, pfPCI, "other0"}},
		{vfPCI, `"pf": ["other0", "eth77"]`, []string{vfPCI, pfPCI, "other0", "eth77"}},
		{vfPCI, `"pf": "vf0"`, []string{vfPCI, pfPCI, "vf0"}},
		{vfPCI, `"pf": "pf0", "vf": 1`, []string{vfPCI, `"vf"`, "1", "VF 0"}},
		{vfPCI, `"vf": 1`, []string{vfPCI, `"vf"`, "1", "VF 0"}},
		{pfPCI, `"mtu": 1400`, []string{pfPCI, "whole PF", `"pfOnly": true`}},
		{pfPCI, `"pf": "pf0"`, []string{pfPCI, "whole PF", `"pfOnly": true`}},
		{pfPCI, `"allowInUse": true`, []string{pfPCI, "whole PF", `"pfOnly": true`}},
		{pfPCI, `"vlan": 7`, []string{pfPCI, "whole PF", `"pfOnly": true`}},
		{pfPCI, `"pfOnly": true`, nil},
		{pfPCI, `"pfOnly": true, "pf": ["other0", "pf0"]`, nil},
		{pfPCI, `"pfOnly": true, "pf": "other0"`, []string{pfPCI, "other0"}},
	} {
		err := h.may(t, c.pci, `{"deviceID": "`+c.pci+`", `+c.keys+`}`)
		if c.says == nil && err != nil {
			t.Errorf("%s: %v", c.keys, err)
		} else if c.says != nil {
			wantError(t, err, c.says...)
		}
	}
	// What CNI_ARGS say of the VF binds a device too.
	f, err := s.function(vfPCI)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, h.suits(f, mustParse(t, `{"deviceID": "`+vfPCI+`"}`, "VF=1"), nil), vfPCI, "VF 0")
}

// A PF whose VFs pods have stays: their settings are reached by its interface
// alone. And a VF of a PF that a pod has is not to be had.
func TestAPFOfVFsThatPodsHave(t *testing.T) {
	if err := os.MkdirAll(reservationDir, 0o700); err != nil {
		t.Fatal(err)
	}
	h, s := newHost(t)
	const whole = `{"deviceID": "` + pfPCI + `", "pfOnly": true}`
	reserved := func(pci string, incarnation uint64) *reservation {
		c := &reservation{PCI: pci, Owner: "o", Sandbox: "sandbox000001", IfName: "net1", Original: snapshot{Incarnation: incarnation}}
		if err := c.write(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.remove() })
		return c
	}
	f, err := s.function(vf2PCI)
	if err != nil {
		t.Fatal(err)
	}
	c := reserved(vf2PCI, f.Incarnation)
	wantError(t, h.may(t, pfPCI, whole), pfPCI, vf2PCI, "in use", "sandbox000001")
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	c = reserved(vf2PCI, f.Incarnation+1) // of a VF that went
	if err := h.may(t, pfPCI, whole); err != nil {
		t.Error(err)
	}
	if err := c.remove(); err != nil {
		t.Fatal(err)
	}
	run(t, "ip addr add 10.9.0.1/24 dev vf0")
	wantError(t, h.may(t, pfPCI, whole), pfPCI, vfPCI, "in use by the node", "10.9.0.1")
	run(t, "ip addr del 10.9.0.1/24 dev vf0")
	s.remove(s.device(vfPCI, "net")) // another plugin has moved it
	wantError(t, h.may(t, pfPCI, whole), pfPCI, vfPCI, "in use", "another network namespace")

	if f, err = s.function(pfPCI); err != nil {
		t.Fatal(err)
	}
	c = reserved(pfPCI, f.Incarnation)
	if err := h.may(t, vf2PCI, `{"deviceID": "`+vf2PCI+`"}`); err != nil { // that pod is gone
		t.Error(err)
	}
	c.Netns, c.NetnsID = "/proc/self/ns/net", podnet.ID("/proc/self/ns/net")
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
	wantError(t, h.may(t, vf2PCI, `{"deviceID": "`+vf2PCI+`"}`), vf2PCI, pfPCI, "sandbox000001")
}

// Naming a device takes part in the same turn as picking one.
func TestNamedDevicesTakeTurns(t *testing.T) {
	h, _ := newHost(t)
	release, err := lockPF(t.Context(), pfPCI)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, text := range []string{`{"deviceID": "` + vfPCI + `"}`, `{"deviceID": "` + pfPCI + `", "pfOnly": true}`, `{"pf": "pf0", "pfOnly": true}`} {
		ctx, cancel := contextOf(t)
		_, err := h.choose(ctx, &delegates.Attachment{Sandbox: "sandbox000001", IfName: "net1", Owner: "o"}, mustParse(t, text, ""))
		cancel()
		wantError(t, err, "VFs of PF "+pfPCI)
	}
}
