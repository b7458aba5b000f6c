package standin_test

import (
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
