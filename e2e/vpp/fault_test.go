package vpp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// newThreeMemif has a pod of three networks: the cluster network by an
// executable, a memif in a bridge domain that plexus makes, with a tag, and a
// memif with addresses on both sides.
func newThreeMemif(t *testing.T) (s *site.Site, p *node.Pod, unchanged func()) {
	api, state := site.VPP(t)
	s = site.NewMemif(t, api)
	s.Pod("three", "tagged, routed")
	p = site.NewPod(t, "three")
	s.MustAdd("warmup1", p, "three")
	s.MustDel("warmup1", p, "three")
	return s, p, watch(s, state)
}

// watch returns a function that wants the node and the vswitch to be as they
// are now.
func watch(s *site.Site, state func() string) func() {
	before, stateBefore := s.World(nil), state()
	return func() {
		s.T.Helper()
		site.SameWorld(s.T, before, s.World(nil))
		if after := state(); after != stateBefore {
			s.T.Errorf("state of the vswitch:\n%s\nbefore:\n%s", after, stateBefore)
		}
	}
}

// Every step of ADD is failed in turn: ADD reports it, and node and vswitch are
// as they were, without a DEL.
func TestMemifAddFailsAtEveryStep(t *testing.T) {
	s, p, unchanged := newThreeMemif(t)
	add := site.Request{Verb: "ADD", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for at := 1; ; at++ {
		steps, err := s.Faulty(add, "fail", at)
		if err == nil {
			if len(steps) != at-1 || at < 12 {
				t.Fatalf("ADD succeeded with a fault at step %d, steps: %q", at, steps)
			}
			s.MustDel(site.FaultySandbox, p, "three")
			unchanged()
			t.Logf("%d steps failed in turn: %q", at-1, steps)
			return
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at)) {
			t.Errorf("step %d: the error does not tell: %v", at, err)
		}
		unchanged()
		s.MustDel(site.FaultySandbox, p, "three")
		unchanged()
		if t.Failed() {
			t.Fatalf("after a failure at step %d of %q", at, steps)
		}
	}
}

// The process is killed between any two steps of ADD: DEL, which knows nothing
// but the journal, restores node and vswitch.
func TestMemifAddKilledAtEveryStep(t *testing.T) {
	s, p, unchanged := newThreeMemif(t)
	add := site.Request{Verb: "ADD", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for at := 1; ; at++ {
		_, err := s.Faulty(add, "kill", at)
		s.MustDel(site.FaultySandbox, p, "three")
		unchanged()
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
func TestMemifDelCutShortAtEveryStep(t *testing.T) {
	s, p, unchanged := newThreeMemif(t)
	del := site.Request{Verb: "DEL", Sandbox: site.FaultySandbox, Netns: p.Path(), Pod: "three"}
	for _, fault := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.MustAdd(site.FaultySandbox, p, "three")
			_, err := s.Faulty(del, fault, at)
			s.MustDel(site.FaultySandbox, p, "three")
			unchanged()
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
