package ovsdpdk

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// together runs f n times at once.
func together(n int, f func(i int) error) error {
	errs := make([]error, n)
	start := make(chan struct{})
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	group.Wait()
	return errors.Join(errs...)
}

// inTurn runs f for each of a crowd, one after the other; atOnce together.
func inTurn(f func(i int) error) error {
	var errs []error
	for i := range crowdSize {
		errs = append(errs, f(i))
	}
	return errors.Join(errs...)
}

func atOnce(f func(i int) error) error { return together(crowdSize, f) }

const crowdSize = 8

// crowd attaches 8 sandboxes at once, each by a Delegate of its own, and lets
// them leave.
func crowd(t *testing.T, r *rig, leave func(func(i int) error) error) {
	t.Helper()
	const n = crowdSize
	before := r.world()
	var all [n]*delegates.Attachment
	var backends [n]*Delegate
	for i := range n {
		backends[i] = newDelegate(t)
		all[i] = r.attachment(backends[i], fmt.Sprintf("%02d0123456789", i), nil)
	}
	if err := together(n, func(i int) error { return attach(t, backends[i], all[i]) }); err != nil {
		t.Error(err)
	}
	if bridges := r.vsctl("list-br"); strings.Count(bridges, testBridge) != 1 {
		t.Errorf("bridges %q, want %s once", bridges, testBridge)
	}
	if ports := strings.Fields(r.vsctl("list-ports", testBridge)); len(ports) != n {
		t.Errorf("%d ports in the bridge, want %d", len(ports), n)
	}
	for _, a := range all {
		wantErrorNone(t, a.Network.Check(bounded(t), a))
	}
	if err := leave(func(i int) error { return backends[i].Detach(bounded(t), all[i:i+1])[0] }); err != nil {
		t.Error(err)
	}
	sameWorld(t, before, r.world())
}

// However many make a bridge at once, there is one, and the last takes it away.
func TestManyMakeOneBridge(t *testing.T) {
	r := newRig(t)
	for range 3 {
		crowd(t, r, inTurn)
	}
}

// The same in a bridge that is somebody else's.
func TestManyInAForeignBridge(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	crowd(t, r, atOnce)
}

// Of two attachments that want one socket, one gets it, and the error of the other one
// names the first.
func TestOneSocketForTwo(t *testing.T) {
	r := newRig(t)
	volume := r.dir + "/volume"
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	keys := map[string]any{"vhost": map[string]any{"socketFile": "sock"}}
	backends := []*Delegate{newDelegate(t), newDelegate(t)}
	all := []*delegates.Attachment{shared(r.attachment(backends[0], "first-of-two", keys), volume), shared(r.attachment(backends[1], "second-of-two", keys), volume)}
	mustPrepare(t, all...)
	errs := make([]error, 2)
	_ = together(2, func(i int) error {
		errs[i] = backends[i].Attach(bounded(t), all[i:i+1])
		return nil
	})
	winner, loser := 0, 1
	if errs[0] != nil {
		winner, loser = 1, 0
	}
	if errs[winner] != nil {
		t.Fatal("both failed:", errors.Join(errs...))
	}
	words := []string{volume + "/sock", portName(all[winner]), "default/" + all[winner].Sandbox, "socketFile"}
	wantError(t, errs[loser], words...)
	mustDetach(t, backends[loser], all[loser])
	if err := all[winner].Network.Check(bounded(t), all[winner]); err != nil {
		t.Errorf("the loser's DEL has hurt the winner: %v", err)
	}
	wantError(t, prepare(t, all[loser]), words...)
	mustDetach(t, backends[winner], all[winner])
	sameWorld(t, before, r.world())
}

// A pod that asks for one socket twice gets an error that says so.
func TestOneSocketTwiceInAPod(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "socketFile": "sock"}})
	b := sibling(a, "net2")
	mustPrepare(t, a, b)
	wantError(t, d.Attach(bounded(t), []*delegates.Attachment{a, b}), "/sock", "asked for twice")
	for _, a := range []*delegates.Attachment{a, b} {
		mustDetach(t, d, a)
	}
	sameWorld(t, before, r.world())
}

// podOfFour is four attachments of a pod, at several bridges and in both modes.
func (r *rig) podOfFour(d *Delegate) []*delegates.Attachment {
	r.t.Helper()
	var all []*delegates.Attachment
	for i, keys := range []map[string]any{
		{"bridge": "br-a"}, {"bridge": "br-b"}, {"bridge": "br-a", "vlan": 7},
		{"bridge": "br-b", "vhost": map[string]any{"socketDir": r.dir, "mode": "server"}},
	} {
		all = append(all, sibling(r.attachment(d, sandbox, keys), fmt.Sprint("net", i+1)))
	}
	return all
}

// The ports of a pod go in by one transaction, into several bridges and by both
// modes, and out one by one: the folder with the last.
func TestPodOfFour(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	all := r.podOfFour(d)
	mustPrepare(t, all...)
	r.wire.arm(0, "")
	if err := d.Attach(bounded(t), all); err != nil {
		t.Fatal(err)
	}
	if inserts := r.wire.count("insert Interface"); inserts != 1 {
		t.Errorf("%d transactions insert, want one: %q", inserts, r.wire.seen())
	}
	for i, a := range all {
		for _, b := range all[i:] {
			if err := b.Network.Check(bounded(t), b); err != nil {
				t.Errorf("after the DEL of %d others: %v", i, err)
			}
		}
		mustDetach(t, d, a)
	}
	sameWorld(t, before, r.world())
}

// Two ports that leave at once, each seeing the other: the bridge goes too.
func TestTwoLeaveAtOnce(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d, other := newDelegate(t), newDelegate(t)
	a, b := r.attachment(d, "first-to-leave", nil), r.attachment(other, "second-to-leave", nil)
	mustAttach(t, d, a)
	mustAttach(t, other, b)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- d.Detach(bounded(t), only(a))[0] }()
	<-hit
	mustDetach(t, other, b)
	r.wire.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	sameWorld(t, before, r.world())
}

func TestManyLeaveAtOnce(t *testing.T) {
	r := newRig(t)
	for range 3 {
		crowd(t, r, atOnce)
	}
}

// A bridge made by somebody between the look and the insertion is no failure,
// whatever other bridges there are.
func TestBridgeMadeMeanwhile(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-unrelated")
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- d.Attach(bounded(t), only(a)) }()
	<-hit
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	r.wire.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustDetach(t, d, a)
}

// A name that is taken, as long as it is, is called that.
func TestNameOfBridgeTaken(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-other", "--", "add-port", "br-other", testBridge)
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	wantError(t, d.Attach(bounded(t), only(a)), testBridge, "constraint violation")
	r.vsctl("del-br", "br-other")
	wantErrorNone(t, d.Attach(bounded(t), only(a)))
	mustDetach(t, d, a)
}
