package sriov

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/delegates"
)

// What a pod has changed of an interface is set back; what cannot be set back is named.
func TestRetune(t *testing.T) {
	h, _ := newHost(t)
	link := func() *tuning {
		t.Helper()
		l := byName(t, h.links, "vf0")
		now, err := tuningOf(l)
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	run(t, "ip link set vf0 txqueuelen 77 alias before")
	was := link()
	if was.Numbers["txqueuelen"] != 77 || was.Alias != "before" || was.Driver[ethtoolFeatures] == nil {
		t.Fatalf("read: %+v", was)
	}
	run(t, "ip link set vf0 txqueuelen 5 alias after group 9 arp off multicast off allmulticast on gso_max_size 3000")
	socket, err := ethtoolSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	features := slices.Clone(was.Driver[ethtoolFeatures])
	binary.NativeEndian.PutUint32(features[12:], 0) // none is requested
	if err := ethtoolSettings[0].write(socket, "vf0", features); err != nil {
		t.Fatal(err)
	}
	if got := link().differences(was); !slices.Equal(got, []string{ethtoolFeatures}) {
		t.Errorf("differences %q", got)
	}
	var steps []string
	ctx := delegates.WithSteps(t.Context(), func(step string) error { steps = append(steps, step); return nil })
	left, err := h.retune(ctx, byName(t, h.links, "vf0"), was)
	if err != nil || len(left) > 0 || len(steps) != 2 {
		t.Errorf("left %q, %v, steps %q", left, err, steps)
	}
	now := link()
	if now.Flags != was.Flags || now.Alias != was.Alias || now.Numbers["group"] != 0 || now.Numbers["txqueuelen"] != 77 || now.Numbers["gso_max_size"] != was.Numbers["gso_max_size"] {
		t.Errorf("now %+v, was %+v", now, was)
	}
	steps = nil
	if left, err := h.retune(ctx, byName(t, h.links, "vf0"), was); err != nil || len(left) > 0 || len(steps) > 0 {
		t.Errorf("the second time: left %q, %v, steps %q", left, err, steps)
	}
	was.Driver[xdpProgram] = words(7)
	if left, err := h.retune(ctx, byName(t, h.links, "vf0"), was); err != nil || !slices.Equal(left, []string{xdpProgram}) {
		t.Errorf("a program: left %q, %v", left, err)
	}
	if left, err := h.retune(ctx, byName(t, h.links, "vf0"), nil); err != nil || left != nil {
		t.Errorf("a former reservation: left %q, %v", left, err)
	}
}
