package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

// newThreeMemif has a pod of three networks: the cluster network by an
// executable, a memif in a bridge domain that plexus makes, with a tag, and a
// memif with addresses on both sides.
func newThreeMemif(t *testing.T) (s *site, p *node.Pod, unchanged func()) {
	api, state := vppAPI(t)
	s = newMemifSite(t, api)
	s.pod("three", "tagged, routed")
	p = newPod(t, "three")
	s.mustAdd("warmup1", p, "three")
	s.mustDel("warmup1", p, "three")
	return s, p, watch(s, state)
}

// watch returns a function that wants the node and the vswitch to be as they
// are now.
func watch(s *site, state func() string) func() {
	before, stateBefore := s.world(nil), state()
	return func() {
		s.t.Helper()
		sameWorld(s.t, before, s.world(nil))
		if after := state(); after != stateBefore {
			s.t.Errorf("state of the vswitch:\n%s\nbefore:\n%s", after, stateBefore)
		}
	}
}

// Every step of ADD is failed in turn: ADD reports it, and node and vswitch are
// as they were, without a DEL.
func TestMemifAddFailsAtEveryStep(t *testing.T) {
	s, p, unchanged := newThreeMemif(t)
	add := request{verb: "ADD", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for at := 1; ; at++ {
		steps, err := s.faulty(add, "fail", at)
		if err == nil {
			if len(steps) != at-1 || at < 12 {
				t.Fatalf("ADD succeeded with a fault at step %d, steps: %q", at, steps)
			}
			s.mustDel(faultySandbox, p, "three")
			unchanged()
			t.Logf("%d steps failed in turn: %q", at-1, steps)
			return
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at)) {
			t.Errorf("step %d: the error does not tell: %v", at, err)
		}
		unchanged()
		s.mustDel(faultySandbox, p, "three")
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
	add := request{verb: "ADD", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for at := 1; ; at++ {
		_, err := s.faulty(add, "kill", at)
		s.mustDel(faultySandbox, p, "three")
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
	del := request{verb: "DEL", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for _, fault := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.mustAdd(faultySandbox, p, "three")
			_, err := s.faulty(del, fault, at)
			s.mustDel(faultySandbox, p, "three")
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
