package vppmemif

import (
	"errors"
	"strings"
	"testing"

	"go.fd.io/govpp/binapi/l2"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

func numbered(create any) map[string]any {
	domain := map[string]any{"id": 12}
	if create != nil {
		domain["create"] = create
	}
	return map[string]any{"bridgeDomain": domain}
}

// theirs is an operator's script: a bridge domain with a BVI. It fails when the domain is there.
func (a *admin) theirs() {
	a.t.Helper()
	a.domain(12, "")
	a.tap()
	a.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: a.named("tap0"), BdID: 12, Enable: true, PortType: l2.L2_API_PORT_TYPE_BVI}, &l2.SwInterfaceSetL2BridgeReply{})
}

// VPP restarts, and its startup configuration, which makes a bridge domain with a BVI, runs
// late. plexus waits for the domain, says so, and joins it; the domain outlives the last pod.
func TestStartupConfigurationRunsLate(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.admin().theirs()
	before := r.world()
	a := r.attachment(sandboxA, numbered(nil))
	raw := mustAttach(t, d, a)
	attached := r.State()
	for _, age := range []func(){r.young, r.age} {
		r.restart()
		age()
		empty := r.world()
		_, err := d.restore(bounded(t), a, raw)
		wantError(t, err, "no bridge domain 12", "startup configuration")
		wantTryAgain(t, err)
		same(t, empty, r.world())
	}
	r.admin().theirs()
	if _, err := d.restore(bounded(t), a, raw); err != nil {
		t.Fatal(err)
	}
	same(t, shape(attached), shape(r.State()))
	mustDel(t, d, a, raw)
	same(t, before, r.world())
}

// A numbered domain that is missing is made when the configuration says so, never when it
// says the contrary, and otherwise when VPP has run for so long that nobody else will.
func TestWhoMakesADomain(t *testing.T) {
	for name, c := range map[string]struct {
		create any
		young  bool
		says   string
	}{
		"create, just started": {true, true, ""},
		"create":               {true, false, ""},
		"just started":         {nil, true, "has just started"},
		"started long ago":     {nil, false, ""},
		"no create":            {false, false, `"bridgeDomain.create"`},
	} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a := r.attachment(sandboxA, numbered(c.create))
		if c.young {
			r.young()
		}
		before := r.world()
		raw, err := attach(t, d, a)
		if c.says != "" {
			wantError(t, err, "no bridge domain 12", c.says)
			wantTryAgain(t, err)
			same(t, before, r.world())
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		attached := r.State()
		r.restart()
		r.young()
		if _, err := d.restore(bounded(t), a, raw); err != nil { // plexus has made it before
			t.Errorf("%s: %v", name, err)
		}
		same(t, shape(attached), shape(r.State()))
		mustDel(t, d, a, raw)
		same(t, before, r.world())
	}
}

// A record of a former version does not say who made the domain: plexus makes it when VPP has
// run for so long that nobody else will.
func TestOriginOfAFormerVersion(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, numbered(nil))
	raw := mustAttach(t, d, a)
	former := []byte(strings.Replace(string(raw), `"domainOf":"plexus"`, `"domainOf":""`, 1))
	if string(former) == string(raw) {
		t.Fatal(string(raw))
	}
	r.restart()
	r.young()
	_, err := d.restore(bounded(t), a, former)
	wantError(t, err, "has just started")
	r.age()
	if _, err := d.restore(bounded(t), a, former); err != nil {
		t.Error(err)
	}
	mustDel(t, d, a, former)
}

// A table is waited for as long as VPP's startup configuration may make it.
func TestTableOfAStartupConfiguration(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.admin().table(5)
	a := r.attachment(sandboxA, routed)
	raw := mustAttach(t, d, a)
	attached := r.State()
	r.restart()
	r.young()
	_, err := d.restore(bounded(t), a, raw)
	wantError(t, err, "no table 5", "startup configuration")
	wantTryAgain(t, err)
	r.age()
	if _, err := d.restore(bounded(t), a, raw); err != nil {
		t.Error(err)
	}
	same(t, shape(attached), shape(r.State()))
}

func wantTryAgain(t *testing.T, err error) {
	t.Helper()
	var coded *delegates.Error
	if !errors.As(err, &coded) || coded.Code != delegates.CodeTryAgain {
		t.Errorf("no code %d: %v", delegates.CodeTryAgain, err)
	}
}
