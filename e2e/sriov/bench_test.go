package sriov

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

// peer is another CNI plugin of type sriov that the benchmarks compare with.
var peer = flag.String("peer", "", "`executable` of sriov-cni in the guest, with which the benchmarks compare plexus")

// ADD and DEL of one VF as whole processes, without the agent, beside the start of the process
// alone: medians. With -peer each request is made in turn by plexus and by the peer, on the same VF.
func BenchmarkPlain(b *testing.B) { bench(b, *peer, map[string]any{}) }

func BenchmarkFull(b *testing.B) {
	bench(b, *peer, map[string]any{"vlan": 7, "vlanQoS": 3, "spoofchk": "off", "trust": "on", "mac": "02:00:00:00:00:07", "ipam": map[string]any{
		"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": []any{[]any{map[string]any{"subnet": "10.9.0.0/24"}}},
	}})
}

func BenchmarkMACWithoutTrust(b *testing.B) {
	bench(b, "", map[string]any{"mac": "02:00:00:00:00:07"})
}

func BenchmarkDPDK(b *testing.B) { bench(b, "", map[string]any{"driver": "vfio-pci"}) }

func bench(b *testing.B, peer string, keys map[string]any) {
	keys["deviceID"] = vf(b, "eth0", 0)
	p, err := node.NewPod("bench")
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	sites := []*site{newSite(b, "sriov")}
	if peer != "" {
		sites = append(sites, newSite(b, peer))
	} else {
		b.Log("NO PEER: plexus is compared with nothing; -peer names an executable of sriov-cni in the guest")
	}
	times := map[string][]time.Duration{}
	timed := func(what string, do func()) {
		began := time.Now()
		do()
		times[what] = append(times[what], time.Since(began))
	}
	for b.Loop() {
		for i, s := range sites {
			who := []string{"", "peer-"}[i]
			timed(who+"start", func() {
				cmd := s.command(context.Background(), "VERSION", "", "")
				cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0"}`)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("VERSION: %v: %s", err, out)
				}
			})
			timed(who+"ADD", func() { s.mustAdd("sandbox000001", p, keys) })
			timed(who+"DEL", func() { s.mustDel("sandbox000001", p.Path(), keys) })
		}
	}
	b.ReportMetric(0, "ns/op")
	for what, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2])/float64(time.Millisecond), what+"-ms")
	}
}

// The requests to the kernel do not depend on how many VFs there are.
func TestNetlinkRequests(t *testing.T) {
	if out, err := exec.Command("modprobe", "nlmon").CombinedOutput(); err != nil {
		t.Fatalf("modprobe nlmon: %v: %s", err, out)
	}
	pf := "/sys/class/net/eth1/device/sriov_numvfs"
	set := func(n int) {
		for _, count := range []int{0, n} {
			if err := os.WriteFile(pf, []byte(strconv.Itoa(count)), 0); err != nil {
				t.Fatal(err)
			}
		}
		for range 1000 {
			if found, _ := filepath.Glob("/sys/class/net/eth1/device/virtfn*/net/*"); len(found) == n {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("no %d VFs", n)
	}
	t.Cleanup(func() { set(numVFs) })
	counts := map[int]string{}
	for _, n := range []int{1, numVFs} {
		set(n)
		s := newSite(t, "sriov")
		p := newPod(t, fmt.Sprintf("count%d", n))
		keys := map[string]any{"deviceID": vf(t, "eth1", 0), "vlan": 7}
		s.mustAdd("sandbox000001", p, keys) // what is done once is done
		s.mustDel("sandbox000001", p.Path(), keys)
		add := countRequests(t, p, func() { s.mustAdd("sandbox000001", p, keys) })
		del := countRequests(t, p, func() { s.mustDel("sandbox000001", p.Path(), keys) })
		t.Logf("%d VFs: %d requests for ADD, %d for DEL", n, add, del)
		if add == 0 || del == 0 {
			t.Error("nothing was counted")
		}
		counts[n] = fmt.Sprint(add, del)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if counts[1] != counts[numVFs] {
		t.Errorf("requests for ADD and DEL: %s with 1 VF, %s with %d", counts[1], counts[numVFs], numVFs)
	}
}

// countRequests counts the messages to rtnetlink in the node's namespace and in
// the pod's.
func countRequests(t *testing.T, p *node.Pod, do func()) int {
	t.Helper()
	here := func(f func() error) error { return f() }
	run(t, "ip", "link", "add", "nlmon0", "up", "type", "nlmon")
	inPod(t, p, "ip", "link", "add", "nlmon0", "up", "type", "nlmon")
	taps := []int{tap(t, here), tap(t, p.Do)}
	do()
	n, buf := 0, make([]byte, 1<<16)
	for _, fd := range taps {
		for {
			size, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				break
			}
			l, ok := from.(*unix.SockaddrLinklayer)
			if ok && l.Protocol == unix.NETLINK_ROUTE && size >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(buf[6:])&unix.NLM_F_REQUEST != 0 {
				n++
			}
		}
		_ = unix.Close(fd)
	}
	run(t, "ip", "link", "del", "nlmon0")
	inPod(t, p, "ip", "link", "del", "nlmon0")
	return n
}

// tap listens at nlmon0 in a namespace.
func tap(t *testing.T, within func(func() error) error) (fd int) {
	t.Helper()
	err := within(func() (err error) {
		i, err := net.InterfaceByName("nlmon0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<24); err != nil {
			return err
		}
		const all = 0x0300 // ETH_P_ALL in network byte order
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: all})
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
