package standin_test

import (
	"net/netip"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// Two peers of one bridge domain exchange every frame, those of two none.
func TestBridgeDomains(t *testing.T) {
	for name, o := range map[string]memif.Options{"own": {}, "gomemif": {Gomemif: true}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, standin.Options{})
			var peers []*memif.Peer
			for n, bridge := range []uint32{10, 10, 20, 20} {
				file := r.path(string(rune('a' + n)))
				i := r.server0(file)
				if n%2 == 0 {
					r.addBridge(bridge)
				}
				r.join(i, bridge)
				peers = append(peers, r.peer(file, o))
			}
			a, b, c, d := peers[0], peers[1], peers[2], peers[3]
			r.transfer(a, b, 1000, memif.Traffic{})
			r.transfer(b, a, 1000, memif.Traffic{})
			r.transfer(c, d, 1000, memif.Traffic{To: broadcast})
			// To a member of the other bridge domain: flooded in its own.
			r.transfer(a, b, 10, memif.Traffic{To: c.MAC()})
			r.clean(a, "1000 frames")
			r.clean(b, "1010 frames")
			r.clean(c, "0 frames")
			r.clean(d, "1000 frames")
		})
	}
}

func TestBothWaysAtOnce(t *testing.T) {
	r := newRig(t, standin.Options{})
	r.addBridge(1)
	var peers []*memif.Peer
	for _, file := range []string{r.path("a"), r.path("b")} {
		r.join(r.server0(file), 1)
		peers = append(peers, r.peer(file, memif.Options{}))
	}
	const frames = 20_000
	done := make(chan error, 2)
	for n, from := range peers {
		go func() {
			_, err := memif.Transfer(t.Context(), from, peers[1-n], frames, memif.Traffic{Size: 1500})
			done <- err
		}()
	}
	for range peers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, p := range peers {
		r.clean(p, "20000 frames")
	}
}

func TestPing(t *testing.T) {
	r := newRig(t, standin.Options{})
	i := r.server0(r.path("a"))
	r.address(i, "10.1.2.1/24")
	r.address(i, "2001:db8::1/64")
	p := r.peer(r.path("a"), memif.Options{})
	for from, to := range map[string]string{"10.1.2.3": "10.1.2.1", "2001:db8::3": "2001:db8::1"} {
		if _, err := p.Ping(t.Context(), netip.MustParseAddr(from), netip.MustParseAddr(to)); err != nil {
			t.Error(err)
		}
	}
}
