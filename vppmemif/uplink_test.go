package vppmemif

import (
	"encoding/json"
	"strings"
	"testing"

	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// ofVLAN is a network of a VLAN of a domain.
func ofVLAN(vlan int, domain map[string]any) map[string]any {
	return map[string]any{"bridgeDomain": domain, "vlan": vlan}
}

// Pods of one domain see each other when they are in one VLAN, and not otherwise, whichever
// way the domain is named.
func TestVLANsAreApart(t *testing.T) {
	for name, domain := range map[string]map[string]any{"by name": {"name": "blue"}, "by number": {"id": 12}} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			a := startPod(t, r, d, "a", ofVLAN(7, domain), memif.Options{})
			b := startPod(t, r, d, "b", ofVLAN(7, domain), memif.Options{})
			others := []*podWithPeer{
				startPod(t, r, d, "c", ofVLAN(8, domain), memif.Options{}),
				startPod(t, r, d, "d", map[string]any{"bridgeDomain": domain}, memif.Options{}),
			}
			for _, w := range append(others, a, b) {
				w.awaitLink(t)
			}
			passes(t, a, b)
			for _, w := range others {
				if err := w.peer.Send(bounded(t), 10, memif.Traffic{}); err != nil {
					t.Fatal(err)
				}
				passes(t, a, b) // behind them: VPP forwards in order
				if tally := a.peer.TallyFrom(w.peer.MAC()); tally.Frames != 0 {
					t.Errorf("%d frames crossed from another VLAN", tally.Frames)
				}
				if tally := w.peer.Tally(); tally.Frames != 0 {
					t.Errorf("%d frames crossed to another VLAN", tally.Frames)
				}
			}
		})
	}
}

// The uplink has the frames of a VLAN with its tag, and goes with the last pod.
func TestUplink(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	by := r.admin()
	index := by.memif(r.dir + "/wire.sock")
	by.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: index, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}, &interfaces.SwInterfaceSetFlagsReply{})
	wire, err := memif.Dial(bounded(t), r.dir+"/wire.sock", 0, memif.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wire.Close)
	if err := wire.WaitLink(bounded(t)); err != nil {
		t.Fatal(err)
	}
	before := r.world()
	domain := map[string]any{"name": "blue", "uplink": "memif1/0"}
	seven, eight := startPod(t, r, d, "a", ofVLAN(7, domain), memif.Options{}), startPod(t, r, d, "b", ofVLAN(8, domain), memif.Options{})
	for i, w := range []*podWithPeer{seven, eight} {
		tag := []string{"7", "8"}[i]
		w.awaitLink(t)
		if err := w.peer.Send(bounded(t), 10, memif.Traffic{}); err != nil {
			t.Fatal(err)
		}
		if err := wire.WaitReceived(bounded(t), 10*(i+1)); err != nil {
			t.Error(err)
		}
		if tags := wire.TallyFrom(w.peer.MAC()).Tags; tags[tag] != 10 || len(tags) != 1 {
			t.Errorf("tags of frames of VLAN %s: %v", tag, tags)
		}
		if err := d.check(bounded(t), w.subject, w.raw); err != nil {
			t.Error(err)
		}
	}
	more := startPod(t, r, d, "c", ofVLAN(7, domain), memif.Options{}) // the second in its domain
	for _, w := range []*podWithPeer{seven, eight, more} {
		w.peer.Close()
		mustDel(t, d, w.subject, w.raw)
	}
	same(t, before, r.world())
}

// An uplink that is not VPP's, is somebody else's, or is not allowed, is refused before
// anything is changed.
func TestUplinkIsRefused(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.tap()
	by := r.admin()
	sub := &interfaces.CreateVlanSubifReply{}
	by.do(&interfaces.CreateVlanSubif{SwIfIndex: by.named("tap0"), VlanID: 9}, sub)
	by.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: sub.SwIfIndex, Flags: interface_types.IF_STATUS_API_FLAG_ADMIN_UP}, &interfaces.SwInterfaceSetFlagsReply{})
	before := r.world()
	for name, c := range map[string]struct {
		uplink string
		vlan   int
		bounds conf.Bounds
		says   []string
	}{
		"missing":        {"tap1", 7, conf.Bounds{}.ForOwn(), []string{"bridgeDomain.uplink", "no interface tap1"}},
		"somebody's":     {"tap0", 9, conf.Bounds{}.ForOwn(), []string{"bridgeDomain.uplink", "tap0.9", "somebody else"}},
		"out of bounds":  {"tap0", 7, conf.Bounds{Endpoints: []string{r.Socket()}, SocketDirs: []string{r.dir}}, []string{"bridgeDomain.uplink", "tap0", `"uplinks"`}},
		"another's name": {"tap", 7, conf.Bounds{}.ForOwn(), []string{"bridgeDomain.uplink", "no interface tap:"}},
	} {
		a := r.attachment(sandboxA, ofVLAN(c.vlan, map[string]any{"name": "blue", "uplink": c.uplink}))
		a.Bounds = c.bounds
		_, err := attach(t, d, a)
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantError(t, err, c.says...)
		same(t, before, r.world())
	}
	a := r.attachment(sandboxA, ofVLAN(7, map[string]any{"name": "blue", "uplink": "tap0"}))
	a.Bounds = conf.Bounds{Endpoints: []string{r.Socket()}, SocketDirs: []string{r.dir}, Uplinks: []string{"tap?"}}
	mustDel(t, d, a, mustAttach(t, d, a))
	same(t, before, r.world())
}

// A former version put pods of all VLANs into one domain, and its records say so: CHECK holds,
// and a restart of VPP makes them as they were.
func TestVLANOfAFormerVersion(t *testing.T) {
	m, d := newMortal(t), newDelegate(t)
	a := m.attachment(sandboxA, ofVLAN(7, map[string]any{"id": 12}))
	raw, err := d.prepare(bounded(t), a)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(raw, &record); err != nil {
		t.Fatal(err)
	}
	record["domain"], record["domainTag"] = 12, strings.Replace(record["domainTag"].(string), "bd/v7/", "bd/", 1)
	if raw, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	before := m.state()
	if _, err := add(bounded(t), d, a, raw); err != nil {
		t.Fatal(err)
	}
	made := m.state()
	if !strings.Contains(made, "bridge-domain 12") || !strings.Contains(made, "push-1(dot1q [7])") && !strings.Contains(made, "vlan-rewrite=1/7") { // of the stand-in, of a VPP
		t.Error(made)
	}
	m.process.Kill()
	m.start()
	if _, err := d.restore(bounded(t), a, raw); err != nil {
		t.Fatal(err)
	}
	same(t, shape(made), shape(m.state()))
	if err := d.check(bounded(t), a, raw); err != nil {
		t.Error(err)
	}
	mustDel(t, d, a, raw)
	same(t, before, m.state())
}
