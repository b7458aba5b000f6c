package vpp

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/process"
	"github.com/plexus-cni/plexus/rig/site"
)

// newOperated is a VPP with an operator's configuration, which runs two seconds after each start,
// and a site whose agent restores what VPP loses. NICs of the operator may carry VLANs.
func newOperated(t *testing.T, more ...string) (v *site.MortalVPP, s *site.Site, wire *memif.Peer) {
	t.Helper()
	dir, err := os.MkdirTemp(node.Dir(), "wire")
	must.Do(t, err)
	v = site.NewMortalVPP(t, append(site.WireCommands(dir), more...)...)
	wire = site.Wire(t, dir)
	await(t, "the startup configuration has run", func() bool {
		return wire.Connected() && (len(more) == 0 || joined.MatchString(v.State()))
	})
	return v, newServed(t, v), wire
}

// newServed is a site with an agent.
func newServed(t *testing.T, v *site.MortalVPP) *site.Site {
	t.Helper()
	s := site.NewMemif(t, v.API())
	socket := filepath.Join(s.Dir, "agent.sock")
	s = s.With(map[string]any{"uplinks": []string{"memif*/0"}, "agent": map[string]any{"socket": socket}})
	s.Serve(socket)
	return s
}

// joined is a bridge domain with a member, in a state.
var joined = regexp.MustCompile(`(?m)^bridge-domain .* members=\[[^]]`)

// await waits for what must come; its limit is no measure.
func await(t testing.TB, what string, come func() bool) {
	t.Helper()
	must.Do(t, process.Poll(must.Deadline(t), what, func() (bool, error) { return come(), nil }))
}

// restored wants the agent to restore pods after a restart of VPP.
func restored(t *testing.T, v *site.MortalVPP, s *site.Site, pods ...*memifPod) {
	t.Helper()
	v.Restart()
	for _, p := range pods {
		var err error
		errWait := process.Poll(must.Deadline(t), "CHECK of "+p.name+" succeeds", func() (bool, error) {
			err = s.Check(p.sandbox, p.Pod, p.name)
			return err == nil, nil
		})
		if errWait != nil {
			t.Fatalf("%v: %v", errWait, err)
		}
		for _, peer := range p.peers {
			must.Do(t, peer.WaitLink(must.Deadline(t)))
		}
	}
}

// The operator's startup configuration makes a bridge domain with a NIC in it, and a table, two
// seconds after VPP's start. plexus, which is there before, waits for them: what the operator made
// is there with the pods, and stays when they go.
func TestMemifStartupConfiguration(t *testing.T) {
	v, s, wire := newOperated(t, "ip table add 5", "ip6 table add 5", "create bridge-domain 12", "set interface l2 bridge "+site.WireName+" 12")
	s.NAD("numbered", site.MemifNAD(v.API(), s, map[string]any{"bridgeDomain": map[string]any{"id": 12}}))
	s.NAD("table", site.MemifNAD(v.API(), s, map[string]any{"vrf": 5, "addresses": []any{"10.5.0.1/24"}}))
	unchanged := watch(s, v.State)
	p := attachMemif(t, s, "one", "numbered, table")
	passes(t, wire, p.peers[0])
	made := interfacesOf(v.State())
	restored(t, v, s, p)
	must.Do(t, wire.WaitLink(must.Deadline(t)))
	passes(t, wire, p.peers[0])
	if now := interfacesOf(v.State()); !slices.Equal(made, now) {
		t.Errorf("after the restart: %q\nbefore: %q", now, made)
	}
	p.detach(t, s)
	unchanged()
}

// interfacesOf are the lines of a state that do not depend on the order in which VPP got them.
func interfacesOf(state string) (lines []string) {
	for line := range strings.Lines(state) {
		if strings.HasPrefix(line, "interface ") || strings.HasPrefix(line, "bridge-domain ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// Each VLAN of a domain is by itself, on the node and on the NIC, before and after a restart of
// VPP: the NIC has the frames of a pod with the pod's tag, the pod has those of its tag, untagged.
func TestMemifVLANs(t *testing.T) {
	v, s, wire := newOperated(t)
	for _, vlan := range []int{7, 8} {
		s.NAD(fmt.Sprint("vlan", vlan), site.MemifNAD(v.API(), s, map[string]any{"vlan": vlan, "bridgeDomain": map[string]any{"name": "blue", "uplink": site.WireName}}))
	}
	unchanged := watch(s, v.State)
	a, b := attachMemif(t, s, "a", "vlan7"), attachMemif(t, s, "b", "vlan7")
	c, d := attachMemif(t, s, "c", "vlan8"), attachMemif(t, s, "d", "blue")
	pods := []*memifPod{a, b, c, d}
	apart := func() {
		t.Helper()
		ctx := must.Deadline(t)
		passes(t, a.peers[0], b.peers[0])
		for _, p := range []*memifPod{c, d, a} {
			before := received(pods)
			onWire := wire.TallyFrom(p.peers[0].MAC())
			must.Do(t, p.peers[0].Send(ctx, 10, memif.Traffic{}))
			tag := map[*memifPod]string{a: "7", c: "8"}[p]
			if tag != "" {
				await(t, "the NIC has the frames of "+p.name, func() bool { return wire.TallyFrom(p.peers[0].MAC()).Frames == onWire.Frames+10 })
			}
			passes(t, a.peers[0], b.peers[0]) // behind them: VPP forwards in order
			now := wire.TallyFrom(p.peers[0].MAC())
			maps.DeleteFunc(now.Tags, func(tags string, n int) bool { return n == onWire.Tags[tags] })
			if len(now.Tags) > 1 || tag != "" && now.Tags[tag] != onWire.Tags[tag]+10 || tag == "" && now.Frames > onWire.Frames {
				t.Errorf("the NIC has %v of %s", now.Tags, p.name)
			}
			for i, q := range pods[2:] {
				if got, want := q.peers[0].Received(), before[2+i]; got != want {
					t.Errorf("%d frames came to %s while %s sent", got-want, q.name, p.name)
				}
			}
			if p != a {
				for _, q := range []*memifPod{a, b} {
					if n := q.peers[0].TallyFrom(p.peers[0].MAC()).Frames; n != 0 {
						t.Errorf("%d frames of %s came to %s", n, p.name, q.name)
					}
				}
			}
		}
		// From the NIC: the frames of a VLAN come to its pods, without the tag; others to none.
		before := received(pods)
		must.Do(t, wire.Send(ctx, 10, memif.Traffic{Tags: []uint16{9}}))
		must.Do(t, wire.Send(ctx, 10, memif.Traffic{}))
		must.Do(t, wire.Send(ctx, 10, memif.Traffic{Tags: []uint16{7}}))
		must.Do(t, wire.Send(ctx, 10, memif.Traffic{Tags: []uint16{8}}))
		for i, n := range []int{10, 10, 10, 0} {
			must.Do(t, pods[i].peers[0].WaitReceived(ctx, before[i]+n))
		}
		passes(t, a.peers[0], b.peers[0])
		for _, p := range pods {
			tally := p.peers[0].TallyFrom(wire.MAC())
			delete(tally.Tags, "")
			if len(tally.Tags) > 0 || tally.Frames%10 != 0 || p == d && tally.Frames > 0 {
				t.Errorf("%s has %s of the NIC", p.name, tally)
			}
		}
	}
	apart()
	restored(t, v, s, pods...)
	must.Do(t, wire.WaitLink(must.Deadline(t)))
	apart()
	for _, p := range pods {
		p.detach(t, s)
	}
	unchanged()
}

func received(pods []*memifPod) (all []int) {
	for _, p := range pods {
		all = append(all, p.peers[0].Received())
	}
	return all
}
