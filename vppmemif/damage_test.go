package vppmemif

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	binmemif "go.fd.io/govpp/binapi/memif"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/standin"
)

// damage is a change that an operator makes to the interface of an attachment.
type damage struct {
	name  string
	do    func(by *admin, index interface_types.InterfaceIndex)
	check []string // what CHECK says
	made  []string // what Restore says that it made
}

var bridged = map[string]any{"bridgeDomain": map[string]any{"id": 12}, "mtu": 1400, "mac": "02:00:00:00:00:0A"}

var uplinked = map[string]any{"bridgeDomain": map[string]any{"name": "blue", "uplink": "tap0"}, "vlan": 7}

var routed = map[string]any{"vrf": 5, "addresses": []string{"10.0.0.1/24", "fd00:0::1/64"},
	"routes": []map[string]any{{"dst": "10.1.0.0/16", "gw": "10.0.0.2"}, {"dst": "fd01::/64", "gw": "fd00::2"}}}

var damages = map[string]struct {
	keys map[string]any
	all  []damage
}{
	"bridged": {bridged, []damage{
		{"set down", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: i}, &interfaces.SwInterfaceSetFlagsReply{})
		}, []string{"admin state up is false"}, []string{"admin state up"}},
		{"another mtu", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceSetMtu{SwIfIndex: i, Mtu: []uint32{1300, 0, 0, 0}}, &interfaces.SwInterfaceSetMtuReply{})
		}, []string{"mtu is 1300, was 1400"}, []string{"mtu 1400"}},
		{"another mac", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceSetMacAddress{SwIfIndex: i, MacAddress: ethernet_types.MacAddress{2, 0, 0, 0, 0, 0xb}}, &interfaces.SwInterfaceSetMacAddressReply{})
		}, []string{"mac is 02:00:00:00:00:0b, was 02:00:00:00:00:0a"}, []string{"mac 02:00:00:00:00:0a"}},
		{"taken out of its domain", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i}, &l2.SwInterfaceSetL2BridgeReply{})
		}, []string{"no longer in its bridge domain"}, []string{"membership of bridge domain 12"}},
		{"moved to another domain", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i, BdID: 13, Enable: true}, &l2.SwInterfaceSetL2BridgeReply{})
		}, []string{"no longer in its bridge domain"}, []string{"membership of bridge domain 12"}},
		{"out of its domain, which is deleted", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i}, &l2.SwInterfaceSetL2BridgeReply{})
			by.do(&l2.BridgeDomainAddDelV2{BdID: 12}, &l2.BridgeDomainAddDelV2Reply{})
		}, []string{"no longer in its bridge domain"}, []string{"bridge domain 12", "membership of bridge domain 12"}},
		{"a vlan", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.L2InterfaceVlanTagRewrite{SwIfIndex: i, VtrOp: vtrPush1, PushDot1q: 1, Tag1: 7}, &l2.L2InterfaceVlanTagRewriteReply{})
		}, []string{"vlan is 7, was 0"}, []string{"vlan 0"}},
		{"another tag", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: i, Tag: "by-hand"}, &interfaces.SwInterfaceTagAddDelReply{})
		}, []string{"tag is by-hand, was plexus/"}, []string{"tag plexus/"}},
		{"two tags", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.L2InterfaceVlanTagRewrite{SwIfIndex: i, VtrOp: 2, PushDot1q: 1, Tag1: 7, Tag2: 8}, &l2.L2InterfaceVlanTagRewriteReply{})
		}, []string{"tag rewrite is operation 2, was 0"}, []string{"vlan 0"}},
		{"no tag", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceTagAddDel{SwIfIndex: i}, &interfaces.SwInterfaceTagAddDelReply{})
		}, []string{"tag is , was plexus/"}, []string{"tag plexus/"}},
		{"deleted", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
		}, []string{"gone from VPP"}, []string{"memif 0 on socket "}},
		{"of the other role", func(by *admin, i interface_types.InterfaceIndex) {
			by.replace(i, &binmemif.MemifCreateV2{Role: binmemif.MEMIF_ROLE_API_SLAVE})
		},
			[]string{"role is client, was server", "admin state up is false"}, []string{"memif 0 on socket "}},
		{"of the other mode", func(by *admin, i interface_types.InterfaceIndex) {
			by.replace(i, &binmemif.MemifCreateV2{Mode: binmemif.MEMIF_MODE_API_IP})
		},
			[]string{"mode is ip, was ethernet", "tag is , was"}, []string{"memif 0 on socket "}},
	}},
	"uplinked": {uplinked, []damage{
		{"the uplink down", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.SwInterfaceSetFlags{SwIfIndex: by.named("tap0.7")}, &interfaces.SwInterfaceSetFlagsReply{})
		}, []string{"uplink tap0.7", "gone, or was changed"}, []string{"uplink tap0.7"}},
		{"the uplink out of the domain", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: by.named("tap0.7")}, &l2.SwInterfaceSetL2BridgeReply{})
		}, []string{"uplink tap0.7"}, []string{"uplink tap0.7"}},
		{"the uplink deleted", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&interfaces.DeleteSubif{SwIfIndex: by.named("tap0.7")}, &interfaces.DeleteSubifReply{})
		}, []string{"uplink tap0.7"}, []string{"uplink tap0.7"}},
		{"the uplink keeps its tag", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&l2.L2InterfaceVlanTagRewrite{SwIfIndex: by.named("tap0.7")}, &l2.L2InterfaceVlanTagRewriteReply{})
		}, []string{"uplink tap0.7"}, []string{"uplink tap0.7"}},
	}},
	"routed": {routed, []damage{
		{"no address", func(by *admin, i interface_types.InterfaceIndex) { by.address(i, "10.0.0.1/24", false) },
			[]string{"address 10.0.0.1/24 is gone"}, []string{"address 10.0.0.1/24"}},
		{"no route", func(by *admin, i interface_types.InterfaceIndex) { by.route("fd01::/64", i, "fd00::2", false) },
			[]string{"route fd01::/64 via fd00::2 is gone"}, []string{"route fd01::/64"}},
		{"another vrf", func(by *admin, i interface_types.InterfaceIndex) {
			by.address(i, "10.0.0.1/24", false)
			by.do(&interfaces.SwInterfaceSetTable{SwIfIndex: i}, &interfaces.SwInterfaceSetTableReply{})
			by.address(i, "10.0.0.1/24", true)
		}, []string{"vrf of IPv4 is 0, was 5"}, []string{"vrf 5", "address 10.0.0.1/24"}},
		{"deleted, its routes left", func(by *admin, i interface_types.InterfaceIndex) {
			by.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
		}, []string{"gone from VPP"}, []string{"memif 0 on socket "}},
		{"everything of L3", func(by *admin, i interface_types.InterfaceIndex) {
			by.address(i, "10.0.0.1/24", false)
			by.address(i, "fd00::1/64", false)
			by.route("10.1.0.0/16", i, "10.0.0.2", false)
		}, []string{"address 10.0.0.1/24 is gone", "address fd00::1/64 is gone", "route 10.1.0.0/16 via 10.0.0.2 is gone"},
			[]string{"address 10.0.0.1/24", "address fd00::1/64", "route 10.1.0.0/16"}},
	}},
}

// CHECK names each object that an operator has taken away or changed, and Restore puts it
// back, nothing else: another pod's frames flow on.
func TestDamage(t *testing.T) {
	for kind, group := range damages {
		for _, x := range group.all {
			t.Run(kind+"/"+x.name, func(t *testing.T) {
				r, d := newRig(t, standin.Options{}), newDelegate(t)
				by := r.admin()
				by.table(5)
				r.tap()
				a := r.attachment(sandboxA, group.keys)
				raw := mustAttach(t, d, a)
				other, another := startPod(t, r, d, "b", named("red"), memif.Options{}), startPod(t, r, d, "c", named("red"), memif.Options{})
				other.awaitLink(t)
				another.awaitLink(t)
				before := r.State()
				x.do(by, d.indexOf(t, r, raw))
				wantError(t, d.check(bounded(t), a, raw), x.check...)
				made, err := d.restore(bounded(t), a, raw)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(made, x.made, strings.HasPrefix) {
					t.Errorf("made %q, want %q", made, x.made)
				}
				same(t, shape(before), shape(withoutDomain(r.State(), 13)))
				if err := d.check(bounded(t), a, raw); err != nil {
					t.Error(err)
				}
				if !other.peer.Connected() || !another.peer.Connected() {
					t.Error("another pod has lost its link")
				}
				passes(t, other, another)
				linkUp(t, stateOf(t, raw).Socket, memif.Options{})
			})
		}
	}
}

// The path that a deleted interface leaves is removed before another one is made,
// and the path of another client on that destination stays.
func TestDanglingRoute(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	by := r.admin()
	by.table(5)
	theirs := by.memif(r.dir + "/theirs.sock")
	a := r.attachment(sandboxA, routed)
	raw := mustAttach(t, d, a)
	by.route("10.1.0.0/16", theirs, "10.7.0.2", true)
	before := r.State()
	by.do(&binmemif.MemifDelete{SwIfIndex: d.indexOf(t, r, raw)}, &binmemif.MemifDeleteReply{})
	from := len(r.Messages())
	if _, err := d.restore(bounded(t), a, raw); err != nil {
		t.Fatal(err)
	}
	same(t, sorted(shape(before)), sorted(shape(r.State())))
	for _, m := range r.Messages()[from:] {
		switch content := m.Content.(type) {
		case *binmemif.MemifCreateV2:
			t.Fatal("a path that leads nowhere is left when the interface is made")
		case *ip.IPRouteAddDel:
			if p := content.Route.Paths; content.IsMultipath || !content.IsAdd || len(p) != 1 || p[0].SwIfIndex != uint32(theirs) {
				t.Errorf("%+v", content)
			}
			return
		}
	}
}

// Interfaces of other clients stay as they are, also on the attachment's socket.
func TestRestoreLeavesOthers(t *testing.T) {
	for name, take := range map[string]func(by *admin, socket string){
		"with a tag": func(by *admin, socket string) {
			by.do(&interfaces.SwInterfaceTagAddDel{IsAdd: true, SwIfIndex: by.memif(socket), Tag: "theirs"}, &interfaces.SwInterfaceTagAddDelReply{})
		},
		"of another id": func(by *admin, socket string) {
			s := &binmemif.MemifSocketFilenameAddDelV2Reply{}
			by.do(&binmemif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: newSocketID, SocketFilename: socket}, s)
			by.second(s.SocketID, 5, "theirs")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			keys := named("blue")
			keys["socket"] = map[string]any{"dir": r.dir, "file": "shared.sock"} // a name that others may use
			a := r.attachment(sandboxA, keys)
			raw := mustAttach(t, d, a)
			r.restart()
			r.foreign()
			take(r.admin(), stateOf(t, raw).Socket)
			before := r.world()
			_, err := d.restore(bounded(t), a, raw)
			wantError(t, err, stateOf(t, raw).Socket, "is used by interface memif")
			same(t, before, r.world())
		})
	}
}

// CHECK tells what an operator has added, which is left alone.
func TestAdditions(t *testing.T) {
	for name, c := range map[string]struct {
		keys map[string]any
		do   func(by *admin, index interface_types.InterfaceIndex, domain uint32)
		says string
	}{
		"an address":                         {routed, func(by *admin, i interface_types.InterfaceIndex, _ uint32) { by.address(i, "10.7.0.1/24", true) }, "10.7.0.1/24"},
		"an address where none is asked for": {nil, func(by *admin, i interface_types.InterfaceIndex, _ uint32) { by.address(i, "10.7.0.1/24", true) }, "10.7.0.1/24"},
		"flood of the domain": {map[string]any{"bridgeDomain": map[string]any{"name": "quiet", "flood": false}}, func(by *admin, _ interface_types.InterfaceIndex, domain uint32) {
			by.do(&l2.BridgeFlags{BdID: domain, IsSet: true, Flags: l2.BRIDGE_API_FLAG_FLOOD | l2.BRIDGE_API_FLAG_UU_FLOOD}, &l2.BridgeFlagsReply{})
		}, `"bridgeDomain.flood"`},
		"learn of the domain": {map[string]any{"bridgeDomain": map[string]any{"name": "quiet", "learn": true}}, func(by *admin, _ interface_types.InterfaceIndex, domain uint32) {
			by.do(&l2.BridgeFlags{BdID: domain, Flags: l2.BRIDGE_API_FLAG_LEARN}, &l2.BridgeFlagsReply{})
		}, `"bridgeDomain.learn"`},
	} {
		t.Run(name, func(t *testing.T) {
			r, d := newRig(t, standin.Options{}), newDelegate(t)
			by := r.admin()
			by.table(5)
			a := r.attachment(sandboxA, c.keys)
			raw := mustAttach(t, d, a)
			c.do(by, d.indexOf(t, r, raw), stateOf(t, raw).Domain)
			before := r.world()
			wantError(t, d.check(bounded(t), a, raw), c.says)
			if made, err := d.restore(bounded(t), a, raw); err != nil || len(made) > 0 {
				t.Errorf("restore: %v %v", made, err)
			}
			same(t, before, r.world())
			mustDel(t, d, a, raw)
		})
	}
}

// A vrf where none is asked for is another network: the attachment gets its own again.
func TestVRFWhereNoneIsAskedFor(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	by := r.admin()
	by.table(5)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	before := r.world()
	by.do(&interfaces.SwInterfaceSetTable{SwIfIndex: d.indexOf(t, r, raw), VrfID: 5}, &interfaces.SwInterfaceSetTableReply{})
	wantError(t, d.check(bounded(t), a, raw), "vrf of IPv4 is 5, was 0")
	if made, err := d.restore(bounded(t), a, raw); err != nil || len(made) != 1 {
		t.Errorf("restore: %v %v", made, err)
	}
	same(t, before, r.world())
}

// A network that is to isolate by "flood" or "learn" does not join a domain that floods or
// learns, and gets no memif.
func TestDomainOfOtherProperties(t *testing.T) {
	for key, quiet := range map[string]map[string]any{
		"flood":          {"name": "blue", "flood": false},
		"learn":          {"name": "blue", "learn": false},
		"arpTermination": {"name": "blue", "arpTermination": true},
	} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		mustAttach(t, d, r.attachment(sandboxA, named("blue")))
		a := r.attachment(sandboxB, map[string]any{"bridgeDomain": quiet})
		before := r.world()
		raw, err := d.prepare(bounded(t), a)
		if err != nil {
			t.Fatal(err)
		}
		_, err = add(bounded(t), d, a, raw)
		wantError(t, err, "bridge domain", `"bridgeDomain.`+key+`"`)
		mustDel(t, d, a, raw)
		same(t, before, r.world())
	}
}

// The sandbox's folder is made again; a pod's volume is the pod's.
func TestRestoreFolder(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, named("blue"))
	raw := mustAttach(t, d, a)
	volume := shared(r.attachment(sandboxB, named("blue")), r.dir+"/volume")
	other := mustAttach(t, d, volume)
	before := r.world()
	r.restart()
	for _, dir := range []string{stateOf(t, raw).Dir, r.dir + "/volume"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	made, err := d.restore(bounded(t), a, raw)
	if err != nil || !slices.Contains(made, "folder "+stateOf(t, raw).Dir) {
		t.Errorf("made %q: %v", made, err)
	}
	_, err = d.restore(bounded(t), volume, other)
	wantError(t, err, r.dir+"/volume", "is gone")
	if err := os.Mkdir(r.dir+"/volume", 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := d.restore(bounded(t), volume, other); err != nil {
		t.Error(err)
	}
	same(t, shape(before), shape(r.world()))
}

// A server that nobody can reach, as its socket is gone, is made anew, unless
// somebody is connected.
func TestRestoreDeaf(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	deaf, used := r.attachment(sandboxA, named("blue")), startPod(t, r, d, "b", named("blue"), memif.Options{})
	raw := mustAttach(t, d, deaf)
	used.awaitLink(t)
	before := r.State()
	for _, raw := range [][]byte{raw, used.raw} {
		if err := os.Remove(stateOf(t, raw).Socket); err != nil {
			t.Fatal(err)
		}
	}
	if made, err := d.restore(bounded(t), deaf, raw); err != nil || len(made) != 1 {
		t.Errorf("made %q: %v", made, err)
	}
	linkUp(t, stateOf(t, raw).Socket, memif.Options{})
	if made, err := d.restore(bounded(t), used.subject, used.raw); err != nil || len(made) != 0 {
		t.Errorf("made %q: %v", made, err)
	}
	if !used.peer.Connected() {
		t.Error("the pod has lost its link")
	}
	same(t, shape(before), shape(r.State()))
}

// What people see of an attachment.
func TestInspect(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	r.admin().table(5)
	l2, l3, up := r.attachment(sandboxA, bridged), r.attachment(sandboxB, routed), r.attachment(strings.Repeat("c", 32), uplinked)
	first, second := mustAttach(t, d, l2), mustAttach(t, d, l3)
	r.tap()
	third := mustAttach(t, d, up)
	if got, err := d.inspect(bounded(t), up, third); err != nil || got["uplink"] != "tap0.7" || got["vlan"] != "" {
		t.Errorf("%v: %v", got, err)
	}
	for _, c := range []struct {
		said func() (map[string]string, error)
		want map[string]string
	}{
		{func() (map[string]string, error) { return d.inspect(bounded(t), l2, first) }, map[string]string{
			"interface": "memif1/0", "sw_if_index": "1", "admin": "up", "link": "down", "role": "server", "mode": "ethernet", "id": "0",
			"socket": stateOf(t, first).Socket, "tag": stateOf(t, first).Tag, "mtu": "1400", "mac": "02:00:00:00:00:0a",
			"bridge domain": "12", "bridge domain tag": stateOf(t, first).DomainTag}},
		{func() (map[string]string, error) { return d.inspect(bounded(t), l3, second) }, map[string]string{
			"interface": "memif2/0", "sw_if_index": "2", "admin": "up", "link": "down", "role": "server", "mode": "ethernet", "id": "0",
			"socket": stateOf(t, second).Socket, "tag": stateOf(t, second).Tag, "mtu": "9000", "mac": "02:fe:9a:c1:31:76",
			"vrf": "5", "addresses": "10.0.0.1/24, fd00::1/64", "routes": "10.1.0.0/16 via 10.0.0.2, fd01::/64 via fd00::2"}},
	} {
		got, err := c.said()
		if err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%v, want %v: %v", got, c.want, err)
		}
	}
	r.restart()
	if got, err := d.inspect(bounded(t), l2, first); err != nil || got["interface"] != "missing" {
		t.Errorf("%v: %v", got, err)
	}
}

// indexOf is the number of an attachment's interface.
func (d *Delegate) indexOf(t *testing.T, r *rig, raw []byte) interface_types.InterfaceIndex {
	t.Helper()
	s, err := d.open(bounded(t), r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	snap, err := s.snapshot(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for index, link := range snap.interfaces {
		if link.Tag == stateOf(t, raw).Tag {
			return index
		}
	}
	t.Fatal("it has no interface")
	return 0
}

// replace deletes a memif and makes another one on its socket.
func (a *admin) replace(index interface_types.InterfaceIndex, m *binmemif.MemifCreateV2) {
	a.t.Helper()
	a.do(&binmemif.MemifDelete{SwIfIndex: index}, &binmemif.MemifDeleteReply{})
	m.SocketID = 1 // the attachment is the first
	a.do(m, &binmemif.MemifCreateV2Reply{})
}

func (a *admin) address(index interface_types.InterfaceIndex, text string, add bool) {
	a.t.Helper()
	p, err := ip_types.ParseAddressWithPrefix(text)
	if err != nil {
		a.t.Fatal(err)
	}
	a.do(&interfaces.SwInterfaceAddDelAddress{SwIfIndex: index, IsAdd: add, Prefix: p}, &interfaces.SwInterfaceAddDelAddressReply{})
}

func (a *admin) route(dst string, index interface_types.InterfaceIndex, gw string, add bool) {
	a.t.Helper()
	prefix, err := ip_types.ParsePrefix(dst)
	if err != nil {
		a.t.Fatal(err)
	}
	path := pathOf(5, route{netip.MustParsePrefix(dst), netip.MustParseAddr(gw)}, index)
	a.do(&ip.IPRouteAddDel{IsAdd: add, IsMultipath: true, Route: ip.IPRoute{TableID: 5, Prefix: prefix, NPaths: 1, Paths: []fib_types.FibPath{path}}}, &ip.IPRouteAddDelReply{})
}

// withoutDomain is a state without a domain that somebody made by joining it.
func withoutDomain(state string, id int) string {
	return regexp.MustCompile(fmt.Sprintf(`(?m)^bridge-domain %d .*\n`, id)).ReplaceAllString(state, "")
}

// sorted is a state whose routes have their paths in one order.
func sorted(state string) string {
	return regexp.MustCompile(`via \[.*\]`).ReplaceAllStringFunc(state, func(via string) string {
		words := strings.Fields(strings.Trim(via, "via []"))
		slices.Sort(words)
		return strings.Join(words, " ")
	})
}
