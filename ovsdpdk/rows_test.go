package ovsdpdk

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// inWords says what operations do to ports and bridges.
func inWords(ops []ovsdb.Operation) string {
	var words []string
	for _, op := range ops {
		for _, m := range op.Mutations {
			if m.Column != "next_cfg" {
				words = append(words, fmt.Sprintf("%s %v %s %v", op.Table, op.Where[0].Value, m.Mutator, m.Value.(ovsdb.OvsSet).GoSet))
			}
		}
	}
	return strings.Join(words, "; ")
}

// noUUID is in the condition that every row meets.
const noUUID = "00000000-0000-0000-0000-000000000000"

func testPort(c *Config, mode string) *port {
	a := &delegates.Attachment{Sandbox: "s", IfName: "net1", Name: "default/fast", Owner: testOwner, State: []byte(`{"port":"p"}`), Pod: &conf.Pod{Namespace: "default", Name: "pod"}}
	return &port{Attachment: a, state: &state{Port: "p", Bridge: "br", Mode: mode, Socket: "/run/x/sock"}, network: &network{Config: c}}
}

func number(n int) *int { return &n }

func TestPortRowsVLAN(t *testing.T) {
	for _, c := range []struct {
		name   string
		config Config
		want   string // tag, trunks, vlan_mode
	}{
		{"neither", Config{}, "<nil> <nil> <nil>"},
		{"access", Config{VLAN: number(7)}, "7 <nil> access"},
		{"VLAN 0", Config{VLAN: number(0)}, "0 <nil> access"},
		{"trunk", Config{Trunk: Trunks{10, 20}}, "<nil> {[10 20]} trunk"},
		{"trunk of all", Config{Trunk: Trunks{}}, "<nil> {[]} trunk"},
		{"both", Config{VLAN: number(7), Trunk: Trunks{10}}, "7 {[10]} native-untagged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := portRows(testPort(&c.config, modeClient), "0")[1].Row
			if got := fmt.Sprintf("%v %v %v", row["tag"], row["trunks"], row["vlan_mode"]); got != c.want {
				t.Errorf("tag, trunks, vlan_mode: %s, want %s", got, c.want)
			}
		})
	}
}

func TestPortRowsInterface(t *testing.T) {
	client := portRows(testPort(&Config{MTU: 9000, MAC: "02:00:00:00:00:01"}, modeClient), "3")
	iface, ids := client[0].Row, strMap(client[0].Row, "external_ids")
	if iface["type"] != "dpdkvhostuserclient" || strMap(iface, "options")["vhost-server-path"] != "/run/x/sock" {
		t.Errorf("client: type %v options %v", iface["type"], iface["options"])
	}
	if iface["mtu_request"] != 9000 || ids["attached-mac"] != "02:00:00:00:00:01" {
		t.Errorf("mtu_request %v, attached-mac %q", iface["mtu_request"], ids["attached-mac"])
	}
	want := map[string]string{markOwner: testOwner, markSandbox: "s", markIfName: "net1", markPod: "default/pod", markNetwork: "default/fast"}
	for i, row := range []ovsdb.Row{iface, client[1].Row} {
		have := strMap(row, "external_ids")
		for k, v := range want {
			if have[k] != v {
				t.Errorf("row %d: mark %s is %q, want %q", i, k, have[k], v)
			}
		}
	}
	if ids[markState] != `{"port":"p"}` {
		t.Errorf("the state on the interface is %q", ids[markState])
	}
	if client[0].UUIDName != "iface3" || client[1].UUIDName != "port3" || client[1].Row["interfaces"] != named("iface3") {
		t.Error("port and interface do not refer to each other")
	}
	server := portRows(testPort(&Config{}, modeServer), "")[0].Row
	if _, has := server["options"]; server["type"] != "dpdkvhostuser" || has {
		t.Errorf("server: type %v options %v, want no path: the vswitch chooses it", server["type"], server["options"])
	}
	if _, has := server["mtu_request"]; has {
		t.Error("an mtu nobody asked for")
	}
	if _, has := strMap(server, "external_ids")["attached-mac"]; has {
		t.Error("a mac nobody asked for")
	}
}

// The operations that need one another stand in one transaction.
func TestInsertion(t *testing.T) {
	a, b := testPort(&Config{}, modeClient), testPort(&Config{CreateBridge: true}, modeServer)
	b.state = &state{Port: "q", Bridge: "other", Mode: modeServer}
	ops, guards, err := insertion([]*port{a, b}, map[string]bool{"br": true})
	if err != nil {
		t.Fatal(err)
	}
	guarded := false
	for at, p := range guards {
		guarded = guarded || p == a
		if ops[at].Op != ovsdb.OperationWait || ops[at].Table != "Interface" || ops[at].Rows[0]["name"] != p.Port {
			t.Errorf("operation %d does not guard the socket of %s: %+v", at, p.Port, ops[at])
		}
	}
	if !guarded {
		t.Error("nothing guards the client's socket")
	}
	names := map[string]bool{}
	for _, op := range ops {
		if op.UUIDName != "" && names[op.UUIDName] {
			t.Errorf("two rows are called %s", op.UUIDName)
		}
		names[op.UUIDName] = true
	}
	made := slices.IndexFunc(ops, func(op ovsdb.Operation) bool { return op.Op == ovsdb.OperationInsert && op.Table == "Bridge" })
	want := fmt.Sprintf("Bridge br insert [{port0}]; Open_vSwitch {%s} insert [{%s}]", noUUID, ops[made].UUIDName)
	if got := inWords(ops); got != want {
		t.Errorf("does %q, want %q", got, want)
	}
	if row := ops[made].Row; row["name"] != "other" || row["datapath_type"] != "netdev" || strMap(row, "external_ids")[markOwner] != testOwner {
		t.Errorf("the bridge that is made: %v", row)
	}
	_, _, err = insertion([]*port{a}, nil)
	wantError(t, err, "no bridge br")
}

func TestPortName(t *testing.T) {
	a := &delegates.Attachment{Owner: testOwner, Sandbox: sandbox, IfName: "net1"}
	name := portName(a)
	if len(name) > 15 || !strings.HasPrefix(name, "vhu") || conf.CheckIfName(name) != nil {
		t.Errorf("%q is no name of an interface", name)
	}
	if name != "vhu5664a83cf48f" {
		t.Errorf("%q: the names of ports in use have changed", name)
	}
	seen := map[string]*delegates.Attachment{name: a}
	for _, other := range []*delegates.Attachment{
		{Owner: "/var/lib/other", Sandbox: a.Sandbox, IfName: "net1"},
		{Owner: testOwner, Sandbox: "0123456789abcdeg", IfName: "net1"},
		{Owner: testOwner, Sandbox: a.Sandbox, IfName: "net2"},
		{Owner: testOwner, Sandbox: a.Sandbox + "n", IfName: "et1"},
		{Owner: testOwner + "0", Sandbox: a.Sandbox[1:], IfName: "net1"},
	} {
		if twin, ok := seen[portName(other)]; ok {
			t.Errorf("%v and %v have the same name", twin, other)
		}
		seen[portName(other)] = other
	}
	a.Netns, a.Name, a.Pod = "/elsewhere", "other", &conf.Pod{Name: "x"}
	if portName(a) != name {
		t.Error("the name depends on more than owner, sandbox and interface")
	}
}
