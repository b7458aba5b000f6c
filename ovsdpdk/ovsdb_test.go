package ovsdpdk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// The errors of Prepare and Ready name the vswitch's defect. Both change nothing.
func TestVswitchWillNotDo(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	before := r.world()
	want := func(keys map[string]any, words ...string) {
		t.Helper()
		a := r.attachment(d, sandbox, keys)
		_, err := a.Network.Prepare(bounded(t), a)
		wantError(t, err, words...)
		wantError(t, a.Network.Ready(bounded(t)), words...)
	}
	want(map[string]any{"createBridge": nil}, `"bridge"`, "no bridge "+testBridge, "datapath_type=netdev", "createBridge")
	r.vsctl("add-br", "br-kernel")
	want(map[string]any{"bridge": "br-kernel"}, `"bridge"`, "br-kernel", `datapath_type ""`, "netdev")
	r.vsctl("set", "Bridge", "br-kernel", "datapath_type=system")
	want(map[string]any{"bridge": "br-kernel"}, "br-kernel", `"system"`, "netdev")
	r.vsctl("del-br", "br-kernel")
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=false")
	want(nil, r.address, "not initialised DPDK", "dpdk-init=true")
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_version=none")
	want(nil, r.address, "built without DPDK")
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=true", "dpdk_version=DPDK")
	wantErrorNone(t, mustParse(t, d, r.config(nil)).Ready(bounded(t)))
	_, _, err := d.Parse("n", []byte(`{"bridge": ""}`))
	wantError(t, err, `"bridge"`)
	if refusal := (*conf.Refusal)(nil); !errors.As(err, &refusal) {
		t.Errorf("%v is no refusal", err)
	}
	sameWorld(t, before, r.world())
}

// A bridge that became unfit between Prepare and Attach is not used.
func TestBridgeChangesMeanwhile(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d := newDelegate(t)
	a := r.attachment(d, sandbox, map[string]any{"createBridge": nil})
	mustPrepare(t, a)
	r.vsctl("del-br", testBridge)
	wantError(t, d.Attach(bounded(t), only(a)), "no bridge "+testBridge)
	r.vsctl("add-br", testBridge)
	wantError(t, d.Attach(bounded(t), only(a)), "bridges changed")
	mustDetach(t, d, a)
}

// The vswitch's own words reach the user.
func TestPortDoesNotOpen(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	port := portName(a)
	r.wire.opens = map[string]any{"ofport": -1, "error": "could not open network device"}
	wantError(t, d.Attach(bounded(t), only(a)), "net1", "default/fast", "cannot open port "+port, "could not open network device")
	wantError(t, a.Network.Check(bounded(t), a), port, "not open in ovs-vswitchd", "could not open network device")
	mustDetach(t, d, a)
	r.wire.opens = map[string]any{"ofport": -1}
	wantError(t, attach(t, d, a), "cannot open port "+port, "no reason", "log")
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A port of our name that is not ours is reported, and left alone.
func TestPortOfOurNameIsForeign(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	port := portName(a)
	r.vsctl("add-port", testBridge, port, "--", "set", "Interface", port, "type=dpdkvhostuser", "external_ids:plexus-owner=/var/lib/other",
		"external_ids:plexus-sandbox="+sandbox, "external_ids:plexus-ifname=net1", "error=no-device")
	before := r.world()
	_, err := a.Network.Prepare(bounded(t), a)
	wantError(t, err, "interface "+port+" already", "no-device", "ovs-vsctl del-port "+port)
	wantError(t, d.Attach(bounded(t), only(a)), "constraint violation", port)
	mustDetach(t, d, a)
	mustDetach(t, d, unrecorded(a))
	sameWorld(t, before, r.world())
}

// CHECK names the column that was changed.
func TestCheckNamesTheDifference(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	a := r.attachment(d, sandbox, map[string]any{"vlan": 7, "trunk": []int{10, 20}, "mtu": 1500, "mac": "02:00:00:00:00:01"})
	mustAttach(t, d, a)
	port, socket := portName(a), filepath.Join(r.dir, shareddir.OwnName(sandbox), sandbox[:12]+"-net1")
	if err := a.Network.Check(bounded(t), a); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ change, back, says string }{
		{"set Port P tag=8", "set Port P tag=7", "vlan tag is 8, was 7"},
		{"clear Port P tag", "set Port P tag=7", "vlan tag is none, was 7"},
		{"set Port P trunks=30", "set Port P trunks=20,10", "trunks is 30, was 10,20"},
		{"set Port P vlan_mode=access", "set Port P vlan_mode=native-untagged", "vlan_mode is access, was native-untagged"},
		{"set Interface P mtu_request=9000", "set Interface P mtu_request=1500", "mtu_request is 9000, was 1500"},
		{"set Interface P type=internal", "set Interface P type=dpdkvhostuserclient", "type is internal, was dpdkvhostuserclient"},
		{"set Interface P options:vhost-server-path=/x", "set Interface P options:vhost-server-path=" + socket, "vhost-server-path is /x, was " + socket},
		{"clear Interface P ofport", "set Interface P ofport=1", "not open"},
		{"remove Interface P external_ids plexus-owner", "set Interface P external_ids:plexus-owner=" + testOwner, "marks of ownership"},
	} {
		r.vsctl(strings.Fields(strings.ReplaceAll(c.change, " P ", " "+port+" "))...)
		wantError(t, a.Network.Check(bounded(t), a), port, c.says)
		r.vsctl(strings.Fields(strings.ReplaceAll(c.back, " P ", " "+port+" "))...)
		if err := a.Network.Check(bounded(t), a); err != nil {
			t.Errorf("after %s: %v", c.back, err)
		}
	}
	r.vsctl("add-br", "br-other", "--", "del-port", port)
	wantError(t, a.Network.Check(bounded(t), a), port, "gone")
	mustDetach(t, d, a)
}

// The folder of the vswitch's sockets is read from OVSDB.
func TestServerSocketFolder(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	beside := filepath.Dir(strings.TrimPrefix(r.address, "unix:"))
	outside := tempDir(t)
	for _, place := range []string{beside + "/vhu1", beside + "/vhost/vhu1", outside + "/vhu1"} {
		if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
			t.Fatal(err)
		}
		socketAt(t, place)
	}
	symlink(t, outside, beside+"/link")
	for dir, want := range map[string]string{
		"": beside + "/vhu1", "vhost": beside + "/vhost/vhu1", "/vhost/": beside + "/vhost/vhu1",
		"../" + filepath.Base(outside): "", outside: "", "link": "", "vhost/../..": "", "none": "",
	} {
		if dir != "" {
			r.vsctl("set", "Open_vSwitch", ".", "other_config:vhost-sock-dir="+dir)
		}
		folder, err := d.socketFolder(bounded(t), r.address)
		wantErrorNone(t, err)
		got, err := folder.open("vhu1")
		switch {
		case want == "":
			wantError(t, err, "vhu1", "vhost-sock-dir")
		case err != nil || got.Name() != want:
			t.Errorf("%q: %v, %v, want %s", dir, got, err, want)
		}
		if got != nil {
			got.Close()
		}
		r.vsctl("clear", "Open_vSwitch", ".", "other_config")
	}
	_, err := d.socketFolder(bounded(t), "tcp:127.0.0.1:6640")
	wantError(t, err, `"ovsdb"`, "unix:PATH")
}

// DEL waits for the vswitch to act on the removal of a bridge, but not forever.
func TestDelAwaitsTheBridge(t *testing.T) {
	for _, acts := range []bool{true, false} {
		r := newRig(t)
		before := r.world()
		d := newDelegate(t)
		a := r.attachment(d, sandbox, nil)
		mustAttach(t, d, a)
		r.vsctl("set", "Open_vSwitch", ".", "next_cfg=5", "cur_cfg=5")
		r.wire.arm(0, "")
		done := make(chan error)
		go func() { done <- d.Detach(bounded(t), only(a))[0] }()
		if acts {
			r.vsctl("wait-until", "Open_vSwitch", ".", "next_cfg=6", "--", "set", "Open_vSwitch", ".", "cur_cfg=6")
		}
		if err := <-done; err != nil {
			t.Errorf("the vswitch acts: %v: %v", acts, err)
		}
		if !acts && r.wire.count("wait Open_vSwitch") != 1 {
			t.Errorf("DEL does not wait: %q", r.wire.seen())
		}
		sameWorld(t, before, r.world())
	}
}

// A step that is refused is not made.
func TestStepRefused(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	stop := delegates.WithSteps(t.Context(), func(step string) error { return context.Canceled })
	if err := d.Attach(stop, only(a)); !errors.Is(err, context.Canceled) {
		t.Errorf("Attach goes on: %v", err)
	}
	sameWorld(t, before, r.world())
}
