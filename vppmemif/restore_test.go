package vppmemif

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/standin"
	realvpp "github.com/plexus-cni/plexus/rig/vpp"
)

// mortal is the machine's VPP, or a stand-in, in a process of its own, which is
// killed and started again.
type mortal struct {
	*rig
	program string
	process interface {
		State() (string, error)
		Kill()
	}
}

func newMortal(t *testing.T) *mortal {
	t.Helper()
	base := tempDir(t)
	m := &mortal{rig: &rig{t: t, dir: filepath.Join(base, "s"), vpp: filepath.Join(base, "vpp")}, program: realvpp.Find()}
	if m.program == "" {
		m.program = filepath.Join(node.Dir(), "standin")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.program, "../rig/standin/serve").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m.start()
	return m
}

func (m *mortal) start() {
	m.t.Helper()
	if m.program == realvpp.Find() {
		p, err := realvpp.Start(bounded(m.t), m.program, m.vpp, filepath.Join(m.vpp, standin.SocketName))
		if err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(p.Kill)
		m.process = p
		return
	}
	p, err := standin.StartProcess(bounded(m.t), m.program, m.vpp)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(p.Kill)
	m.process = p
}

func (m *mortal) state() string {
	m.t.Helper()
	text, err := m.process.State()
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// podWithPeer is an attachment with its peer.
type podWithPeer struct {
	subject
	raw  json.RawMessage
	peer *memif.Peer
}

// startPod attaches a pod and starts its peer, which connects when it can.
func startPod(t *testing.T, r *rig, d *Delegate, letter string, keys map[string]any, o memif.Options) *podWithPeer {
	t.Helper()
	w := &podWithPeer{subject: r.attachment(strings.Repeat(letter, 32), keys)}
	w.Netns = newPod(t)
	w.raw = mustAttach(t, d, w.subject)
	peer, err := memif.Dial(bounded(t), stateOf(t, w.raw).Socket, 0, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)
	w.peer = peer
	return w
}

func (w *podWithPeer) awaitLink(t *testing.T) {
	t.Helper()
	if err := w.peer.WaitLink(bounded(t)); err != nil {
		t.Fatal(err)
	}
}

// passes wants frames each way between two peers.
func passes(t *testing.T, a, b *podWithPeer) {
	t.Helper()
	for _, way := range [][2]*memif.Peer{{a.peer, b.peer}, {b.peer, a.peer}} {
		if got, err := memif.Transfer(bounded(t), way[0], way[1], 1000, memif.Traffic{}); err != nil || got != 1000 {
			t.Errorf("%d of 1000 frames arrived: %v", got, err)
		}
	}
}

func answers(t *testing.T, w *podWithPeer, own, vswitch string) {
	t.Helper()
	if _, err := w.peer.Ping(bounded(t), netip.MustParseAddr(own), netip.MustParseAddr(vswitch)); err != nil {
		t.Errorf("the vswitch's address %s: %v", vswitch, err)
	}
}

// VPP is killed under pods of each kind and started again: what it had is there
// again, and frames flow, without anybody touching the pods' applications.
func TestRestoreAfterKill(t *testing.T) {
	m, d := newMortal(t), newDelegate(t)
	defer d.Close()
	all := []*podWithPeer{
		startPod(t, m.rig, d, "a", map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "mtu": 1400, "mac": "02:00:00:00:00:0a"}, memif.Options{}),
		startPod(t, m.rig, d, "b", map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "role": "client"}, memif.Options{Server: true}),
		startPod(t, m.rig, d, "c", map[string]any{"bridgeDomain": map[string]any{"id": 12}, "vlan": 7, "socket": map[string]any{"abstract": true}}, memif.Options{}),
		startPod(t, m.rig, d, "d", map[string]any{"bridgeDomain": map[string]any{"id": 12}, "vlan": 7, "secret": "s"}, memif.Options{Secret: "s"}),
		startPod(t, m.rig, d, "e", map[string]any{"addresses": []string{"10.0.0.1/24", "fd00::1/64"},
			"routes": []map[string]any{{"dst": "10.1.0.0/16", "gw": "10.0.0.2"}, {"dst": "fd01::/64", "gw": "fd00::2"}, {"dst": "10.2.0.0/16"}}}, memif.Options{}),
	}
	work := func() {
		t.Helper()
		for _, w := range all {
			w.awaitLink(t)
			if err := d.check(bounded(t), w.subject, w.raw); err != nil {
				t.Errorf("CHECK: %v", err)
			}
		}
		passes(t, all[0], all[1])
		passes(t, all[2], all[3])
		answers(t, all[4], "10.0.0.2", "10.0.0.1")
	}
	mac := func() string { // to which the routed pod sends
		t.Helper()
		said, err := d.inspect(bounded(t), all[4].subject, all[4].raw)
		if err != nil || said["mac"] == "" {
			t.Errorf("%v: %v", said, err)
		}
		return said["mac"]
	}
	work()
	before, macBefore := m.state(), mac()
	m.process.Kill()
	for _, w := range all {
		if err := w.peer.WaitNoLink(bounded(t)); err != nil {
			t.Fatal(err)
		}
	}
	m.start()
	for _, w := range all {
		wantError(t, d.check(bounded(t), w.subject, w.raw), "gone", "restarted")
	}
	made := restoreAll(t, d, all)
	if after := mac(); after != macBefore {
		t.Errorf("the vswitch's MAC address is %s, was %s", after, macBefore)
	}
	work()
	same(t, shape(before), shape(m.state()))
	for i, w := range all {
		if want := stateOf(t, w.raw).name(); len(made[i]) == 0 || !slices.Contains(made[i], want) {
			t.Errorf("it says that it made %q, want %q", made[i], want)
		}
	}
	for i, more := range restoreAll(t, d, all) {
		if len(more) > 0 {
			t.Errorf("%s: made once more: %q", all[i].Sandbox[:1], more)
		}
	}
	same(t, shape(before), shape(m.state()))
	work()
}

// restoreAll restores all at once.
func restoreAll(t *testing.T, d *Delegate, all []*podWithPeer) [][]string {
	t.Helper()
	made, errs := make([][]string, len(all)), make([]error, len(all))
	var work sync.WaitGroup
	for i, w := range all {
		work.Go(func() { made[i], errs[i] = d.restore(bounded(t), w.subject, w.raw) })
	}
	work.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("Restore: %v", err)
	}
	return made
}

// Eight pods of one bridge domain at once, each by a process of its own as far as
// connections go: the domain is made once.
func TestRestoreAtOnce(t *testing.T) {
	const n = 8
	r := newRig(t, standin.Options{})
	var all []subject
	var states []json.RawMessage
	var by []*Delegate
	for i := range n {
		a := r.attachment(strings.Repeat(string(rune('a'+i)), 32), named("blue"))
		by = append(by, newDelegate(t))
		all, states = append(all, a), append(states, mustAttach(t, by[i], a))
	}
	before := r.State()
	r.restart()
	// The first one to list domains waits until all have seen what VPP has lost.
	var first sync.Once
	var come atomic.Int32
	there := make(chan bool)
	r.onMessage(func(m standin.Message) {
		switch m.Name {
		case "memif_dump":
			if come.Add(1) == n {
				close(there)
			}
		case "bridge_domain_dump":
			first.Do(func() { <-there })
		}
	})
	var work sync.WaitGroup
	made := make([][]string, n)
	for i := range n {
		work.Go(func() {
			var err error
			if made[i], err = by[i].restore(bounded(t), all[i], states[i]); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	same(t, shape(before), shape(r.State()))
	domains := 0
	for _, words := range made {
		if slices.Contains(words, fmt.Sprintf("bridge domain %d", domainID("blue"))) {
			domains++
		}
	}
	if sent := r.Count("bridge_domain_add_del_v2"); domains != 1 || sent != 1 {
		t.Errorf("%d have made the bridge domain, by %d requests: %q", domains, sent, made)
	}
}

// With nothing missing nothing is written.
func TestRestoreIntact(t *testing.T) {
	for _, w := range ways {
		c := begin(t, w.keys)
		for _, call := range []string{"Prepare", "Add"} {
			if err := c.do(bounded(t), call); err != nil {
				t.Fatal(err)
			}
		}
		before, from := c.world(), len(c.Messages())
		if made, err := c.d.restore(bounded(t), c.a, c.state); err != nil || len(made) > 0 {
			t.Errorf("%s: made %q: %v", w.name, made, err)
		}
		same(t, before, c.world())
		for _, m := range c.Messages()[from:] {
			if !strings.HasSuffix(m.Name, "_dump") && m.Name != "control_ping" && m.Name != "sw_interface_get_table" && m.Name != "ip_route_lookup_v2" {
				t.Errorf("%s: it sends %s", w.name, m.Name)
			}
		}
	}
}

// Whatever request of a restoration fails, it says so, and the next one makes the
// rest.
func TestRestoreEveryMessage(t *testing.T) {
	t.Parallel()
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			plain, _ := lost(t, w.keys)
			from := len(plain.Messages())
			if _, err := plain.d.restore(bounded(t), plain.a, plain.state); err != nil {
				t.Fatal(err)
			}
			count := map[string]int{}
			for _, m := range plain.Messages()[from:] {
				if count[m.Name]++; strings.HasPrefix(m.Name, "sockclnt") {
					continue
				}
				for _, e := range endings {
					if e.Retval != 0 && strings.HasSuffix(m.Name, "_dump") {
						continue // a dump has no error code
					}
					e.Message, e.Occurrence = m.Name, count[m.Name]
					t.Run(fmt.Sprintf("%s %d %s", m.Name, e.Occurrence, e.name), func(t *testing.T) {
						t.Parallel()
						c, before := lost(t, w.keys)
						c.faults(e.Fault)
						made, err := c.d.restore(bounded(t), c.a, c.state)
						if err != nil {
							wantNamed(t, err, e)
						} else if !e.mayReconnect() {
							t.Errorf("no error, made %q", made)
						}
						c.faults()
						if _, err := c.d.restore(bounded(t), c.a, c.state); err != nil {
							t.Errorf("again: %v", err)
						}
						if err := c.d.check(bounded(t), c.a, c.state); err != nil {
							t.Error(err)
						}
						same(t, shape(before), shape(c.State()))
						mustDel(t, c.d, c.a, c.state)
						if strings.Contains(c.State(), c.dir) || strings.Contains(c.State(), ownerTag(testOwner)) {
							t.Errorf("left:\n%s", c.State())
						}
					})
				}
			}
		})
	}
}

// shape is a state without the numbers of sockets, which depend on the order in
// which they were added, and without the tables, which somebody else has made.
func shape(state string) string {
	state = regexp.MustCompile(`(?m)^(socket \S+) id=\d+`).ReplaceAllString(state, "$1")
	return regexp.MustCompile(`(?m)^table .*\n`).ReplaceAllString(state, "")
}

// lost is an attachment that VPP has lost by a restart, and what it was.
func lost(t *testing.T, keys func(*rig) map[string]any) (c *trial, before string) {
	t.Helper()
	c = begin(t, keys)
	for _, call := range []string{"Prepare", "Add"} {
		if err := c.do(bounded(t), call); err != nil {
			t.Fatal(err)
		}
	}
	before = c.State()
	c.restart()
	return c, before
}

// VPP cannot listen at first: what is left of that does no harm, however often it
// is tried.
func TestRestoreListenFailure(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, named("blue"))
	raw := mustAttach(t, d, a)
	s, before := stateOf(t, raw), r.State()
	r.restart()
	spoil := func(standin.Message) {}
	r.onMessage(func(m standin.Message) {
		if m.Name == "memif_create_v2" {
			spoil(m)
		}
	})
	spoil = func(standin.Message) {
		if err := errors.Join(os.Remove(s.Socket), os.WriteFile(s.Socket, nil, 0o644)); err != nil {
			t.Error(err)
		}
	}
	made, err := d.restore(bounded(t), a, raw)
	wantError(t, err, s.Socket, "may VPP write")
	if domain := fmt.Sprintf("bridge domain %d", domainID("blue")); !slices.Equal(made, []string{domain}) || !strings.Contains(r.State(), strings.Replace(domain, " ", "-", 1)) {
		t.Errorf("it says that it made %q of\n%s", made, r.State())
	}
	_, err = d.restore(bounded(t), a, raw)
	wantError(t, err, s.Socket, "is no socket")
	if err := os.Remove(s.Socket); err != nil {
		t.Fatal(err)
	}
	spoil = func(standin.Message) {}
	if _, err := d.restore(bounded(t), a, raw); err != nil {
		t.Fatal(err)
	}
	same(t, before, r.State())
	linkUp(t, s.Socket, memif.Options{})
}
