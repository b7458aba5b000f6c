package vppmemif

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
)

// routedByUserspace is a network in userspace-cni's words whose vswitch has the gateways of
// ipam.
func routedByUserspace(r *rig) map[string]any {
	return map[string]any{
		"socket": nil, "type": "userspace", "sharedDir": r.dir, "kubeconfig": "/etc/kubeconfig",
		"host":      map[string]any{"engine": "vpp", "iftype": "memif", "netType": "interface", "memif": map[string]any{"role": "master", "mode": "ip"}},
		"container": map[string]any{"engine": "vpp", "iftype": "memif", "netType": "interface"},
	}
}

func prefixOf(t *testing.T, text string) net.IPNet {
	t.Helper()
	ip, n, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatal(err)
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}

func mustMarshal(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// attachWithIPAM attaches with what ipam answered, and returns the attachment as it is
// recorded: with its result, and without IPAM.
func attachWithIPAM(t *testing.T, r *rig) (*Delegate, *delegates.Attachment) {
	t.Helper()
	s := r.attachment(sandboxA, routedByUserspace(r))
	s.Netns = newPod(t)
	d := newDelegate(t)
	a, err := s.of(d, nil)
	if err == nil {
		a.State, err = a.Network.Prepare(bounded(t), a)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.IPAM = &types100.Result{
		IPs: []*types100.IPConfig{
			{Interface: types100.Int(3), Address: prefixOf(t, "10.0.0.2/24"), Gateway: net.ParseIP("10.0.0.1")},
			{Address: prefixOf(t, "fd00::2/64"), Gateway: net.ParseIP("fd00::1")},
		},
		Routes: []*types.Route{{Dst: prefixOf(t, "10.1.0.0/16")}},
		DNS:    types.DNS{Nameservers: []string{"10.0.0.9"}},
	}
	before := mustMarshal(t, a.IPAM)
	if err := d.Attach(bounded(t), []*delegates.Attachment{a}); err != nil {
		t.Fatal(err)
	}
	if len(a.Result.IPs) != 2 || *a.Result.IPs[0].Interface != 0 || *a.Result.IPs[1].Interface != 0 || len(a.Result.Routes) != 1 || len(a.Result.DNS.Nameservers) != 1 {
		t.Errorf("result %s", mustMarshal(t, a.Result))
	}
	a.Result.Routes[0].MTU, a.Result.DNS.Nameservers[0] = 1, "changed"
	if after := mustMarshal(t, a.IPAM); after != before {
		t.Errorf("IPAM was %s, is %s", before, after)
	}
	a.IPAM = nil
	return d, a
}

// CHECK notices what VPP has lost of the gateways that ipam gave, Restore makes it again,
// and what people see has it: they go by the recorded result.
func TestRecordedAddresses(t *testing.T) {
	r := newRig(t, standin.Options{})
	before := r.world()
	d, a := attachWithIPAM(t, r)
	if err := a.Network.Check(bounded(t), a); err != nil {
		t.Error(err)
	}
	facts, err := a.Network.Inspect(bounded(t), a)
	if err != nil || facts["addresses"] != "10.0.0.1/24, fd00::1/64" {
		t.Errorf("%v: %v", facts, err)
	}
	r.admin().address(d.indexOf(t, r, a.State), "10.0.0.1/24", false)
	wantError(t, a.Network.Check(bounded(t), a), "address 10.0.0.1/24 is gone")
	wantMade(t, a, "address 10.0.0.1/24")
	r.restart()
	wantError(t, a.Network.Check(bounded(t), a), "gone")
	st := stateOf(t, a.State)
	if err := os.RemoveAll(st.Dir); err != nil {
		t.Fatal(err)
	}
	wantMade(t, a, "folder "+st.Dir, "file "+st.Place(st.Config), st.name())
	if config, err := os.ReadFile(st.Place(st.Config)); err != nil || !strings.Contains(string(config), "10.0.0.2/24") {
		t.Errorf("configuration of the container %s: %v", config, err)
	}
	said, err := a.Network.Describe(a)
	if err != nil || !strings.Contains(said.Annotations["userspace/configuration-data"], "10.0.0.2/24") {
		t.Errorf("annotations %q: %v", said.Annotations, err)
	}
	if errs := d.Detach(bounded(t), []*delegates.Attachment{a}); errs[0] != nil {
		t.Error(errs[0])
	}
	same(t, before, r.world())
}

// wantMade wants Restore to make some things, and CHECK to agree.
func wantMade(t *testing.T, a *delegates.Attachment, want ...string) {
	t.Helper()
	made, err := a.Network.Restore(bounded(t), a)
	if err != nil || !slices.Equal(made, want) {
		t.Errorf("made %q, want %q: %v", made, want, err)
	}
	if err := a.Network.Check(bounded(t), a); err != nil {
		t.Error(err)
	}
}

// The recorded result is that of the whole list: the addresses of another plugin's
// interface are not VPP's to have.
func TestAddressesOfOtherPlugins(t *testing.T) {
	r := newRig(t, standin.Options{})
	_, a := attachWithIPAM(t, r)
	a.Result.Interfaces = slices.Insert(a.Result.Interfaces, 0, &types100.Interface{Name: "net1", Sandbox: a.Netns})
	for _, ip := range a.Result.IPs {
		ip.Interface = types100.Int(1)
	}
	a.Result.IPs = append(a.Result.IPs, &types100.IPConfig{Interface: types100.Int(0), Address: prefixOf(t, "10.9.0.2/24"), Gateway: net.ParseIP("10.9.0.1")})
	if err := a.Network.Check(bounded(t), a); err != nil {
		t.Error(err)
	}
	wantMade(t, a)
	// A list of CNI 0.2.0 has no interfaces in its result.
	a.Result.Interfaces, a.Result.IPs = nil, a.Result.IPs[:2]
	for _, ip := range a.Result.IPs {
		ip.Interface = nil
	}
	r.restart()
	wantMade(t, a, stateOf(t, a.State).name())
	if !strings.Contains(r.State(), "10.0.0.1/24") {
		t.Errorf("the gateway is missing:\n%s", r.State())
	}
}

// An attachment whose configuration is not accepted any more is not made.
func TestAttachWithoutNetwork(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	s := r.attachment(sandboxA, nil)
	a, err := s.of(d, nil)
	if err == nil {
		a.State, err = a.Network.Prepare(bounded(t), a)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.Network = nil
	before := r.world()
	wantError(t, d.Attach(bounded(t), []*delegates.Attachment{a}), "net1 (network default/fast)", "configuration")
	same(t, before, r.world())
}
