package ovsdpdk

import (
	"encoding/json"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/delegates"
)

// verbLimit is what a verb may take while OVSDB or ovs-vswitchd hangs.
const verbLimit = 10 * time.Second

// wantAway wants an error about one endpoint alone.
func wantAway(t testing.TB, err error, kind, address string) {
	t.Helper()
	away := delegates.AllUnavailable(err)
	if len(away) == 0 {
		t.Errorf("error %v, want %s to be unavailable", err, kind)
	}
	for _, e := range away {
		if e.Endpoint != address || e.Kind != kind {
			t.Errorf("error %v, want one about %s at %s", e, kind, address)
		}
	}
}

// A server that introduces itself as an OVSDB and answers nothing else costs the requests
// of one verb a bounded time; when it answers they are made again.
func TestConnectsOnly(t *testing.T) {
	t.Parallel()
	var answers atomic.Bool
	address := newStandIn(t, func(_ int, conn net.Conn, in *json.Decoder) {
		for q := next(in); q.Method != ""; q = next(in) {
			if answers.Load() {
				says(conn, bridges, q.ID)
			}
		}
	})
	d := newDelegate(t)
	defer d.Close()
	begun := time.Now()
	for range 20 {
		wantAway(t, ask(bounded(t), d, address), "OVSDB", address)
	}
	if took := time.Since(begun); took > verbLimit {
		t.Errorf("it took %s", took)
	}
	answers.Store(true)
	begun = time.Now()
	for ask(bounded(t), d, address) != nil {
		if time.Since(begun) > verbLimit {
			t.Fatal("it answers, and is not asked")
		}
		time.Sleep(time.Millisecond)
	}
}

// stopVswitchd has the stand-in for ovs-vswitchd do nothing more. The function it returns
// lets it act on everything.
func (r *rig) stopVswitchd() (resume func()) {
	r.vsctl("set", "Open_vSwitch", ".", "next_cfg=7", "cur_cfg=7")
	opens := r.wire.setOpens(nil)
	return func() {
		r.wire.setOpens(opens)
		r.vsctl("set", "Open_vSwitch", ".", "cur_cfg=1000000000")
	}
}

// ovs-vswitchd does not act on OVSDB: the ADDs that find out end in time, later ones at
// once, and DEL does not wait for it. When it goes on, everything works.
func TestStoppedVswitchd(t *testing.T) {
	t.Parallel()
	r, d := newRig(t), newDelegate(t)
	defer d.Close()
	before := r.world()
	old := r.attachment(d, "feed456789abcdef", map[string]any{"bridge": "br-old"})
	mustAttach(t, d, old)
	resume := r.stopVswitchd()
	begun := time.Now()
	_ = together(10, func(i int) error {
		a := r.attachment(d, string(rune('a'+i))+sandbox[1:], nil)
		a.IfName = "net1"
		wantAway(t, attach(t, d, a), "ovs-vswitchd behind OVSDB", r.address)
		mustDetach(t, d, a)
		return nil
	})
	if took := time.Since(begun); took > verbLimit {
		t.Errorf("ADD and its undoing took %s", took)
	}
	begun = time.Now()
	for range 10 {
		wantAway(t, prepare(t, r.attachment(d, sandbox, nil)), "ovs-vswitchd behind OVSDB", r.address)
		wantAway(t, old.Network.Ready(bounded(t)), "ovs-vswitchd behind OVSDB", r.address)
		wantAway(t, d.open(bounded(t), r.address, nil), "ovs-vswitchd behind OVSDB", r.address)
	}
	mustDetach(t, d, old)
	if took := time.Since(begun); took > openTimeout {
		t.Errorf("what needs no waiting took %s", took)
	}
	sameWorld(t, before, r.world())
	resume()
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A vswitchd that comes further is waited for, however busy it is.
func TestBusyVswitchd(t *testing.T) {
	r, d := newRig(t), newDelegate(t)
	for cur := range 3 {
		r.vsctl("set", "Open_vSwitch", ".", "next_cfg=9")
		r.vsctl("set", "Open_vSwitch", ".", "cur_cfg="+string(rune('1'+cur)))
		found, err := d.db.transact(bounded(t), r.address, configured())
		wantErrorNone(t, err)
		if still := d.db.standstill(r.address, found[0].Rows); still > time.Millisecond {
			t.Errorf("%s at %d", still, cur)
		}
	}
	r.vsctl("set", "Open_vSwitch", ".", "cur_cfg=9")
	found, err := d.db.transact(bounded(t), r.address, configured())
	wantErrorNone(t, err)
	d.db.standstill(r.address, found[0].Rows)
	if len(d.db.lags) != 0 {
		t.Errorf("remembered: %v", d.db.lags)
	}
}

// setOpens says what the stand-in for ovs-vswitchd does from now on, and returns what it
// did before.
func (p *proxy) setOpens(opens map[string]any) (before map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, p.opens = p.opens, opens
	return before
}
