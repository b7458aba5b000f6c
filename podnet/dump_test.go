package podnet_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vishns "github.com/vishvananda/netns"

	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/rig/netns"
)

// A list is whole although addresses come and go while the kernel gives it.
func TestDump(t *testing.T) {
	if netns.AsRoot(t) {
		return
	}
	space, err := vishns.GetFromPath(netns.New(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = space.Close() })
	handle := func() *netlink.Handle {
		h, err := netlink.NewHandleAt(space)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		return h
	}
	ours, theirs := handle(), handle()
	lo, err := ours.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 { // more than one answer of the kernel holds
		addr, err := netlink.ParseAddr(fmt.Sprintf("10.0.%d.%d/32", i/250, i%250))
		if err == nil {
			err = ours.AddrAdd(lo, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	end, ended := make(chan bool), make(chan bool)
	go func() {
		defer close(ended)
		addr := &netlink.Addr{IPNet: netlink.NewIPNet([]byte{10, 1, 0, 1})}
		for {
			select {
			case <-end:
				return
			default:
				_ = errors.Join(theirs.AddrAdd(lo, addr), theirs.AddrDel(lo, addr))
				runtime.Gosched()
			}
		}
	}()
	defer func() { close(end); <-ended }()
	list := func() ([]netlink.Addr, error) { return ours.AddrList(nil, netlink.FAMILY_V4) }
	for seen, began := 0, time.Now(); seen < 10; {
		if time.Since(began) > time.Minute {
			t.Fatal("the kernel was never interrupted")
		}
		if _, err := list(); errors.Is(err, netlink.ErrDumpInterrupted) {
			seen++
		}
		if all, err := podnet.Dump(list); err != nil || len(all) < 500 {
			t.Fatalf("%d addresses: %v", len(all), err)
		}
	}
}
