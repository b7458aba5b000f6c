package ovsdpdk

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// Prepare and Ready say what the vswitch lacks, and change nothing.
func TestVswitchWillNotDo(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	before := r.world()
	want := func(keys map[string]any, words ...string) {
		t.Helper()
		a := r.attachment(sandbox, keys)
		_, err := d.Prepare(bounded(t), a)
		wantError(t, err, words...)
		wantError(t, d.Ready(bounded(t), a.Conf), words...)
	}
	want(map[string]any{"createBridge": nil}, `"bridge"`, "no bridge "+testBridge, "datapath_type=netdev", "createBridge")
	r.vsctl("add-br", "br-kernel")
	want(map[string]any{"bridge": "br-kernel"}, `"bridge"`, "br-kernel", `datapath_type ""`, "netdev")
	r.vsctl("set", "Bridge", "br-kernel", "datapath_type=system")
	want(map[string]any{"bridge": "br-kernel"}, "br-kernel", `"system"`, "netdev")
	r.vsctl("del-br", "br-kernel")
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=false")
	want(nil, r.address, "not initialised DPDK", "dpdk-init=true")
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=true")
	if err := d.Ready(bounded(t), r.config(nil)); err != nil {
		t.Errorf("all is well: %v", err)
	}
	wantError(t, d.Ready(bounded(t), json.RawMessage(`{"bridge": ""}`)), `"bridge"`)
	sameWorld(t, before, r.world())
}

// A bridge that became unfit between Prepare and Settle is not used.
func TestBridgeChangesMeanwhile(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d, a := newDelegate(t), r.attachment(sandbox, map[string]any{"createBridge": nil})
	raw := mustPrepare(t, d, a)
	r.vsctl("del-br", testBridge)
	wantError(t, addAndSettle(t, d, a, raw), "no bridge "+testBridge)
	r.vsctl("add-br", testBridge)
	wantError(t, addAndSettle(t, d, a, raw), "bridges changed")
	mustDel(t, d, a, raw)
}

// The vswitch's own words reach the user.
func TestPortDoesNotOpen(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	port := portName(a)
	r.wire.opens = map[string]any{"ofport": -1, "error": "could not open network device"}
	wantError(t, addAndSettle(t, d, a, raw), "net1", "default/fast", "cannot open port "+port, "could not open network device")
	wantError(t, d.Check(bounded(t), a, raw), port, "not open in ovs-vswitchd", "could not open network device")
	mustDel(t, d, a, raw)
	r.wire.opens = map[string]any{"ofport": -1}
	raw, err := attach(t, d, a)
	wantError(t, err, "cannot open port "+port, "no reason", "log")
	mustDel(t, d, a, raw)
	sameWorld(t, before, r.world())
}

// A port of our name that is not ours is reported, and left alone.
func TestPortOfOurNameIsForeign(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	port := portName(a)
	r.vsctl("add-port", testBridge, port, "--", "set", "Interface", port, "type=dpdkvhostuser", "external_ids:plexus-owner=/var/lib/other",
		"external_ids:plexus-sandbox="+sandbox, "external_ids:plexus-ifname=net1", "error=no-device")
	before := r.world()
	_, err := d.Prepare(bounded(t), a)
	wantError(t, err, "interface "+port+" already", "no-device", "ovs-vsctl del-port "+port)
	wantError(t, addAndSettle(t, d, a, raw), "constraint violation", port)
	mustDel(t, d, a, raw)
	mustDel(t, d, a, nil)
	sameWorld(t, before, r.world())
}

// CHECK names what was changed.
func TestCheckNamesTheDifference(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	a := r.attachment(sandbox, map[string]any{"vlan": 7, "trunk": []int{10, 20}, "mtu": 1500, "mac": "02:00:00:00:00:01"})
	raw := mustAttach(t, d, a)
	port, socket := portName(a), filepath.Join(r.dir, shareddir.OwnName(sandbox), sandbox[:12]+"-net1")
	if err := d.Check(bounded(t), a, raw); err != nil {
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
		wantError(t, d.Check(bounded(t), a, raw), port, c.says)
		r.vsctl(strings.Fields(strings.ReplaceAll(c.back, " P ", " "+port+" "))...)
		if err := d.Check(bounded(t), a, raw); err != nil {
			t.Errorf("after %s: %v", c.back, err)
		}
	}
	r.vsctl("add-br", "br-other", "--", "del-port", port)
	wantError(t, d.Check(bounded(t), a, raw), port, "gone")
	mustDel(t, d, a, raw)
}

// Where the vswitch keeps its sockets is asked of it.
func TestServerSocketFolder(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	s := &state{OVSDB: r.address, Port: "vhu1"}
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
		got, err := d.serverSocket(bounded(t), s)
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
	_, err := d.serverSocket(bounded(t), &state{OVSDB: "tcp:127.0.0.1:6640", Port: "vhu1"})
	wantError(t, err, `"ovsdb"`, "unix:PATH")
}

// DEL waits for the vswitch to act on the removal of a bridge, but not forever.
func TestDelAwaitsTheBridge(t *testing.T) {
	for _, acts := range []bool{true, false} {
		r := newRig(t)
		before := r.world()
		d, a := newDelegate(t), r.attachment(sandbox, nil)
		raw := mustAttach(t, d, a)
		r.vsctl("set", "Open_vSwitch", ".", "next_cfg=5", "cur_cfg=5")
		r.wire.arm(0, "")
		done := make(chan error)
		go func() { done <- d.Del(bounded(t), a, raw) }()
		if acts {
			r.vsctl("wait-until", "Open_vSwitch", ".", "next_cfg=6", "--", "set", "Open_vSwitch", ".", "cur_cfg=6")
		}
		if err := <-done; err != nil {
			t.Errorf("the vswitch acts: %v: %v", acts, err)
		}
		if seen := r.wire.seen(); len(seen) < 2 || !acts && !strings.HasPrefix(seen[2], "wait Open_vSwitch") {
			t.Errorf("DEL does not wait: %q", seen)
		}
		sameWorld(t, before, r.world())
	}
}

// A step that is refused is not made.
func TestStepRefused(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	stop := conf.WithSteps(t.Context(), func(step string) error { return context.Canceled })
	if _, err := d.Add(stop, a, raw); err == nil {
		t.Error("Add goes on")
	}
	if d.Settle(stop, []conf.Prepared{{Attachment: a, State: raw}}) == nil {
		t.Error("Settle goes on")
	}
	sameWorld(t, before, r.world())
}
