package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// podOf is a pod with n ports, in two bridges of plexus and in both modes, with sockets
// in its volume or, with "", in a folder of its own.
func (r *rig) podOf(n int, d *Delegate, volume string) []*delegates.Attachment {
	r.t.Helper()
	if volume != "" {
		if err := os.Mkdir(volume, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	var all []*delegates.Attachment
	for i := range n {
		a := r.attachment(d, sandbox, map[string]any{
			"bridge": []string{"br-a", "br-b"}[i/2%2], "vhost": map[string]any{"socketDir": r.dir, "mode": []string{modeClient, modeServer}[i%2]},
		})
		if volume != "" {
			shared(a, volume)
		}
		all = append(all, sibling(a, fmt.Sprint("net", i+1)))
	}
	return all
}

// DEL of eight ports is one transaction that removes ports and bridges, one wait for
// ovs-vswitchd, and two reads before, of ports and of bridges.
func TestDetachIsOneTransaction(t *testing.T) {
	for volume, requests := range map[string]int{"": 4, "/volume": 4} {
		r := newRig(t)
		if volume != "" {
			volume = r.dir + volume
		}
		d := newDelegate(t)
		all := r.podOf(8, d, volume)
		before := r.world()
		mustAttach(t, d, all...)
		r.vsctl("set", "Open_vSwitch", ".", "next_cfg=5", "cur_cfg=5")
		r.wire.arm(0, "")
		var steps []string
		ctx := delegates.WithSteps(bounded(t), func(step string) error {
			steps = append(steps, step)
			return nil
		})
		done := make(chan []error)
		go func() { done <- d.Detach(ctx, all) }()
		r.vsctl("wait-until", "Open_vSwitch", ".", "next_cfg=6", "--", "set", "Open_vSwitch", ".", "cur_cfg=6")
		wantErrorNone(t, errors.Join(<-done...))
		seen := r.wire.seen()
		if r.wire.count("mutate") != 1 || r.wire.count("wait Open_vSwitch") != 1 || len(seen) != requests {
			t.Errorf("volume %q: want %d requests, one that changes and one that waits: %q", volume, requests, seen)
		}
		first := "net1, net2, net3, net4, net5, net6, net7, net8: delete ports " + portName(all[0])
		if len(steps) != 9 || !strings.HasPrefix(steps[0], first) || !strings.HasPrefix(steps[8], "net1: remove files from ") {
			t.Errorf("steps %q", steps)
		}
		sameWorld(t, before, r.world())
		mustDetach(t, d, all...)
	}
}

// Attachments that cannot be undone get an error each, and keep no other one from being
// undone.
func TestDetachJudgesEachAlone(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	empty := r.world()
	away := "unix:" + tempDir(t) + "/db.sock"
	all := r.podOf(8, d, "")
	attached, blocked, corrupt, elsewhere, elsewhereToo, unrecordedOne, unknown, unrecordedElsewhere := all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7]
	long := r.dir + "/" + strings.Repeat("x", maxSocketPath)
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	shared(blocked, long)
	for _, a := range []*delegates.Attachment{elsewhere, elsewhereToo, unrecordedElsewhere} {
		mustPrepare(t, a)
		s := decoded(t, a.State)
		s.OVSDB = away
		a.State = toJSON(t, s)
		a.Network = mustParse(t, d, r.config(map[string]any{"ovsdb": away}))
	}
	present := []*delegates.Attachment{attached, blocked, unrecordedOne}
	mustAttach(t, d, present...)
	link := decoded(t, blocked.State).Link
	removeShort(t, link)
	write(t, link+"/file", "is in the way of removing the short path")
	corrupt.State = json.RawMessage(`{"port": "x"}`)
	unrecordedOne.State, unrecordedElsewhere.State = nil, nil
	for _, a := range []*delegates.Attachment{attached, blocked, elsewhere} {
		a.Network = nil // the configuration is refused by now
	}
	unknown.Network = nil

	errs := d.Detach(bounded(t), all)
	for i, a := range all {
		switch a {
		case attached, unrecordedOne, unknown:
			wantErrorNone(t, errs[i])
		case blocked:
			wantError(t, errs[i], "short path", link)
		case corrupt:
			wantError(t, errs[i], "recorded state")
		default:
			wantAway(t, errs[i], "OVSDB", away)
		}
	}
	remove(t, link)
	mustDetach(t, d, blocked)
	remove(t, long)
	sameWorld(t, empty, r.world())
}

// A bridge that changes between the read and the removal is read again: the port that
// somebody else has put into it stays, and so does the bridge.
func TestDetachWhileBridgeChanges(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	before := r.world()
	all := r.podOf(4, d, "")
	mustAttach(t, d, all...)
	hit := r.wire.arm(2, hold)
	done := make(chan []error)
	go func() { done <- d.Detach(bounded(t), all) }()
	<-hit
	r.vsctl("add-port", "br-b", "uplink")
	r.wire.letGo()
	wantErrorNone(t, errors.Join(<-done...))
	if bridges, ports := r.vsctl("list-br"), r.vsctl("list-ports", "br-b"); bridges != "br-b" || ports != "uplink" {
		t.Errorf("bridges %q, ports %q: want br-b with uplink", bridges, ports)
	}
	r.vsctl("del-br", "br-b")
	sameWorld(t, before, r.world())
}

// A row with an attachment's marks and another name stays, and is an error of that
// attachment alone.
func TestDetachMisnamedRow(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev", "--", "add-port", testBridge, "odd", "--", "set", "Interface", "odd",
		"external_ids:plexus-format=1", "external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox="+sandbox, "external_ids:plexus-ifname=net1")
	before := r.world()
	d := newDelegate(t)
	all := r.podOf(2, d, "")
	mustAttach(t, d, all...)
	errs := d.Detach(bounded(t), []*delegates.Attachment{unrecorded(all[0]), all[1]})
	wantError(t, errs[0], "interface odd", "marks of ownership", "those of port "+portName(all[0]), "ovs-vsctl del-port")
	wantErrorNone(t, errs[1])
	sameWorld(t, before, r.world())
}

// When any message of a pod's Attach or Detach fails, every attachment gets an error, and
// the next DEL leaves nothing.
func TestEveryTransactOfAPodFails(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	all := r.podOf(4, d, "")
	before := r.world()
	for _, call := range []string{"Attach", "Detach"} {
		for i := 1; ; i++ {
			missed := false
			for _, f := range []fault{answerError, answerRefusal, answerShort, cutBefore, cutAfter} {
				t.Run(fmt.Sprintf("%s/%d/%s", call, i, f), func(t *testing.T) {
					mustPrepare(t, all...)
					if call == "Detach" {
						wantErrorNone(t, d.Attach(bounded(t), all))
					}
					hit := r.wire.arm(i, f)
					errs := []error{}
					if call == "Attach" {
						errs = append(errs, d.Attach(bounded(t), all))
					} else {
						errs = d.Detach(bounded(t), all)
					}
					select {
					case <-hit:
						for _, err := range errs {
							wantError(t, err, "OVSDB")
						}
					default:
						missed = true
						wantErrorNone(t, errors.Join(errs...))
					}
					r.wire.arm(0, "")
					mustDetach(t, d, all...)
					sameWorld(t, before, r.world())
				})
			}
			if missed {
				break
			}
		}
	}
}

// When an ADD or a DEL stops at any step, the next DEL undoes the rest, with a record and
// without.
func TestEveryStepOfAPodIsRefused(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	all := r.podOf(3, d, "")
	before := r.world()
	stop := errors.New("stop")
	for _, call := range []string{"Attach", "Detach"} {
		for n := 0; ; n++ {
			mustPrepare(t, all...)
			if call == "Detach" {
				wantErrorNone(t, d.Attach(bounded(t), all))
			}
			steps := 0
			ctx := delegates.WithSteps(bounded(t), func(string) error {
				if steps++; steps > n {
					return stop
				}
				return nil
			})
			var err error
			if call == "Attach" {
				err = d.Attach(ctx, all)
			} else {
				err = errors.Join(d.Detach(ctx, all)...)
			}
			if steps > n && !errors.Is(err, stop) {
				t.Errorf("%s goes on at step %d: %v", call, n+1, err)
			}
			if n%2 == 0 {
				for i := range all {
					all[i] = unrecorded(all[i])
				}
			}
			mustDetach(t, d, all...)
			sameWorld(t, before, r.world())
			if steps <= n {
				wantErrorNone(t, err)
				break
			}
		}
	}
}

// A DEL that is cancelled says so for each attachment.
func TestDetachCancelled(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	all := r.podOf(2, d, "")
	mustAttach(t, d, all...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hit := r.wire.arm(1, neverAnswer)
	go func() {
		<-hit
		cancel()
	}()
	errs := d.Detach(ctx, all)
	if slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, context.Canceled) }) {
		t.Errorf("%v", errs)
	}
	r.wire.arm(0, "")
	mustDetach(t, d, all...)
}
