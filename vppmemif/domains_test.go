package vppmemif

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/rig/standin"
)

// The domain's last member goes between the look for the domain and the
// joining. VPP makes a domain that is missing, without a tag: nobody would find
// it again, and nobody remove it.
func TestDomainGoesBeforeJoin(t *testing.T) {
	for name, keys := range map[string]map[string]any{"name": named("blue"), "id": {"bridgeDomain": map[string]any{"id": 12}}} {
		t.Run(name, func(t *testing.T) {
			r, d, other := newRig(t, standin.Options{}), newDelegate(t), newDelegate(t)
			a, b := r.attachment(sandboxA, keys), r.attachment(sandboxB, keys)
			before := r.world()
			first := mustAttach(t, d, a)
			var once sync.Once
			began, gone := make(chan bool), make(chan error, 1)
			r.onMessage(func(m standin.Message) {
				switch content := m.Content.(type) {
				case *l2.SwInterfaceSetL2Bridge:
					once.Do(func() {
						go func() { gone <- d.del(bounded(t), a, first) }()
						<-began
					})
				default:
					if content.GetMessageName() == "memif_delete" {
						close(began)
					}
				}
			})
			second := mustAttach(t, other, b)
			if err := <-gone; err != nil {
				t.Error(err)
			}
			r.onMessage(func(standin.Message) {})
			if n := strings.Count(r.State(), "bridge-domain "); n != 1 || !strings.Contains(r.State(), stateOf(t, second).DomainTag) {
				t.Errorf("no bridge domain of ours:\n%s", r.State())
			}
			if err := other.check(bounded(t), b, second); err != nil {
				t.Error(err)
			}
			mustDel(t, other, b, second)
			same(t, before, r.world())
		})
	}
}

// A domain that somebody else has made is used and stays.
func TestForeignDomain(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.admin().domain(12, "theirs")
	before := r.world()
	a := r.attachment(sandboxA, map[string]any{"bridgeDomain": map[string]any{"id": 12}})
	raw := mustAttach(t, d, a)
	if !strings.Contains(r.State(), `bridge-domain 12 tag="theirs" flood forward learn uu-flood mac-age=0 members=[`+stateOf(t, raw).Tag+"]") {
		t.Errorf("not a member:\n%s", r.State())
	}
	if err := d.check(bounded(t), a, raw); err != nil {
		t.Error(err)
	}
	mustDel(t, d, a, raw)
	mustDel(t, d, a, raw)
	same(t, before, r.world())
	if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
		t.Error(err)
	}
	same(t, before, r.world())
}

// A domain of ours goes with its last member.
func TestDomainGoesWithLast(t *testing.T) {
	for _, keys := range []map[string]any{named("blue"), {"bridgeDomain": map[string]any{"id": 12, "flood": false, "learn": false, "arpTermination": true}}} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		before := r.world()
		a, b := r.attachment(sandboxA, keys), r.attachment(sandboxB, keys)
		first, second := mustAttach(t, d, a), mustAttach(t, d, b)
		mustDel(t, d, a, first)
		if n := strings.Count(r.State(), "bridge-domain "); n != 1 {
			t.Errorf("%d domains:\n%s", n, r.State())
		}
		if keys["bridgeDomain"].(map[string]any)["id"] != nil && !strings.Contains(r.State(), "arp-term forward mac-age") {
			t.Errorf("flags:\n%s", r.State())
		}
		if err := d.check(bounded(t), b, second); err != nil {
			t.Error(err)
		}
		mustDel(t, d, b, second)
		same(t, before, r.world())
	}
}

// Names whose ids are taken, by other names or by anybody, get others.
func TestCollidingNames(t *testing.T) {
	seen := map[uint32]string{}
	var one, two string
	for i := 0; two == ""; i++ {
		name := fmt.Sprint("n", i)
		id := domainID(name)
		if other, ok := seen[id]; ok {
			one, two = other, name
		}
		seen[id] = name
	}
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.admin().domain(domainID("blue"), "theirs")
	before := r.world()
	a, b, c := r.attachment(sandboxA, named(one)), r.attachment(sandboxB, named(two)), r.attachment(strings.Repeat("c", 32), named("blue"))
	states := []json.RawMessage{mustAttach(t, d, a), mustAttach(t, d, b), mustAttach(t, d, c)}
	id := domainID(one)
	for want, n := range map[string]int{
		fmt.Sprintf("bridge-domain %d tag=%q", id, stateOf(t, states[0]).DomainTag):                   1,
		fmt.Sprintf("bridge-domain %d tag=%q", id%maxBridgeDomain+1, stateOf(t, states[1]).DomainTag): 1,
		fmt.Sprintf("bridge-domain %d tag=%q", domainID("blue"), "theirs"):                            1,
		"bridge-domain ": 4,
	} {
		if got := strings.Count(r.State(), want); got != n {
			t.Errorf("%d of %q:\n%s", got, want, r.State())
		}
	}
	mustDel(t, d, a, states[0])
	if err := d.check(bounded(t), b, states[1]); err != nil {
		t.Error(err)
	}
	mustDel(t, d, b, nil)
	mustDel(t, d, c, states[2])
	same(t, before, r.world())
}

// Eight at once, each a plexus process of its own as far as connections go.
func TestDomainAtOnce(t *testing.T) {
	const n, rounds = 8, 5
	r := newRig(t, standin.Options{})
	before := r.world()
	var work sync.WaitGroup
	errs := make(chan error, 3*n*rounds)
	for i := range n {
		d := newDelegate(t)
		a := r.attachment(strings.Repeat(string(rune('a'+i)), 32), named("blue"))
		work.Go(func() {
			for range rounds {
				raw, err := attach(t, d, a)
				if err == nil {
					err = d.check(bounded(t), a, raw)
				}
				if n := strings.Count(r.State(), "bridge-domain "); n != 1 {
					err = errors.Join(err, fmt.Errorf("%d bridge domains", n))
				}
				errs <- errors.Join(err, d.del(bounded(t), a, raw))
			}
		})
	}
	work.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	same(t, before, r.world())
}

// A sweep removes what is ours and not kept, nothing else.
func TestSweep(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	by := r.admin()
	by.memif(filepath.Join(r.dir, "theirs.sock"))
	by.domain(12, "theirs")
	by.domain(13, "plexus/x")
	a := r.attachment(sandboxA, named("blue"))
	other := r.attachment(sandboxA, named("blue"))
	other.Owner, other.IfName = "/elsewhere", "net2"
	mustAttach(t, d, other)
	kept := r.attachment(strings.Repeat("k", 64), named("red"))
	raw := mustAttach(t, d, kept)
	before := r.State()
	mustAttach(t, d, a)
	asked := map[string]bool{}
	keep := func(sandbox, ifName string) bool {
		asked[sandbox+"/"+ifName] = true
		return strings.HasPrefix(kept.Sandbox, sandbox) && len(sandbox) >= 24
	}
	for range 2 {
		if err := r.sweep(d, keep); err != nil {
			t.Error(err)
		}
		same(t, before, r.State())
	}
	if len(asked) != 2 || !asked[sandboxA[:24]+"/net1"] {
		t.Errorf("asked for %v", asked)
	}
	if err := d.check(bounded(t), kept, raw); err != nil {
		t.Error(err)
	}
	r.Close()
	if err := r.sweep(d, keep); err != nil {
		t.Errorf("of a VPP that does not run: %v", err)
	}
}

// A VPP that speaks a message otherwise is refused with its version.
func TestIncompatible(t *testing.T) {
	for _, crc := range []string{"deadbeef", ""} {
		r := newRig(t, standin.Options{Version: "23.02-x", CRC: map[string]string{"memif_create_v2": crc}})
		before := r.world()
		d, a := newDelegate(t), r.attachment(sandboxA, nil)
		_, err := d.prepare(bounded(t), a)
		wantError(t, err, "memif_create_v2", "23.02-x", "24.10")
		wantError(t, d.ready(bounded(t), a.Conf), "memif_create_v2", "23.02-x")
		same(t, before, r.world())
	}
	r := newRig(t, standin.Options{CRC: map[string]string{"tap_create_v3": "deadbeef", "create_vlan_subif": ""}})
	mustAttach(t, newDelegate(t), r.attachment(sandboxA, nil))
}
