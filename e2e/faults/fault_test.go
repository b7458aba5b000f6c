package faults

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/site"
)

// Every step of ADD is failed in turn: ADD reports it and the node is as it
// was, without a DEL.
func TestAddFailsAtEveryStep(t *testing.T) {
	s, p := site.NewThree(t)
	before := s.World(site.OVS(t))
	add := site.Request{Verb: "ADD", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for at := 1; ; at++ {
		steps, err := s.Faulty(add, "fail", at)
		if err == nil {
			if len(steps) != at-1 || at < 10 {
				t.Fatalf("ADD succeeded with a fault at step %d, steps: %q", at, steps)
			}
			s.MustDel(site.FaultySandbox, p, "three")
			site.SameWorld(t, before, s.World(site.OVS(t)))
			t.Logf("%d steps failed in turn: %q", at-1, steps)
			return
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at)) {
			t.Errorf("step %d: the error does not tell: %v", at, err)
		}
		site.SameWorld(t, before, s.World(site.OVS(t)))
		s.MustDel(site.FaultySandbox, p, "three")
		if t.Failed() {
			t.Fatalf("after a failure at step %d of %q", at, steps)
		}
	}
}

// The process is killed between any two steps of ADD: DEL, which knows nothing
// but the journal, restores the node.
func TestAddKilledAtEveryStep(t *testing.T) {
	s, p := site.NewThree(t)
	before := s.World(site.OVS(t))
	add := site.Request{Verb: "ADD", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for at := 1; ; at++ {
		_, err := s.Faulty(add, "kill", at)
		s.MustDel(site.FaultySandbox, p, "three")
		site.SameWorld(t, before, s.World(site.OVS(t)))
		if t.Failed() {
			t.Fatalf("after a kill at step %d", at)
		}
		if err == nil {
			t.Logf("killed at %d steps", at-1)
			return
		}
	}
}

// Every step of DEL is failed, or the process killed there: the next DEL
// finishes.
func TestDelCutShortAtEveryStep(t *testing.T) {
	s, p := site.NewThree(t)
	before := s.World(site.OVS(t))
	del := site.Request{Verb: "DEL", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for _, fault := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.MustAdd(site.FaultySandbox, p, "three")
			_, err := s.Faulty(del, fault, at)
			s.MustDel(site.FaultySandbox, p, "three")
			site.SameWorld(t, before, s.World(site.OVS(t)))
			if t.Failed() {
				t.Fatalf("after %s of DEL at step %d: %v", fault, at, err)
			}
			if err == nil {
				t.Logf("%s at %d steps", fault, at-1)
				break
			}
		}
	}
}
