package sriov

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/node"
)

// ADD and DEL of one VF as whole processes, beside the start of the process
// alone, in turn: medians, and the share that is the work.
func BenchmarkKernel(b *testing.B) { bench(b, map[string]any{}) }

func BenchmarkKernelVLAN(b *testing.B) {
	bench(b, map[string]any{"vlan": 7, "spoofchk": "off", "trust": "on"})
}

func BenchmarkKernelMAC(b *testing.B) { bench(b, map[string]any{"mac": "02:00:00:00:00:07"}) }

func BenchmarkDPDK(b *testing.B) { bench(b, map[string]any{"driver": "vfio-pci"}) }

func bench(b *testing.B, keys map[string]any) {
	keys["deviceID"] = vf(b, "eth0", 0)
	p, err := node.NewPod("bench")
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	s := newSite(b, "sriov")
	var start, add, del []time.Duration
	for b.Loop() {
		began := time.Now()
		cmd := s.command(context.Background(), "VERSION", "", "")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("VERSION: %v: %s", err, out)
		}
		started := time.Now()
		s.mustAdd("sandbox000001", p, keys)
		added := time.Now()
		s.mustDel("sandbox000001", p.Path(), keys)
		start, add, del = append(start, started.Sub(began)), append(add, added.Sub(started)), append(del, time.Since(added))
	}
	middle := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2]) / float64(time.Millisecond)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(middle(start), "start-ms")
	b.ReportMetric(middle(add), "ADD-ms")
	b.ReportMetric(middle(del), "DEL-ms")
	b.ReportMetric(middle(add)/middle(start), "ADD/start")
	b.ReportMetric(middle(del)/middle(start), "DEL/start")
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
