package ovsdpdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/conf"
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
	var attachments [n]conf.Attachment
	var delegates [n]*Delegate
	var states [n]json.RawMessage
	for i := range n {
		attachments[i] = r.attachment(fmt.Sprintf("%02d0123456789", i), nil)
		delegates[i] = newDelegate(t)
	}
	err := together(n, func(i int) (err error) {
		states[i], err = attach(t, delegates[i], attachments[i])
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if bridges := r.vsctl("list-br"); strings.Count(bridges, testBridge) != 1 {
		t.Errorf("bridges %q, want %s once", bridges, testBridge)
	}
	if ports := strings.Fields(r.vsctl("list-ports", testBridge)); len(ports) != n {
		t.Errorf("%d ports in the bridge, want %d", len(ports), n)
	}
	for i := range n {
		if err := delegates[i].Check(bounded(t), attachments[i], states[i]); err != nil {
			t.Error(err)
		}
	}
	if err := leave(func(i int) error { return delegates[i].Del(bounded(t), attachments[i], states[i]) }); err != nil {
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

// Of two attachments that want one socket, one gets it, and the other one is
// told who has it.
func TestOneSocketForTwo(t *testing.T) {
	r := newRig(t)
	volume := r.dir + "/volume"
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	keys := map[string]any{"vhost": map[string]any{"socketFile": "sock"}}
	all := []conf.Attachment{shared(r.attachment("first-of-two", keys), volume), shared(r.attachment("second-of-two", keys), volume)}
	delegates := []*Delegate{newDelegate(t), newDelegate(t)}
	states := make([]json.RawMessage, 2)
	for i, a := range all {
		states[i] = mustPrepare(t, delegates[i], a)
	}
	errs := make([]error, 2)
	_ = together(2, func(i int) error {
		errs[i] = addAndSettle(t, delegates[i], all[i], states[i])
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
	mustDel(t, delegates[loser], all[loser], states[loser])
	if err := delegates[winner].Check(bounded(t), all[winner], states[winner]); err != nil {
		t.Errorf("the loser's DEL has hurt the winner: %v", err)
	}
	_, err := delegates[loser].Prepare(bounded(t), all[loser])
	wantError(t, err, words...)
	mustDel(t, delegates[winner], all[winner], states[winner])
	sameWorld(t, before, r.world())
}

// A pod that asks for one socket twice is told so.
func TestOneSocketTwiceInAPod(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "socketFile": "sock"}})
	b := a
	b.IfName = "net2"
	all := []conf.Prepared{{Attachment: a, State: mustPrepare(t, d, a)}, {Attachment: b, State: mustPrepare(t, d, b)}}
	for _, p := range all {
		if _, err := d.Add(bounded(t), p.Attachment, p.State); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, d.Settle(bounded(t), all), "/sock", "asked for twice")
	for _, p := range all {
		mustDel(t, d, p.Attachment, p.State)
	}
	sameWorld(t, before, r.world())
}

// The ports of a pod go in by one transaction, into several bridges and by both
// modes, and out one by one: the folder with the last.
func TestPodOfFour(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	var all []conf.Prepared
	for i, keys := range []map[string]any{
		{"bridge": "br-a"}, {"bridge": "br-b"}, {"bridge": "br-a", "vlan": 7},
		{"bridge": "br-b", "vhost": map[string]any{"socketDir": r.dir, "mode": "server"}},
	} {
		a := r.attachment(sandbox, keys)
		a.IfName = fmt.Sprint("net", i+1)
		p := conf.Prepared{Attachment: a, State: mustPrepare(t, d, a)}
		if _, err := d.Add(bounded(t), p.Attachment, p.State); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	r.wire.arm(0, "")
	if err := d.Settle(bounded(t), all); err != nil {
		t.Fatal(err)
	}
	inserts := 0
	for _, transact := range r.wire.seen() {
		if strings.Contains(transact, "insert Interface") {
			inserts++
		}
	}
	if inserts != 1 {
		t.Errorf("%d transactions insert, want one: %q", inserts, r.wire.seen())
	}
	for i, p := range all {
		for _, q := range all[i:] {
			if err := d.Check(bounded(t), q.Attachment, q.State); err != nil {
				t.Errorf("after the DEL of %d others: %v", i, err)
			}
		}
		mustDel(t, d, p.Attachment, p.State)
	}
	sameWorld(t, before, r.world())
}

// Two ports that leave at once, each seeing the other: the bridge goes too.
func TestTwoLeaveAtOnce(t *testing.T) {
	r := newRig(t)
	before := r.world()
	a, b := r.attachment("first-to-leave", nil), r.attachment("second-to-leave", nil)
	d, other := newDelegate(t), newDelegate(t)
	rawA, rawB := mustAttach(t, d, a), mustAttach(t, other, b)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- d.Del(bounded(t), a, rawA) }()
	<-hit
	mustDel(t, other, b, rawB)
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
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- addAndSettle(t, d, a, raw) }()
	<-hit
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	r.wire.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustDel(t, d, a, raw)
}

// A name that is taken, as long as it is, is called that.
func TestNameOfBridgeTaken(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-other", "--", "add-port", "br-other", testBridge)
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	wantError(t, addAndSettle(t, d, a, raw), testBridge, "constraint violation")
	r.vsctl("del-br", "br-other")
	wantErrorNone(t, addAndSettle(t, d, a, raw))
	mustDel(t, d, a, raw)
}
