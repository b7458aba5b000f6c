package sriov

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

// leftovers are changes of net1 that a pod with CAP_NET_ADMIN can make, by name, as lines of a
// shell in the pod.
var leftovers = []struct{ name, do string }{
	{"NOARP", "ip link set net1 arp off"},
	{"multicast off", "ip link set net1 multicast off"},
	{"dynamic", "ip link set net1 dynamic on"},
	{"promiscuous", "ip link set net1 promisc on"},
	{"all multicast", "ip link set net1 allmulticast on"},
	{"down", "ip link set net1 down"},
	{"txqueuelen", "ip link set net1 txqueuelen 7"},
	{"alias", "ip link set net1 alias evil"},
	{"group", "ip link set net1 group 7"},
	{"alternative name", "ip link property add dev net1 altname wanted"},
	{"another name", "ip link set net1 down && ip link set net1 name other"},
	{"MTU", "ip link set net1 mtu 1300"},
	{"MAC", "ip link set net1 address 02:00:00:00:66:66"},
	{"gso_max_size", "ip link set net1 gso_max_size 2000"},
	{"gso_max_segs", "ip link set net1 gso_max_segs 2"},
	{"gro_max_size", "ip link set net1 gro_max_size 2000"},
	{"ethtool -K", "ethtool -K net1 rx off tx off sg off gro off rxvlan off"},
	{"ethtool -G", "ethtool -G net1 rx 512 tx 512"},
	{"ethtool -C", "ethtool -C net1 rx-usecs 333"},
	{"ethtool -s msglvl", "ethtool -s net1 msglvl 0"},
	{"qdisc", "tc qdisc replace dev net1 root handle 1: prio"},
	{"filter of clsact", "tc qdisc add dev net1 clsact && tc filter add dev net1 ingress matchall action drop"},
	{"filter of ingress", "tc qdisc add dev net1 ingress && tc filter add dev net1 ingress matchall action drop"},
	{"sysctl of IPv4", "echo 2 >/proc/sys/net/ipv4/conf/net1/rp_filter; echo 8 >/proc/sys/net/ipv4/conf/net1/arp_ignore"},
	{"sysctl of IPv6", "echo 1 >/proc/sys/net/ipv6/conf/net1/disable_ipv6"},
	{"sysctl of neighbours", "echo 0 >/proc/sys/net/ipv4/neigh/net1/ucast_solicit"},
	{"forwarding entry", "bridge fdb add 02:00:00:00:77:77 dev net1 self"},
	{"multicast address", "ip maddress add 33:33:00:00:77:77 dev net1"},
	{"VLAN on top", "ip link add link net1 name v7 type vlan id 7"},
	{"macvlan on top", "ip link add link net1 name m7 type macvlan"},
	{"neighbour", "ip neigh add 10.9.9.9 lladdr 02:00:00:00:00:09 dev net1 nud permanent"},
	{"XDP program", ""},
}

// What a pod does to the interface of its VF goes with the pod, whether its namespace is
// there at DEL or not, and the next pod gets nothing of it.
func TestLeftovers(t *testing.T) {
	s, pci := newSite(t, "sriov"), vf(t, "eth0", 3)
	// What the operator has set up for pods stays: the pod starts from it, DEL goes back to it.
	name := netdev(pci)
	sh(t, "ip link set "+name+" txqueuelen 500 alias operators group 3 && ethtool -G "+name+" rx 1024 && ethtool -K "+name+" gro off")
	t.Cleanup(func() {
		sh(t, "ip link set "+name+" txqueuelen 1000 alias '' group 0 && ethtool -G "+name+" rx 256 && ethtool -K "+name+" gro on")
	})
	keys := map[string]any{"deviceID": pci, "ipam": static("10.9.9.1/24")}
	before := interior(t, name)
	for _, l := range leftovers {
		for _, alive := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, namespace alive %t", l.name, alive), func(t *testing.T) {
				p := newPod(t, "leftovers")
				s.t = t
				s.mustAdd("sandbox000001", p, keys)
				defer func() { _ = s.del("sandbox000001", "", keys) }() // for the others, if this one fails
				if l.do == "" {
					dropAll(t, p, "net1")
				} else {
					inPod(t, p, "sh", "-ec", "ip() { /usr/bin/ip \"$@\"; }; tc() { /usr/bin/tc \"$@\"; }; "+l.do)
				}
				if !alive {
					closed(t, p)
					await(t, "interface of "+pci, func() bool { return netdev(pci) != "" })
				}
				s.mustDel("sandbox000001", p.Path(), keys)
				after := interior(t, netdev(pci))
				if qdiscs := run(t, "/usr/bin/tc", "qdisc", "show", "dev", netdev(pci)); regexp.MustCompile("prio|clsact|ingress").MatchString(qdiscs) {
					t.Errorf("qdiscs: %s", qdiscs)
				}
				if after != before {
					t.Errorf("%s", difference(before, after))
				}
			})
		}
	}
}

func difference(before, after string) string {
	var b strings.Builder
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	only := func(mark string, all []string, others string) {
		for _, line := range all {
			if !strings.Contains("\n"+others+"\n", "\n"+line+"\n") {
				fmt.Fprintf(&b, "%s %s\n", mark, line)
			}
		}
	}
	only("before:", old, after)
	only("now:   ", now, before)
	return b.String()
}

// interior is what can be seen of an interface on the node, without numbers that a driver's
// start changes.
func interior(t testing.TB, name string) string {
	t.Helper()
	all := world(t) + "\n" + run(t, "/usr/bin/ip", "-d", "link", "show", name)
	for _, flags := range []string{"-k", "-g", "-c", "-l", "-a", "-x", "-n", "--show-priv-flags", ""} {
		args := []string{"ethtool", flags, name}
		if flags == "" {
			args = []string{"ethtool", name}
		}
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput()
		all += "\n" + strings.Join(args, " ") + "\n" + string(out)
	}
	for _, args := range [][]string{{"/usr/bin/tc", "qdisc", "show", "dev", name, "ingress"}, {"bridge", "fdb", "show", "dev", name}, {"/usr/bin/ip", "maddress", "show", "dev", name}, {"/usr/bin/ip", "neigh", "show", "dev", name}} {
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput()
		all += "\n" + strings.Join(args, " ") + "\n" + string(out)
	}
	for _, glob := range []string{"/proc/sys/net/ipv4/conf/%s/*", "/proc/sys/net/ipv6/conf/%s/*", "/proc/sys/net/ipv4/neigh/%s/*", "/proc/sys/net/ipv6/neigh/%s/*"} {
		files, err := filepath.Glob(fmt.Sprintf(glob, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			value, err := os.ReadFile(f)
			if err == nil {
				all += "\n" + f + " " + strings.TrimSpace(string(value))
			}
		}
	}
	return inconstant.ReplaceAllString(all, "")
}

var inconstant = regexp.MustCompile(`(?m)^\d+:\s|NO-CARRIER,|,?LOWER_UP| state \w+| qdisc \w+|.*base_reachable_time.*|.*Link detected.*|Speed: .*|Duplex: .*`)

// dropAll attaches an XDP program that drops each packet.
func dropAll(t testing.TB, p *node.Pod, name string) {
	t.Helper()
	instructions := []uint64{0x1_0000_00b7, 0x95} // r0 = XDP_DROP; exit
	license := []byte("GPL\x00")
	load := struct {
		kind, count                 uint32
		instructions, license       uint64
		level, size                 uint32
		log                         uint64
		version, flags              uint32
		name                        [16]byte
		ifindex, expectedAttachType uint32
	}{kind: 6, count: 2, instructions: uint64(uintptr(unsafe.Pointer(&instructions[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
	runtime.KeepAlive(instructions)
	runtime.KeepAlive(license)
	if errno != 0 {
		t.Fatalf("load the XDP program: %v", errno)
	}
	defer unix.Close(int(fd))
	err := p.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetXdpFdWithFlags(link, int(fd), nl.XDP_FLAGS_SKB_MODE)
	})
	if err != nil {
		t.Fatalf("attach the XDP program: %v", err)
	}
}
