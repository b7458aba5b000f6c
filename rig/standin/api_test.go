package standin_test

import (
	"fmt"
	"strings"
	"testing"

	"go.fd.io/govpp/api"
	"go.fd.io/govpp/binapi/ethernet_types"
	"go.fd.io/govpp/binapi/fib_types"
	interfaces "go.fd.io/govpp/binapi/interface"
	"go.fd.io/govpp/binapi/interface_types"
	"go.fd.io/govpp/binapi/ip"
	"go.fd.io/govpp/binapi/ip_types"
	"go.fd.io/govpp/binapi/l2"
	"go.fd.io/govpp/binapi/memclnt"
	binmemif "go.fd.io/govpp/binapi/memif"
	"go.fd.io/govpp/binapi/tapv2"
	"go.fd.io/govpp/binapi/vhost_user"
	"go.fd.io/govpp/binapi/vpe"

	"github.com/plexus-cni/plexus/rig/standin"
)

// wanted is every message plexus may use.
func wanted() []api.Message {
	return []api.Message{
		&memclnt.ControlPing{}, &memclnt.ControlPingReply{}, &vpe.ShowVersion{}, &vpe.ShowVersionReply{},
		&binmemif.MemifSocketFilenameAddDelV2{}, &binmemif.MemifSocketFilenameAddDelV2Reply{},
		&binmemif.MemifSocketFilenameDump{}, &binmemif.MemifSocketFilenameDetails{},
		&binmemif.MemifCreateV2{}, &binmemif.MemifCreateV2Reply{}, &binmemif.MemifDelete{}, &binmemif.MemifDeleteReply{},
		&binmemif.MemifDump{}, &binmemif.MemifDetails{},
		&interfaces.SwInterfaceSetFlags{}, &interfaces.SwInterfaceSetMtu{}, &interfaces.HwInterfaceSetMtu{},
		&interfaces.SwInterfaceSetMacAddress{}, &interfaces.SwInterfaceAddDelAddress{}, &interfaces.SwInterfaceSetTable{},
		&interfaces.SwInterfaceGetTable{}, &interfaces.SwInterfaceTagAddDel{}, &interfaces.SwInterfaceDump{}, &interfaces.SwInterfaceDetails{},
		&interfaces.WantInterfaceEvents{}, &interfaces.SwInterfaceEvent{}, &interfaces.CreateVlanSubif{}, &interfaces.DeleteSubif{},
		&l2.BridgeDomainAddDelV2{}, &l2.BridgeDomainDump{}, &l2.BridgeDomainDetails{}, &l2.SwInterfaceSetL2Bridge{},
		&l2.L2InterfaceVlanTagRewrite{},
		&ip.IPTableAddDel{}, &ip.IPTableAddDelV2{}, &ip.IPTableDump{}, &ip.IPRouteAddDel{}, &ip.IPRouteDump{}, &ip.IPAddressDump{},
		&vhost_user.CreateVhostUserIfV2{}, &vhost_user.DeleteVhostUserIf{}, &vhost_user.SwInterfaceVhostUserDump{},
		&tapv2.TapCreateV3{}, &tapv2.TapDeleteV2{}, &tapv2.SwInterfaceTapV2Dump{},
	}
}

func TestCompatible(t *testing.T) {
	r := newRig(t, standin.Options{Version: "24.10-x"})
	if err := r.ch.CheckCompatiblity(wanted()...); err != nil {
		t.Error(err)
	}
	if err := r.ch.CheckCompatiblity(&interfaces.CreateLoopback{}); err == nil {
		t.Error("a message the stand-in does not know is compatible")
	}
	reply := &vpe.ShowVersionReply{}
	r.do(&vpe.ShowVersion{}, reply)
	if reply.Program != "stand-in" || reply.Version != "24.10-x" {
		t.Errorf("version: %+v", reply)
	}
	odd := newRig(t, standin.Options{CRC: map[string]string{"memif_create_v2": "deadbeef", "memif_dump": ""}})
	err := odd.ch.CheckCompatiblity(wanted()...)
	if err == nil || !strings.Contains(err.Error(), "2/") {
		t.Errorf("two incompatible messages: %v", err)
	}
	if _, err := standin.Start(t.Context(), t.TempDir(), standin.Options{CRC: map[string]string{"memif_crate": ""}}); err == nil {
		t.Error("a CRC for no message is taken")
	}
}

func TestSockets(t *testing.T) {
	r := newRig(t, standin.Options{})
	add := func(id uint32, file string) (uint32, int32) {
		reply := &binmemif.MemifSocketFilenameAddDelV2Reply{}
		code := r.retval(&binmemif.MemifSocketFilenameAddDelV2{IsAdd: true, SocketID: id, SocketFilename: file}, reply)
		return reply.SocketID, code
	}
	type result struct {
		id   uint32
		code int32
	}
	for _, c := range []struct {
		id   uint32
		file string
		want result
	}{
		{unset, "/x/a", result{1, 0}}, {unset, "/x/a", result{2, 0}}, {7, "/x/b", result{7, 0}}, {7, "/x/b", result{7, 0}},
		{7, "/x/c", result{7, int32(api.ENTRY_ALREADY_EXISTS)}}, {unset, "", result{3, int32(api.INVALID_ARGUMENT)}},
		{0, "/x/d", result{0, int32(api.INVALID_ARGUMENT)}}, {unset, "sub/rel", result{3, 0}},
	} {
		if id, code := add(c.id, c.file); (result{id, code}) != c.want {
			t.Errorf("add socket %d %q: id %d code %d, want %v", c.id, c.file, id, code, c.want)
		}
	}
	var got []string
	for _, d := range dump[binmemif.MemifSocketFilenameDetails](r, &binmemif.MemifSocketFilenameDump{}) {
		got = append(got, fmt.Sprintf("%d=%s", d.SocketID, d.SocketFilename))
	}
	run := r.path("run")
	if want := fmt.Sprintf("[0=%s/memif.sock 1=/x/a 2=/x/a 3=%s/sub/rel 7=/x/b]", run, run); fmt.Sprint(got) != want {
		t.Errorf("sockets are %v, want %s", got, want)
	}
	del := func(id uint32) *binmemif.MemifSocketFilenameAddDelV2 {
		return &binmemif.MemifSocketFilenameAddDelV2{SocketID: id}
	}
	reply := &binmemif.MemifSocketFilenameAddDelV2Reply{}
	r.do(del(7), reply)
	r.refused(int32(api.INVALID_ARGUMENT), del(7), reply)
	r.refused(int32(api.INVALID_ARGUMENT), del(0), reply)
	i, _ := r.create(&binmemif.MemifCreateV2{SocketID: 3})
	r.refused(-74, del(3), reply)
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	r.do(del(3), reply)
}

func TestMemifCodes(t *testing.T) {
	r := newRig(t, standin.Options{})
	s := r.addSocket(r.path("s"))
	create := func(m binmemif.MemifCreateV2, wantIndex index, wantCode int32) {
		t.Helper()
		m.SocketID = max(m.SocketID, s)
		if i, code := r.create(&m); code != wantCode || (code == 0 && i != wantIndex) {
			t.Errorf("create %+v: index %d code %d, want %d, %d", m, i, code, wantIndex, wantCode)
		}
	}
	client := binmemif.MEMIF_ROLE_API_SLAVE
	create(binmemif.MemifCreateV2{SocketID: 99}, 0, int32(api.INVALID_ARGUMENT))
	create(binmemif.MemifCreateV2{RingSize: 1000}, 0, int32(api.INVALID_ARGUMENT))
	create(binmemif.MemifCreateV2{}, 1, 0)
	create(binmemif.MemifCreateV2{}, 0, -68)
	create(binmemif.MemifCreateV2{ID: 1, Role: client}, 0, -68)
	create(binmemif.MemifCreateV2{ID: 1, Mode: binmemif.MEMIF_MODE_API_IP}, 2, 0)
	create(binmemif.MemifCreateV2{ID: 2, HwAddr: ethernet_types.MacAddress{2, 1, 2, 3, 4, 5}}, 3, 0)
	for _, i := range []index{2, 1} {
		r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	}
	r.refused(-2, &binmemif.MemifDelete{SwIfIndex: 1}, &binmemif.MemifDeleteReply{})
	r.refused(-2, &binmemif.MemifDelete{SwIfIndex: 0}, &binmemif.MemifDeleteReply{})
	create(binmemif.MemifCreateV2{ID: 5}, 1, 0) // the lowest free index
	all := dump[binmemif.MemifDetails](r, &binmemif.MemifDump{})
	if len(all) != 2 || all[0].SwIfIndex != 1 || all[0].ID != 5 || all[0].RingSize != 1 || all[0].BufferSize != 0 ||
		all[0].IfName != fmt.Sprintf("memif%d/5", s) || all[1].HwAddr != (ethernet_types.MacAddress{2, 1, 2, 3, 4, 5}) ||
		all[0].Role != binmemif.MEMIF_ROLE_API_MASTER || all[0].SocketID != s {
		t.Errorf("memifs: %+v", all)
	}
}

func TestBridgeCodes(t *testing.T) {
	r := newRig(t, standin.Options{})
	reply := &l2.BridgeDomainAddDelV2Reply{}
	add := &l2.BridgeDomainAddDelV2{BdID: 5, IsAdd: true, Learn: true, BdTag: strings.Repeat("b", 63), MacAge: 7}
	r.do(add, reply)
	r.refused(-119, add, reply)
	r.refused(-119, &l2.BridgeDomainAddDelV2{IsAdd: true}, reply)
	r.refused(-6, &l2.BridgeDomainAddDelV2{BdID: 6}, reply)
	r.refused(int32(api.BD_ID_EXCEED_MAX), &l2.BridgeDomainAddDelV2{BdID: 1 << 24, IsAdd: true}, reply)
	r.do(&l2.BridgeDomainAddDelV2{BdID: unset, IsAdd: true}, reply)
	if reply.BdID != 1 {
		t.Errorf("bridge domain %d", reply.BdID)
	}
	i := r.server0(r.path("a"))
	r.join(i, 5)
	r.refused(-120, &l2.BridgeDomainAddDelV2{BdID: 5}, reply)
	r.refused(-2, &l2.SwInterfaceSetL2Bridge{RxSwIfIndex: 77, BdID: 5, Enable: true}, &l2.SwInterfaceSetL2BridgeReply{})
	all := dump[l2.BridgeDomainDetails](r, &l2.BridgeDomainDump{BdID: 5, SwIfIndex: index(unset)})
	if len(all) != 1 || len(all[0].SwIfDetails) != 1 || all[0].SwIfDetails[0].SwIfIndex != i || !all[0].Learn || all[0].Flood ||
		all[0].BdTag != strings.Repeat("b", 63) || all[0].MacAge != 7 {
		t.Errorf("bridge domains: %+v", all)
	}
	r.do(&l2.SwInterfaceSetL2Bridge{RxSwIfIndex: i}, &l2.SwInterfaceSetL2BridgeReply{})
	r.do(&l2.BridgeDomainAddDelV2{BdID: 5}, reply)
	// A member of a bridge domain that is missing makes it.
	r.join(i, 9)
	if n := len(dump[l2.BridgeDomainDetails](r, &l2.BridgeDomainDump{BdID: unset, SwIfIndex: index(unset)})); n != 2 {
		t.Errorf("%d bridge domains", n)
	}
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{}) // leaves it
	r.do(&l2.BridgeDomainAddDelV2{BdID: 9}, reply)
}

func TestInterfaceCodes(t *testing.T) {
	r := newRig(t, standin.Options{})
	for _, m := range []struct{ request, reply api.Message }{
		{&interfaces.SwInterfaceSetFlags{SwIfIndex: 9}, &interfaces.SwInterfaceSetFlagsReply{}},
		{&interfaces.SwInterfaceSetMtu{SwIfIndex: 9, Mtu: []uint32{1, 2, 3, 4}}, &interfaces.SwInterfaceSetMtuReply{}},
		{&interfaces.HwInterfaceSetMtu{SwIfIndex: 9}, &interfaces.HwInterfaceSetMtuReply{}},
		{&interfaces.SwInterfaceSetMacAddress{SwIfIndex: 9}, &interfaces.SwInterfaceSetMacAddressReply{}},
		{&interfaces.SwInterfaceAddDelAddress{SwIfIndex: 9}, &interfaces.SwInterfaceAddDelAddressReply{}},
		{&interfaces.SwInterfaceSetTable{SwIfIndex: 9}, &interfaces.SwInterfaceSetTableReply{}},
		{&interfaces.SwInterfaceTagAddDel{SwIfIndex: 9, IsAdd: true, Tag: "x"}, &interfaces.SwInterfaceTagAddDelReply{}},
		{&interfaces.CreateVlanSubif{SwIfIndex: 9, VlanID: 3}, &interfaces.CreateVlanSubifReply{}},
		{&l2.L2InterfaceVlanTagRewrite{SwIfIndex: 9}, &l2.L2InterfaceVlanTagRewriteReply{}},
		{&vhost_user.DeleteVhostUserIf{SwIfIndex: 9}, &vhost_user.DeleteVhostUserIfReply{}},
		{&tapv2.TapDeleteV2{SwIfIndex: 9}, &tapv2.TapDeleteV2Reply{}},
	} {
		r.refused(-2, m.request, m.reply)
	}
	i := r.server0(r.path("a"))
	r.do(&interfaces.SwInterfaceTagAddDel{SwIfIndex: i, IsAdd: true, Tag: strings.Repeat("t", 64)}, &interfaces.SwInterfaceTagAddDelReply{})
	r.do(&interfaces.SwInterfaceSetMtu{SwIfIndex: i, Mtu: []uint32{1400, 1, 2, 3}}, &interfaces.SwInterfaceSetMtuReply{})
	mac := ethernet_types.MacAddress{2, 9, 9, 9, 9, 9}
	r.do(&interfaces.SwInterfaceSetMacAddress{SwIfIndex: i, MacAddress: mac}, &interfaces.SwInterfaceSetMacAddressReply{})
	vlan := &interfaces.CreateVlanSubifReply{}
	r.do(&interfaces.CreateVlanSubif{SwIfIndex: i, VlanID: 30}, vlan)
	r.refused(int32(api.VLAN_ALREADY_EXISTS), &interfaces.CreateVlanSubif{SwIfIndex: i, VlanID: 30}, &interfaces.CreateVlanSubifReply{})
	r.refused(int32(api.INVALID_VLAN), &interfaces.CreateVlanSubif{SwIfIndex: i, VlanID: 4096}, &interfaces.CreateVlanSubifReply{})
	r.refused(int32(api.INVALID_SUB_SW_IF_INDEX), &interfaces.DeleteSubif{SwIfIndex: i}, &interfaces.DeleteSubifReply{})
	all := dump[interfaces.SwInterfaceDetails](r, &interfaces.SwInterfaceDump{SwIfIndex: index(unset)})
	if len(all) != 3 || all[0].InterfaceName != "local0" || all[1].Tag != strings.Repeat("t", 63) || all[1].Mtu[0] != 1400 ||
		all[1].L2Address != mac || all[1].Flags != interface_types.IF_STATUS_API_FLAG_ADMIN_UP || all[2].SubOuterVlanID != 30 ||
		all[2].SupSwIfIndex != uint32(i) || all[2].SwIfIndex != vlan.SwIfIndex || all[2].InterfaceName != all[1].InterfaceName+".30" {
		t.Errorf("interfaces: %+v", all)
	}
	some := dump[interfaces.SwInterfaceDetails](r, &interfaces.SwInterfaceDump{NameFilterValid: true, NameFilter: "MEMIF"})
	if len(some) != 2 {
		t.Errorf("%d interfaces have memif in their name", len(some))
	}
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	if all := dump[interfaces.SwInterfaceDetails](r, &interfaces.SwInterfaceDump{SwIfIndex: index(unset)}); len(all) != 1 {
		t.Errorf("interfaces after deletion: %+v", all)
	}
}

func TestAddressesTablesRoutes(t *testing.T) {
	r := newRig(t, standin.Options{})
	before := r.server.State()
	i := r.server0(r.path("a"))
	prefix := func(s string) ip_types.AddressWithPrefix {
		p, err := ip_types.ParseAddressWithPrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	address := func(add bool, s string) *interfaces.SwInterfaceAddDelAddress {
		return &interfaces.SwInterfaceAddDelAddress{SwIfIndex: i, IsAdd: add, Prefix: prefix(s)}
	}
	reply := &interfaces.SwInterfaceAddDelAddressReply{}
	set := &interfaces.SwInterfaceSetTable{SwIfIndex: i, VrfID: 7}
	setReply := &interfaces.SwInterfaceSetTableReply{}
	r.refused(int32(api.NO_SUCH_FIB), set, setReply)
	r.do(&ip.IPTableAddDelV2{IsAdd: true, Table: ip.IPTable{TableID: 7, Name: "seven"}}, &ip.IPTableAddDelV2Reply{})
	r.do(set, setReply)
	r.do(address(true, "10.0.0.1/24"), reply)
	r.refused(int32(api.ADDRESS_IN_USE), address(true, "10.0.0.1/24"), reply)
	r.refused(int32(api.ADDRESS_IN_USE), address(true, "10.0.0.1/16"), reply)
	r.refused(int32(api.ADDRESS_NOT_FOUND_FOR_INTERFACE), address(false, "10.0.0.2/24"), reply)
	r.refused(int32(api.ADDRESS_FOUND_FOR_INTERFACE), set, setReply)
	r.do(address(true, "2001:db8::1/64"), reply)
	for ipv6, want := range map[bool]string{false: "10.0.0.1/24", true: "2001:db8::1/64"} {
		all := dump[ip.IPAddressDetails](r, &ip.IPAddressDump{SwIfIndex: i, IsIPv6: ipv6})
		if len(all) != 1 || all[0].Prefix.String() != want {
			t.Errorf("addresses: %+v, want %s", all, want)
		}
	}
	hop, _ := ip_types.ParseIP4Address("10.0.0.9")
	path := fib_types.FibPath{SwIfIndex: uint32(i)}
	path.Nh.Address.SetIP4(hop)
	net, _ := ip_types.ParsePrefix("192.0.2.0/24")
	route := &ip.IPRouteAddDel{IsAdd: true, Route: ip.IPRoute{TableID: 7, Prefix: net, Paths: []fib_types.FibPath{path}}}
	r.do(route, &ip.IPRouteAddDelReply{})
	if text := r.server.State(); !strings.Contains(text, "route ip4 7 192.0.2.0/24 via [10.0.0.9 dev (memif "+r.path("a")+" 0)]\n") {
		t.Errorf("state:\n%s", text)
	}
	found := 0
	for _, d := range dump[ip.IPRouteDetails](r, &ip.IPRouteDump{Table: ip.IPTable{TableID: 7}}) {
		if d.Route.Prefix.String() == "192.0.2.0/24" && len(d.Route.Paths) == 1 {
			found++
		}
	}
	if found != 1 {
		t.Errorf("the route is dumped %d times", found)
	}
	route.Route.TableID = 8
	r.refused(int32(api.NO_SUCH_FIB), route, &ip.IPRouteAddDelReply{})
	r.do(&ip.IPTableAddDelV2{Table: ip.IPTable{TableID: 7}}, &ip.IPTableAddDelV2Reply{}) // in use: it stays
	if n := len(dump[ip.IPTableDetails](r, &ip.IPTableDump{})); n != 3 {
		t.Errorf("%d tables", n)
	}
	r.do(&binmemif.MemifDelete{SwIfIndex: i}, &binmemif.MemifDeleteReply{})
	r.do(&binmemif.MemifSocketFilenameAddDelV2{SocketID: 1}, &binmemif.MemifSocketFilenameAddDelV2Reply{})
	if text := r.server.State(); !strings.Contains(text, "route ip4 7 192.0.2.0/24 via [10.0.0.9 dev (deleted)]\n") {
		t.Errorf("the route went with its interface:\n%s", text)
	}
	route.IsAdd, route.Route.TableID = false, 7
	route.Route.Paths = nil
	r.do(route, &ip.IPRouteAddDelReply{})
	if after := r.server.State(); after != before {
		t.Errorf("state afterwards:\n%sbefore:\n%s", after, before)
	}
}
