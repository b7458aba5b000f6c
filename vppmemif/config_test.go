package vppmemif

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

func parse(network string, data []byte) (*Config, []string, error) {
	return parseAs(network, data, nil)
}

func TestParseDefaults(t *testing.T) {
	c, warnings, err := parse("n", []byte(`{}`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if c.APISocket != "/run/vpp/api.sock" || c.Role != "server" || c.Mode != "ethernet" || c.Socket != (Socket{Dir: "/run/plexus/memif"}) {
		t.Errorf("%+v", c)
	}
}

func TestParseEveryKey(t *testing.T) {
	c, warnings, err := parse("n", []byte(`{"cniVersion": "1.1.0", "name": "n", "type": "vppmemif", "ipam": {}, "apiSocket": "/x", "role": "client",
		"mode": "ethernet", "socket": {"dir": "/d/", "file": "f", "group": "g", "permissions": "0700"}, "id": 4294967295,
		"secret": "12345678901234567890123", "queues": {"rx": 255, "tx": 2}, "ringSize": 16384, "bufferSize": 65535, "mtu": 9216,
		"mac": "02:00:00:00:00:01", "bridgeDomain": {"id": 16777215, "learn": false, "flood": true, "arpTermination": true, "uplink": "e0"}, "vlan": 4094}`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	b := c.BridgeDomain
	if c.APISocket != "/x" || c.Role != "client" || c.Socket != (Socket{Dir: "/d/", File: "f", Group: "g", Permissions: "0700"}) || c.ID != 1<<32-1 ||
		len(c.Secret) != 23 || c.Queues != (Queues{255, 2}) || c.RingSize != 1<<14 || c.BufSize != 65535 || c.MTU != 9216 ||
		c.MAC != "02:00:00:00:00:01" || b.ID != 1<<24-1 || *b.Learn || !*b.Flood || !b.ARPTermination || c.VLAN != 4094 {
		t.Errorf("%+v", c)
	}
	c, _, err = parse("n", []byte(`{"mode": "ip", "vrf": 7, "addresses": ["10.0.0.1/24"], "routes": [{"dst": "10.1.0.0/16"}, {"dst": "::/0", "gw": "fe80::1"}],
		"socket": {"abstract": true, "file": "a b"}}`))
	if err != nil || c.VRF != 7 || len(c.Routes) != 2 || c.Routes[1].GW != "fe80::1" || !c.Socket.Abstract {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestParseAccepts(t *testing.T) {
	for _, keys := range []string{
		`"mtu": 68`, `"ringSize": 1`, `"socket": {"file": "a,b=c"}`, `"socket": {"file": "` + strings.Repeat("x", 250) + `"}`,
		`"bridgeDomain": {"name": "` + strings.Repeat("x", 32) + `"}`, `"routes": []`, `"bridgeDomain": null`,
	} {
		if _, _, err := parse("n", []byte("{"+keys+"}")); err != nil {
			t.Errorf("%s: %v", keys, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const domain = `"bridgeDomain": {"id": 1}`
	for _, c := range []struct {
		keys string
		says []string
	}{
		{`"role": "master"`, []string{`"role"`, "master", "server, client"}},
		{`"mode": "punt"`, []string{`"mode"`, "punt", "ethernet, ip"}},
		{`"apiSocket": "x"`, []string{`"apiSocket"`, "absolute"}},
		{`"socket": {"dir": "x"}`, []string{`"socket.dir"`, "absolute"}},
		{`"socket": {"dir": "/x/../y"}`, []string{`"socket.dir"`}},
		{`"socket": {"dir": "/"}`, []string{`"socket.dir"`}},
		{`"socket": {"file": "../x"}`, []string{`"socket.file"`}},
		{`"socket": {"file": "a/b"}`, []string{`"socket.file"`}},
		{`"socket": {"file": ".."}`, []string{`"socket.file"`}},
		{`"socket": {"file": "a\u0000b"}`, []string{`"socket.file"`}},
		{`"socket": {"file": "a\nb"}`, []string{`"socket.file"`}},
		{`"socket": {"file": "` + strings.Repeat("x", 251) + `"}`, []string{`"socket.file"`, "251", "250"}},
		{`"socket": {"abstract": true, "file": "a,b"}`, []string{`"socket.file"`}},
		{`"socket": {"abstract": true, "file": "a=b"}`, []string{`"socket.file"`}},
		{`"socket": {"abstract": true, "file": "a\u0000b"}`, []string{`"socket.file"`}},
		{`"socket": {"abstract": true, "file": "../b"}`, []string{`"socket.file"`}},
		{`"socket": {"abstract": true, "dir": "/x"}`, []string{`"socket.abstract"`, "dir"}},
		{`"socket": {"abstract": true, "group": "x"}`, []string{`"socket.abstract"`, "group"}},
		{`"socket": {"permissions": "0888"}`, []string{`"socket.permissions"`, "octal"}},
		{`"socket": {"permissions": "1777"}`, []string{`"socket.permissions"`, "0777"}},
		{`"secret": "123456789012345678901234"`, []string{`"secret"`, "24", "23"}},
		{`"ringSize": 1000`, []string{`"ringSize"`, "1000", "power of 2"}},
		{`"ringSize": 32768`, []string{`"ringSize"`, "16384"}},
		{`"ringSize": -1`, []string{"ringSize"}},
		{`"bufferSize": 65536`, []string{"bufferSize"}},
		{`"queues": {"rx": 256}`, []string{"queues.rx"}},
		{`"id": 4294967296`, []string{"id"}},
		{`"id": -1`, []string{"id"}},
		{`"mtu": 67`, []string{`"mtu"`, "67", "68", "9216"}},
		{`"mtu": 9217`, []string{`"mtu"`, "9217"}},
		{`"mac": "01:00:00:00:00:01"`, []string{`"mac"`, "multicast"}},
		{`"mac": "x"`, []string{`"mac"`}},
		{`"mac": "02:00:00:00:00:00:00:01"`, []string{`"mac"`}},
		{`"bridgeDomain": {}`, []string{`"bridgeDomain"`, "id or name"}},
		{`"bridgeDomain": {"id": 1, "name": "x"}`, []string{`"bridgeDomain"`, "one of them"}},
		{`"bridgeDomain": {"id": 16777216}`, []string{`"bridgeDomain.id"`, "16777215"}},
		{`"bridgeDomain": {"name": "` + strings.Repeat("x", 33) + `"}`, []string{`"bridgeDomain.name"`, "32"}},
		{`"bridgeDomain": 7`, []string{"bridgeDomain"}},
		{`"mode": "ip", ` + domain, []string{`"bridgeDomain"`, "mode ip"}},
		{`"addresses": ["10.0.0.1/24"], ` + domain, []string{`"bridgeDomain"`, "addresses"}},
		{`"routes": [{"dst": "10.0.0.0/8"}], ` + domain, []string{`"bridgeDomain"`, "routes"}},
		{`"vrf": 1, ` + domain, []string{`"bridgeDomain"`, "vrf"}},
		{`"vlan": 7`, []string{`"vlan"`, "bridgeDomain"}},
		{`"vlan": 4095, ` + domain, []string{`"vlan"`, "4095", "4094"}},
		{`"vlan": -1, ` + domain, []string{`"vlan"`, "-1"}},
		{`"bridgeDomain": {"name": "a", "uplink": "e0"}`, []string{"bridgeDomain.uplink", "vlan"}},
		{`"vlan": 7, "bridgeDomain": {"name": "a", "uplink": "e 0"}`, []string{"bridgeDomain.uplink", "name of an interface"}},
		{`"addresses": ["10.0.0.1"]`, []string{`"addresses[0]"`, "10.0.0.1"}},
		{`"addresses": ["10.0.0.1/24", "fe80::1%eth0/64"]`, []string{`"addresses[1]"`}},
		{`"routes": [{"gw": "10.0.0.1"}]`, []string{`"routes[0].dst"`}},
		{`"routes": [{"dst": "10.0.0.0/8", "gw": "x"}]`, []string{`"routes[0].gw"`}},
		{`"routes": [{"dst": "fe80::/64", "gw": "fe80::1%eth0"}]`, []string{`"routes[0].gw"`}},
		{`"gateways": true, ` + domain, []string{`"bridgeDomain"`, "gateways"}},
		{`"vhostUser": true, "secret": "x"`, []string{`"vhostUser"`, "secret"}},
		{`"vhostUser": true, "queues": {"rx": 2}`, []string{`"vhostUser"`, "queues"}},
		{`"vhostUser": true, "mode": "ip"`, []string{`"vhostUser"`, "mode ip"}},
		{`"vhostUser": true, "socket": {"abstract": true}`, []string{`"vhostUser"`, "abstract"}},
		{`"rol": "client"`, []string{"rol", "role"}},
		{`"socket": {"fil": "x"}`, []string{"fil"}},
		{`"bridgedomain": {"id": 1}, "bridgeDomian": {"id": 2}`, []string{"bridgeDomian", "bridgeDomain"}},
		{`"role": "x", "mode": "y", "mtu": 1`, []string{`"role"`, `"mode"`, `"mtu"`}},
		{`"role"`, []string{"n"}},
	} {
		_, _, err := parse("default/fast", []byte("{"+c.keys+"}"))
		if err == nil {
			t.Errorf("%s is accepted", c.keys)
			continue
		}
		wantError(t, err, append(c.says, "default/fast")...)
	}
}

// Marks of ownership fit, are read back, and are distinct.
func TestTags(t *testing.T) {
	longest := tag(testOwner, strings.Repeat("f", 64), strings.Repeat("i", 15))
	name := domainTag(testOwner, &BridgeDomain{Name: strings.Repeat("n", 32)}, maxVLAN)
	for _, tag := range []string{longest, name, domainTag(testOwner, &BridgeDomain{ID: maxBridgeDomain}, maxVLAN)} {
		if len(tag) > maxTag {
			t.Errorf("%s has %d bytes", tag, len(tag))
		}
	}
	for _, c := range [][2]string{{sandboxA, "net1"}, {"x", "e"}, {strings.Repeat("f", 64), strings.Repeat("i", 15)}} {
		sandbox, ifName, ok := parseTag(testOwner, tag(testOwner, c[0], c[1]))
		if !ok || sandbox != c[0][:min(24, len(c[0]))] || ifName != c[1] {
			t.Errorf("%v: %q %q %t", c, sandbox, ifName, ok)
		}
		if _, _, ok := parseTag("/other", tag(testOwner, c[0], c[1])); ok {
			t.Errorf("%v is another owner's", c)
		}
	}
	for _, foreign := range []string{"", "plexus/", ownerTag(testOwner), ownerTag(testOwner) + "x", ownerTag(testOwner) + "/x", ownerTag(testOwner) + "x/", "x" + longest} {
		if sandbox, ifName, ok := parseTag(testOwner, foreign); ok {
			t.Errorf("%q is %q %q", foreign, sandbox, ifName)
		}
	}
	if domainTag(testOwner, &BridgeDomain{Name: "7"}, 0) == domainTag(testOwner, &BridgeDomain{ID: 7}, 0) {
		t.Error("name 7 is id 7")
	}
}

// The id of a name is always the same, and far from what people choose.
func TestDomainID(t *testing.T) {
	for name, want := range map[string]uint32{"blue": 9848694} {
		if got := domainID(name); got != want {
			t.Errorf("%s: %d, was %d", name, got, want)
		}
	}
	for i := range 100000 {
		if id := domainID(fmt.Sprint(i)); id < 1<<23 || id > maxBridgeDomain {
			t.Fatalf("%d: %d", i, id)
		}
	}
}

// A user of DPDK learns which role outlasts a restart of VPP, unless the role was chosen.
func TestRoleHint(t *testing.T) {
	for keys, hinted := range map[string]bool{`{}`: true, `{"bridgeDomain": {"name": "blue"}}`: true, `{"role": "server"}`: false, `{"role": "client"}`: false, `{"vhostUser": true}`: false} {
		n, warnings, err := newDelegate(t).Parse("default/fast", []byte(keys))
		if err != nil || len(warnings) > 0 {
			t.Fatal(keys, warnings, err)
		}
		if hints := n.Hints(); (len(hints) == 1) != hinted || hinted && !(strings.Contains(hints[0], `key "role"`) && strings.Contains(hints[0], "net_memif")) {
			t.Errorf("%s: hints %q", keys, hints)
		}
	}
}

// An abstract socket costs a network namespace, which the user learns.
func TestAbstractSocketWarns(t *testing.T) {
	for keys, want := range map[string]string{`{"socket": {"abstract": true}}`: "network namespace", `{}`: ""} {
		_, warnings, err := parse("n", []byte(keys))
		if err != nil || (len(warnings) == 1) != (want != "") || want != "" && !(strings.Contains(warnings[0], `"socket.abstract"`) && strings.Contains(warnings[0], want)) {
			t.Errorf("%s: warnings %q, %v", keys, warnings, err)
		}
	}
}

func TestDecide(t *testing.T) {
	c, _, err := parse("n", []byte(`{"socket": {"abstract": true}}`))
	if err != nil {
		t.Fatal(err)
	}
	a := &delegates.Attachment{Sandbox: sandboxA, IfName: "net1", Owner: testOwner, Netns: "/run/netns/" + strings.Repeat("x", 43)}
	if s, err := decide(c, a); err != nil || len(s.Socket) > shareddir.MaxSocketPath {
		t.Errorf("%+v, %v", s, err)
	}
	a.Netns += strings.Repeat("x", 40)
	_, err = decide(c, a)
	wantError(t, err, "bytes", "106", "socket.file")
}

// A record that is none, or another's, is refused; nothing is removed.
func TestDecodeRefuses(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	a := r.attachment(sandboxA, nil)
	raw := mustAttach(t, d, a)
	before := r.world()
	var damaged []json.RawMessage
	for _, text := range []string{"null", "", "{", "[]", "{}", `"x"`, string(raw[:len(raw)-1])} {
		damaged = append(damaged, json.RawMessage(text))
	}
	for _, change := range []func(*state){
		func(s *state) { s.API = "" }, func(s *state) { s.Tag = "" }, func(s *state) { s.Socket = "" }, func(s *state) { s.File = "" },
		func(s *state) { s.File = "../x" }, func(s *state) { s.Config = "a/b" }, func(s *state) { s.Dir = "/" }, func(s *state) { s.Dir = "x" },
		func(s *state) { s.Dir = "/etc" }, func(s *state) { s.Dir += "/" }, func(s *state) { s.Link = "/etc/x" }, func(s *state) { s.Link = "/run/plexus/short/.." },
	} {
		s := stateOf(t, raw)
		change(s)
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		damaged = append(damaged, data)
	}
	for _, state := range damaged {
		wantError(t, d.del(bounded(t), a, state), "recorded state")
		_, err := add(bounded(t), d, a, state)
		wantError(t, err, "recorded state")
		wantError(t, d.check(bounded(t), a, state), "recorded state")
	}
	same(t, before, r.world())
	a.IPAM = &types100.Result{IPs: []*types100.IPConfig{{Interface: types100.Int(3)}}} // of a chain that has others before
	if _, err := d.describe(a, raw); err != nil {
		t.Error(err)
	}
	if at := *a.IPAM.IPs[0].Interface; at != 3 {
		t.Errorf("a description moves the address to interface %d", at)
	}
}

// What the client of a memif decides is a warning where VPP is the server.
func TestSizesOfAServer(t *testing.T) {
	for role, warned := range map[string]bool{"": true, "server": true, "client": false} {
		_, warnings, err := parseAs("default/fast", []byte(`{"type": "vppmemif", "role": "`+role+`", "queues": {"rx": 2}, "ringSize": 2048, "bufferSize": 4096}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(warnings) == 1 && strings.Contains(warnings[0], `keys "queues", "ringSize", "bufferSize"`); got != warned {
			t.Errorf("role %q: warnings %q", role, warnings)
		}
	}
}
