package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A network was detached for another one that cannot come. The pod then asks for
// the first one again: it gets it.
func TestUpdateTakenBackAfterAFailure(t *testing.T) {
	s := plugSite(t, nil)
	s.installRecorder()
	fail := s.dir + "/fail"
	s.nad("sick", map[string]any{"cniVersion": "1.1.0", "name": "sick", "plugins": []any{map[string]any{"type": recorder, "fail": fail}}})
	p := newPod(t, "plug")
	s.pod("plug", "a")
	s.mustAdd(plugSandbox, p, "plug")
	writeFile(t, fail, "ADD")
	if _, err := s.update(plugSandbox, "plug", "sick", "none", 0); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Fatalf("%v", err)
	}
	s.mustUpdate(plugSandbox, "plug", "a")
	wants(t, "journal", s.journalled(plugSandbox), "eth0=cluster", "net1=default/a")
	wants(t, "status", s.told("plug"), "eth0=cluster", "net1=default/a")
	wants(t, "pod", linkNames(t, p), "eth0", "net1")
	s.mustDel(plugSandbox, p, "plug")
}

// A change that failed when networks were gone already tells so: the status has
// what the pod has.
func TestStatusAfterAFailedUpdate(t *testing.T) {
	s := plugSite(t, nil)
	s.installRecorder()
	fail := s.dir + "/fail"
	s.nad("sick", map[string]any{"cniVersion": "1.1.0", "name": "sick", "plugins": []any{map[string]any{"type": recorder, "fail": fail}}})
	p := newPod(t, "plug")
	s.pod("plug", "a, b")
	s.mustAdd(plugSandbox, p, "plug")
	writeFile(t, fail, "ADD")
	if _, err := s.update(plugSandbox, "plug", "b, sick", "none", 0); err == nil {
		t.Fatal("it succeeded")
	}
	wants(t, "status", s.told("plug"), s.journalled(plugSandbox)...)
	s.mustDel(plugSandbox, p, "plug")
}

const plugRoute = `[{"name": "b", "default-route": ["10.71.0.1"]}]`

// A network that comes takes the default route; CHECK agrees; when it goes, the
// cluster network has it again.
func TestDefaultRouteComesAndGoes(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", "")
	s.mustAdd(plugSandbox, p, "plug")
	inside := links(t, p)
	s.mustUpdate(plugSandbox, "plug", plugRoute)
	if have := links(t, p); !strings.Contains(have, "default via 10.71.0.1 dev net1") || strings.Contains(have, "default via 10.244.0.1") {
		t.Errorf("routes:\n%s", have)
	}
	if err := s.check(plugSandbox, p, "plug"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if status := s.statusOf("plug"); len(status[0].Gateway) != 0 {
		t.Errorf("the status gives the cluster network the gateway still: %+v", status[0])
	}
	s.mustUpdate(plugSandbox, "plug", "")
	sameWorld(t, inside, links(t, p))
	if err := s.check(plugSandbox, p, "plug"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	s.mustDel(plugSandbox, p, "plug")
}

// The same where ADD has given the default route away.
func TestDefaultRouteOfADDGoes(t *testing.T) {
	s := plugSite(t, nil)
	p := newPod(t, "plug")
	s.pod("plug", plugRoute)
	s.mustAdd(plugSandbox, p, "plug")
	s.mustUpdate(plugSandbox, "plug", "")
	if have := links(t, p); !strings.Contains(have, "default via 10.244.0.1 dev eth0") {
		t.Errorf("the pod has no default route:\n%s", have)
	}
	s.mustDel(plugSandbox, p, "plug")
}

// A change that takes the default route and then fails, or is killed, leaves the
// pod its own.
func TestDefaultRouteAfterAFailedUpdate(t *testing.T) {
	for _, kind := range []string{"fail", "kill"} {
		s := plugSite(t, nil)
		p := newPod(t, "plug")
		s.pod("plug", "a")
		s.mustAdd(plugSandbox, p, "plug")
		for at := 1; ; at++ {
			done, err := s.update(plugSandbox, "plug", `[{"name":"a"},{"name":"b","default-route":["10.71.0.1"]}]`, kind, at)
			if err == nil && done.Did != nil {
				break
			}
			s.reconcile(plugSandbox)
			if have := links(t, p); !strings.Contains(have, "default via 10.244.0.1 dev eth0") {
				t.Errorf("%s at step %d: %v: the pod has no default route", kind, at, err)
			}
			s.mustDel(plugSandbox, p, "plug")
			s.mustAdd(plugSandbox, p, "plug")
			if t.Failed() {
				break
			}
		}
		s.mustDel(plugSandbox, p, "plug")
		must(t, p.Close())
	}
}

// Every step of a change is failed in turn, and the process killed at every step;
// the agent's recovery leaves attachments that are whole, told, and recorded, and
// no other; the change is then done as if nothing had been; DEL leaves nothing.
func TestUpdateCutShortAtEveryStep(t *testing.T) {
	v := startOVS(t)
	s := plugSite(t, v)
	p := newPod(t, "plug")
	s.pod("plug", "a, u")
	s.mustAdd(plugSandbox, p, "plug")
	s.mustDel(plugSandbox, p, "plug")
	before, inside := s.world(v), links(t, p)
	const to = "u, b@x, w"
	for _, kind := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.mustAdd(plugSandbox, p, "plug")
			done, err := s.update(plugSandbox, "plug", to, kind, at)
			whole := err == nil && done.Did != nil
			if kind == "fail" && !whole && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at))) {
				t.Errorf("step %d: the error does not tell: %v", at, err)
			}
			s.reconcile(plugSandbox)
			have := s.journalled(plugSandbox)
			for _, one := range have {
				if strings.Contains(one, "(") {
					t.Errorf("%s at step %d: %q is not settled", kind, at, have)
				}
			}
			if !slices.Contains(have, "net2=default/u") || have[0] != "eth0=cluster" {
				t.Errorf("%s at step %d: what stays is gone: %q", kind, at, have)
			}
			s.mustCheck(plugSandbox, p, "plug")
			var kernel []string
			for _, one := range have {
				if name, network, _ := strings.Cut(one, "="); network != "default/u" && network != "default/w" {
					kernel = append(kernel, name)
				}
			}
			slices.Sort(kernel)
			wants(t, fmt.Sprintf("%s at step %d: pod", kind, at), linkNames(t, p), kernel...)
			if found := s.reconcile(plugSandbox); len(found) != 0 {
				t.Errorf("%s at step %d: found again: %+v", kind, at, found)
			}
			if at%2 == 0 { // and if not, DEL comes to what is half done
				s.mustUpdate(plugSandbox, "plug", to)
				wants(t, "journal", s.journalled(plugSandbox), "eth0=cluster", "net2=default/u", "x=default/b", "net1=default/w")
				wants(t, "status", s.told("plug"), "eth0=cluster", "net2=default/u", "x=default/b", "net1=default/w")
				s.mustCheck(plugSandbox, p, "plug")
			}
			s.mustDel(plugSandbox, p, "plug")
			sameWorld(t, before, s.world(v))
			sameWorld(t, inside, links(t, p))
			if t.Failed() {
				t.Fatalf("after %s at step %d of %q", kind, at, done.Steps)
			}
			if whole {
				t.Logf("%s at %d steps: %q", kind, at-1, done.Steps)
				break
			}
		}
	}
}
