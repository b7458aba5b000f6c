package sriov

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// reserved writes a reservation of a function that is not there any more.
func reserved(t *testing.T, pci, sandbox, ifName string) {
	t.Helper()
	r := &reservation{PCI: pci, Owner: "o", Sandbox: sandbox, IfName: ifName, Original: snapshot{Incarnation: 1}}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.remove() })
}

// left are the files of reservations.
func left(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(reservationFile("*"))
	if err != nil {
		t.Fatal(err)
	}
	for i, file := range files {
		files[i] = filepath.Base(file)
	}
	return files
}

// Each attachment is undone by its own state, without its configuration, and its error
// stands at its place. What is reserved for another pod stays.
func TestDetach(t *testing.T) {
	reserved(t, "0000:7f:11.0", "s", "net1")
	reserved(t, "0000:7f:11.1", "other", "net1")
	reserved(t, "0000:7f:11.2", "s", "net3")
	of := func(ifName, state string) *delegates.Attachment {
		return &delegates.Attachment{Sandbox: "s", IfName: ifName, Owner: "o", State: []byte(state)}
	}
	d := New(logTo(t))
	for range 2 {
		errs := d.Detach(t.Context(), []*delegates.Attachment{
			of("net1", `{"pci": "0000:7f:11.0"}`), of("net1", `{"pci": "0000:7f:11.1"}`), of("net2", `{"pci": "../x"}`), of("net3", `{"pci": "0000:7f:11.2"}`),
		})
		if len(errs) != 4 || errs[0] != nil || errs[1] != nil || errs[3] != nil {
			t.Fatalf("errors %v, want the third alone", errs)
		}
		wantError(t, errs[2], "recorded state", "../x")
		if d := cmp.Diff([]string{"0000:7f:11.1.json"}, left(t)); d != "" {
			t.Error(d)
		}
	}
}

// Without a state an attachment is found by its reservation.
func TestDetachByReservation(t *testing.T) {
	reserved(t, "0000:7f:12.0", "s", "net1")
	reserved(t, "0000:7f:12.1", "s", "net2")
	for range 2 {
		errs := New(logTo(t)).Detach(t.Context(), []*delegates.Attachment{{Sandbox: "s", IfName: "net2", Owner: "o"}})
		if len(errs) != 1 || errs[0] != nil {
			t.Errorf("errors %v, want one nil", errs)
		}
		if d := cmp.Diff([]string{"0000:7f:12.0.json"}, left(t)); d != "" {
			t.Error(d)
		}
	}
	if errs := New(logTo(t)).Detach(t.Context(), nil); len(errs) > 0 {
		t.Errorf("errors %v of nothing", errs)
	}
}

// A function that is reserved for another pod by now is not attached, and the error says
// which of several attachments it is about.
func TestAttachOfAnothers(t *testing.T) {
	reserved(t, "0000:7f:13.0", "other", "net1")
	d := New(logTo(t))
	n, _, err := d.Parse("default/fast", []byte("{"+testDevice+"}"))
	if err != nil {
		t.Fatal(err)
	}
	a := &delegates.Attachment{Sandbox: "s", IfName: "net1", Name: "default/fast", Owner: "o", Network: n, State: []byte(`{"pci": "0000:7f:13.0"}`)}
	wantError(t, d.Attach(t.Context(), []*delegates.Attachment{a}), "net1", "default/fast", "0000:7f:13.0", "reserved for another pod")
	if a.Result != nil {
		t.Errorf("result %v", a.Result)
	}
}

// Prepare wants a device, which Parse leaves to a device plugin, and reads CNI_ARGS.
func TestPrepareRefuses(t *testing.T) {
	d := New(logTo(t))
	for _, c := range []struct {
		config, args string
		says         []string
	}{
		{`{"vlan": 5}`, "", []string{"default/fast", `"deviceID"`, "resourceName"}},
		{"{" + testDevice + "}", "VLAN=4095", []string{"default/fast", `"CNI_ARGS VLAN"`, "4094"}},
	} {
		n, _, err := d.Parse("default/fast", []byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		args, err := conf.ParseArgs(c.args)
		if err != nil {
			t.Fatal(err)
		}
		state, err := n.Prepare(t.Context(), &delegates.Attachment{Sandbox: "s", IfName: "net1", Owner: "o", Args: args})
		wantError(t, err, c.says...)
		if state != nil || len(left(t)) > 0 {
			t.Errorf("%s with %q: state %s, reservations %q", c.config, c.args, state, left(t))
		}
	}
}

// The result has ipam's answer, which stays as it is.
func TestResultOf(t *testing.T) {
	_, to, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	answer := func() *types100.Result {
		return &types100.Result{
			IPs:    []*types100.IPConfig{{Address: net.IPNet{IP: net.IPv4(10, 0, 0, 7), Mask: net.CIDRMask(24, 32)}, Gateway: net.IPv4(10, 0, 0, 1)}},
			Routes: []*types.Route{{Dst: *to}},
			DNS:    types.DNS{Nameservers: []string{"10.0.0.2"}},
		}
	}
	given := answer()
	r := resultOf(&types100.Interface{Name: "net1"}, given)
	if d := cmp.Diff(answer(), given); d != "" {
		t.Errorf("ipam's answer is changed\n%s", d)
	}
	whole := answer()
	whole.CNIVersion, whole.Interfaces = types100.ImplementedSpecVersion, []*types100.Interface{{Name: "net1"}}
	whole.IPs[0].Interface = types100.Int(0)
	if d := cmp.Diff(whole, r); d != "" {
		t.Error(d)
	}
	r.IPs[0].Gateway, r.Routes[0].GW, r.DNS.Nameservers[0] = nil, net.IPv4(10, 0, 0, 9), "x"
	if d := cmp.Diff(answer(), given); d != "" {
		t.Errorf("ipam's answer is changed with the result\n%s", d)
	}
	if r := resultOf(&types100.Interface{Name: "net1"}, nil); len(r.Interfaces) != 1 || r.IPs != nil {
		t.Errorf("without ipam: %+v", r)
	}
}

// A reservation that a former version has written is read, and written as that version
// reads it.
func TestFormerReservation(t *testing.T) {
	former, err := os.ReadFile("testdata/reservation.json")
	if err != nil {
		t.Fatal(err)
	}
	const pci = "0000:7f:10.2"
	if err := os.MkdirAll("/run/plexus/vf", 0o700); err != nil {
		t.Fatal(err)
	}
	const file = "/run/plexus/vf/" + pci + ".json"
	if err := os.WriteFile(file, former, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file) })
	r, err := readReservation(pci)
	if err != nil {
		t.Fatal(err)
	}
	expected := &reservation{
		PCI: pci, Owner: "/var/lib/plexus", Sandbox: "sandbox000001", IfName: "net1", Netns: "/run/netns/x", NetnsID: "4:4026532281",
		Original: snapshot{
			Incarnation: 7, Driver: "iavf", Override: "iavf", GUID: hw(t, "02:00:00:00:00:00:00:04"),
			Links: []linkSnapshot{{Name: "eth1", AltNames: []string{"enp1s0f0v1"}, MAC: hw(t, "02:00:00:00:00:01"), PermMAC: hw(t, "02:00:00:00:00:02"), MTU: 1500, Up: true, Promisc: true, AllMulti: true}},
			VF: &vfInfo{settings{VLAN: &vlanTag{7, 3, proto8021ad}, SpoofChk: new(true), Trust: new(false), LinkState: new(uint32(1)),
				MinRate: new(uint32(10)), MaxRate: new(uint32(20))}, hw(t, "02:00:00:00:00:03")},
		},
		Baseline:  vfInfo{settings{VLAN: &vlanTag{Proto: proto8021q}}, hw(t, "02:00:00:00:00:05")},
		TakenOver: true, MACOnPF: true,
	}
	if d := cmp.Diff(expected, r, cmp.AllowUnexported(vfInfo{})); d != "" {
		t.Error(d)
	}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(file)
	if d := cmp.Diff(string(former), string(again)); err != nil || d != "" {
		t.Errorf("%v, written again it is another\n%s", err, d)
	}
}
