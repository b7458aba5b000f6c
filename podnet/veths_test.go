package podnet_test

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/rig/netns"
)

// The node's end of a pod's veth is found by name and MAC, and removed; what only looks like
// one stays.
func TestVeths(t *testing.T) {
	if netns.AsRoot(t) {
		return
	}
	pod, err := os.Open(netns.New(t))
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with its namespace, the node of this test
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		testVeths(t, int(pod.Fd()))
	}()
	<-done
}

func testVeths(t *testing.T, pod int) {
	add := func(name, peer string, fd int) *types100.Interface {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
		if fd >= 0 {
			veth.PeerNamespace = netlink.NsFd(fd)
		}
		err := netlink.LinkAdd(veth)
		link, errFind := netlink.LinkByName(name)
		if err := errors.Join(err, errFind); err != nil {
			t.Error(err)
			return &types100.Interface{Name: name}
		}
		return &types100.Interface{Name: name, Mac: strings.ToUpper(link.Attrs().HardwareAddr.String())}
	}
	own, here := add("own0", "eth0", pod), add("here0", "here1", -1)
	another := add("another0", "eth1", pod)
	another.Mac = "02:00:00:00:00:01"
	inPod := add("inpod0", "eth2", pod)
	inPod.Sandbox = "/run/netns/pod"
	noMAC := add("nomac0", "eth3", pod)
	noMAC.Mac = ""
	r := &types100.Result{Interfaces: []*types100.Interface{own, here, another, inPod, noMAC, {Name: "lo", Mac: "00:00:00:00:00:00"}, {Name: "gone0", Mac: own.Mac}}}
	if got := podnet.Veths(r); !slices.Equal(got, []string{"own0"}) {
		t.Errorf("the node's ends are %q", got)
	}
	if got := podnet.Veths(nil); got != nil {
		t.Errorf("without a result: %q", got)
	}
	for range 2 { // gone is no error
		if err := podnet.RemoveLink("own0"); err != nil {
			t.Error(err)
		}
	}
	if got := podnet.Veths(r); got != nil {
		t.Errorf("after its removal: %q", got)
	}
}
