package vppmemif

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

// Attachments that are compared together read VPP once, whether it has all of them or has lost
// all of them; with routes in a large table none reads the table. A record that was written since
// is compared with a VPP that is read again.
func TestComparisonReadsOnce(t *testing.T) {
	for name, keys := range map[string]map[string]any{
		"bridge domain": named("blue"),
		"addresses":     {"addresses": []string{"10.9.0.1/32"}, "routes": []any{map[string]any{"dst": "10.8.0.0/24"}}},
	} {
		t.Run(name, func(t *testing.T) { compareMany(t, keys) })
	}
}

func compareMany(t *testing.T, keys map[string]any) {
	r := newRig(t, standin.Options{})
	d := newDelegate(t)
	const n = 20
	var all []*delegates.Attachment
	for i := range n {
		if keys["addresses"] != nil { // of each pod its own: VPP takes no address twice
			keys = map[string]any{"addresses": []string{fmt.Sprintf("10.9.0.%d/32", i+1)}, "routes": []any{map[string]any{"dst": fmt.Sprintf("10.8.%d.0/24", i)}}}
		}
		s := r.attachment(fmt.Sprintf("%02x", i+1)+sandboxA[2:], keys)
		a, err := s.of(d, mustAttach(t, d, s))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	r.age()
	compare := func(together *delegates.Comparison) (made string, dumps int) {
		t.Helper()
		count := func() int {
			return r.Count("memif_dump") + r.Count("memif_socket_filename_dump") + 2*r.Count("ip_route_dump")
		}
		before := count()
		for _, a := range all {
			a.Comparison = together
			restored, err := a.Network.Restore(bounded(t), a)
			if err != nil {
				t.Fatal(err)
			}
			made += strings.Join(restored, ", ")
			if err := a.Network.Check(bounded(t), a); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		}
		return made, count() - before
	}
	world := r.State()
	if made, dumps := compare(&delegates.Comparison{}); dumps != 2 || made != "" {
		t.Errorf("%d dumps for %d attachments, want 2; made again: %q", dumps, n, made)
	}
	if _, dumps := compare(nil); dumps != 4*n {
		t.Errorf("%d dumps for attachments that are compared alone, want %d", dumps, 4*n)
	}
	r.restart()
	r.age()
	if made, dumps := compare(&delegates.Comparison{}); dumps > 2 || strings.Count(made, "memif 0 on socket") != n {
		t.Errorf("%d dumps for %d attachments that VPP has lost, want 2; made again: %q", dumps, n, made)
	}
	same(t, world, r.State())
	together := &delegates.Comparison{}
	if made, _ := compare(together); made != "" {
		t.Errorf("made again: %q", made)
	}
	name := "memif1/0"
	for number, socket := range r.socketNumbers(d) {
		if socket == stateOf(t, all[3].State).Socket {
			name = fmt.Sprintf("memif%d/0", number)
		}
	}
	admin := r.admin()
	admin.do(&binmemif.MemifDelete{SwIfIndex: admin.named(name)}, &binmemif.MemifDeleteReply{})
	all[3].Changed = time.Now()
	if made, _ := compare(together); !strings.Contains(made, filepath.Base(stateOf(t, all[3].State).Socket)) {
		t.Errorf("a record that is newer than what was read is not compared with VPP as it is: made again: %q", made)
	}
	if made, _ := compare(&delegates.Comparison{}); made != "" {
		t.Errorf("made again: %q", made)
	}
}

// BenchmarkCompare compares 1,000 memifs of as many sandboxes: intact, and lost by a restart of VPP.
func BenchmarkCompare(b *testing.B) {
	r := newRig(b, standin.Options{})
	d := newDelegate(b)
	var all []*delegates.Attachment
	for i := range 1000 {
		s := r.attachment(fmt.Sprintf("%04x", i+1)+sandboxA[4:], named("blue"))
		a, err := s.of(d, mustAttach(b, d, s))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, a)
	}
	for _, lost := range []bool{false, true} {
		b.Run(fmt.Sprintf("lost=%v", lost), func(b *testing.B) {
			for b.Loop() {
				if lost {
					b.StopTimer()
					r.restart()
					r.age()
					b.StartTimer()
				}
				together := &delegates.Comparison{}
				for _, a := range all {
					a.Comparison = together
					if _, err := a.Network.Restore(b.Context(), a); err != nil {
						b.Fatal(err)
					}
					if err := a.Network.Check(b.Context(), a); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// socketNumbers are the sockets of VPP by their numbers.
func (r *rig) socketNumbers(d *Delegate) map[uint32]string {
	r.t.Helper()
	numbers := map[uint32]string{}
	for socket, number := range r.socketIDs(d) {
		numbers[number] = socket
	}
	return numbers
}
