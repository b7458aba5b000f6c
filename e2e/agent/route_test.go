package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// A network was detached for another one that cannot come. The pod then asks for
// the first one again: it gets it.
func TestUpdateTakenBackAfterAFailure(t *testing.T) {
	s := plugSite(t, nil)
	s.InstallRecorder()
	fail := s.Dir + "/fail"
	s.NAD("sick", map[string]any{"cniVersion": "1.1.0", "name": "sick", "plugins": []any{map[string]any{"type": site.Recorder, "fail": fail}}})
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a")
	s.MustAdd(plugSandbox, p, "plug")
	must.WriteFile(t, fail, "ADD")
	if _, err := update(s, plugSandbox, "plug", "sick", "none", 0); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Fatalf("%v", err)
	}
	mustUpdate(s, plugSandbox, "plug", "a")
	wants(t, "journal", journalled(s, plugSandbox), "eth0=cluster", "net1=default/a")
	wants(t, "status", told(s, "plug"), "eth0=cluster", "net1=default/a")
	wants(t, "pod", linkNames(t, p), "eth0", "net1")
	s.MustDel(plugSandbox, p, "plug")
}

// A change that failed when networks were gone already tells so: the status has
// what the pod has.
func TestStatusAfterAFailedUpdate(t *testing.T) {
	s := plugSite(t, nil)
	s.InstallRecorder()
	fail := s.Dir + "/fail"
	s.NAD("sick", map[string]any{"cniVersion": "1.1.0", "name": "sick", "plugins": []any{map[string]any{"type": site.Recorder, "fail": fail}}})
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a, b")
	s.MustAdd(plugSandbox, p, "plug")
	must.WriteFile(t, fail, "ADD")
	if _, err := update(s, plugSandbox, "plug", "b, sick", "none", 0); err == nil {
		t.Fatal("it succeeded")
	}
	wants(t, "status", told(s, "plug"), journalled(s, plugSandbox)...)
	s.MustDel(plugSandbox, p, "plug")
}

const plugRoute = `[{"name": "b", "default-route": ["10.71.0.1"]}]`

// A network that comes takes the default route; CHECK agrees; when it goes, the
// cluster network has it again.
func TestDefaultRouteComesAndGoes(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "")
	s.MustAdd(plugSandbox, p, "plug")
	inside := site.Links(t, p)
	mustUpdate(s, plugSandbox, "plug", plugRoute)
	if have := site.Links(t, p); !strings.Contains(have, "default via 10.71.0.1 dev net1") || strings.Contains(have, "default via 10.244.0.1") {
		t.Errorf("routes:\n%s", have)
	}
	if err := s.Check(plugSandbox, p, "plug"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	if status := statusOf(s, "plug"); len(status[0].Gateway) != 0 {
		t.Errorf("the status gives the cluster network the gateway still: %+v", status[0])
	}
	mustUpdate(s, plugSandbox, "plug", "")
	site.SameWorld(t, inside, site.Links(t, p))
	if err := s.Check(plugSandbox, p, "plug"); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	s.MustDel(plugSandbox, p, "plug")
}

// The same where ADD has given the default route away.
func TestDefaultRouteOfADDGoes(t *testing.T) {
	s := plugSite(t, nil)
	p := site.NewPod(t, "plug")
	s.Pod("plug", plugRoute)
	s.MustAdd(plugSandbox, p, "plug")
	mustUpdate(s, plugSandbox, "plug", "")
	if have := site.Links(t, p); !strings.Contains(have, "default via 10.244.0.1 dev eth0") {
		t.Errorf("the pod has no default route:\n%s", have)
	}
	s.MustDel(plugSandbox, p, "plug")
}

// A change that takes the default route and then fails, or is killed, leaves the
// pod its own.
func TestDefaultRouteAfterAFailedUpdate(t *testing.T) {
	for _, kind := range []string{"fail", "kill"} {
		s := plugSite(t, nil)
		p := site.NewPod(t, "plug")
		s.Pod("plug", "a")
		s.MustAdd(plugSandbox, p, "plug")
		for at := 1; ; at++ {
			done, err := update(s, plugSandbox, "plug", `[{"name":"a"},{"name":"b","default-route":["10.71.0.1"]}]`, kind, at)
			if err == nil && done.Did != nil {
				break
			}
			reconcile(s, plugSandbox)
			if have := site.Links(t, p); !strings.Contains(have, "default via 10.244.0.1 dev eth0") {
				t.Errorf("%s at step %d: %v: the pod has no default route", kind, at, err)
			}
			s.MustDel(plugSandbox, p, "plug")
			s.MustAdd(plugSandbox, p, "plug")
			if t.Failed() {
				break
			}
		}
		s.MustDel(plugSandbox, p, "plug")
		must.Do(t, p.Close())
	}
}

// Every step of a change is failed in turn, and the process killed at every step;
// the agent's recovery leaves attachments that are whole, told, and recorded, and
// no other; the change is then done as if nothing had been; DEL leaves nothing.
func TestUpdateCutShortAtEveryStep(t *testing.T) {
	v := site.OVS(t)
	s := plugSite(t, v)
	p := site.NewPod(t, "plug")
	s.Pod("plug", "a, u")
	s.MustAdd(plugSandbox, p, "plug")
	s.MustDel(plugSandbox, p, "plug")
	before, inside := s.World(v), site.Links(t, p)
	const to = "u, b@x, w"
	for _, kind := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.MustAdd(plugSandbox, p, "plug")
			done, err := update(s, plugSandbox, "plug", to, kind, at)
			whole := err == nil && done.Did != nil
			if kind == "fail" && !whole && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at))) {
				t.Errorf("step %d: the error does not tell: %v", at, err)
			}
			reconcile(s, plugSandbox)
			have := journalled(s, plugSandbox)
			for _, one := range have {
				if strings.Contains(one, "(") {
					t.Errorf("%s at step %d: %q is not settled", kind, at, have)
				}
			}
			if !slices.Contains(have, "net2=default/u") || have[0] != "eth0=cluster" {
				t.Errorf("%s at step %d: what stays is gone: %q", kind, at, have)
			}
			s.MustCheck(plugSandbox, p, "plug")
			var kernel []string
			for _, one := range have {
				if name, network, _ := strings.Cut(one, "="); network != "default/u" && network != "default/w" {
					kernel = append(kernel, name)
				}
			}
			slices.Sort(kernel)
			wants(t, fmt.Sprintf("%s at step %d: pod", kind, at), linkNames(t, p), kernel...)
			if found := reconcile(s, plugSandbox); len(found) != 0 {
				t.Errorf("%s at step %d: found again: %+v", kind, at, found)
			}
			if at%2 == 0 { // and if not, DEL comes to what is half done
				mustUpdate(s, plugSandbox, "plug", to)
				wants(t, "journal", journalled(s, plugSandbox), "eth0=cluster", "net2=default/u", "x=default/b", "net1=default/w")
				wants(t, "status", told(s, "plug"), "eth0=cluster", "net2=default/u", "x=default/b", "net1=default/w")
				s.MustCheck(plugSandbox, p, "plug")
			}
			s.MustDel(plugSandbox, p, "plug")
			site.SameWorld(t, before, s.World(v))
			site.SameWorld(t, inside, site.Links(t, p))
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
