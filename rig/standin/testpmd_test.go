package standin_test

import (
	"os"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// A peer of DPDK and one of Go exchange frames.
func TestTestpmd(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	for _, file := range []string{r.path("a"), r.path("b")} {
		r.join(r.server0(file), 1)
	}
	d, err := memif.StartTestpmd(t.Context(), r.dir, r.path("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	p := r.peer(r.path("b"), memif.Options{})
	if err := d.WaitLink(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Send(t.Context(), 1000, memif.Traffic{}); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitReceived(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Received(t.Context()); err != nil || got != 1000 {
		t.Errorf("testpmd has received %d frames: %v", got, err)
	}
	if err := d.Send(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	if err := d.Send(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	if err := p.WaitOther(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	if got := p.Tally().Other; got != 1000 {
		t.Errorf("the peer has received %d frames of testpmd", got)
	}
	// A killed peer is noticed, and another one takes its place.
	d.Stop()
	q := r.peer(r.path("a"), memif.Options{})
	r.transfer(p, q, 1000, memif.Traffic{})
}

// An interface that is a client exchanges frames with a DPDK that listens, and again with the next
// one at the socket.
func TestTestpmdServes(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	client := r.client0(r.path("a"))
	r.join(client, 1)
	r.join(r.server0(r.path("b")), 1)
	p := r.peer(r.path("b"), memif.Options{})
	for range 2 {
		d, err := memif.ServeTestpmd(t.Context(), r.dir, r.path("a"), 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Stop)
		if err := d.WaitLink(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := p.Tally().Other
		if err := p.Send(t.Context(), 1000, memif.Traffic{}); err != nil {
			t.Fatal(err)
		}
		if err := d.WaitReceived(t.Context(), 1000); err != nil {
			t.Fatal(err)
		}
		if err := d.Send(t.Context(), 500); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitOther(t.Context(), before+500); err != nil {
			t.Fatal(err)
		}
		d.Stop()
		if err := os.Remove(r.path("a")); err != nil { // of a DPDK that was killed: the next one would not start
			t.Fatal(err)
		}
	}
}
