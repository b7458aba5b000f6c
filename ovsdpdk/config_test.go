package ovsdpdk

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const minimal = `"type": "ovsdpdk", "bridge": "br0"`

func parse(network string, data []byte) (*Config, []string, error) {
	return parseAs(network, data, nil)
}

func parseKeys(keys string) (*Config, []string, error) {
	return parse("default/fast", []byte("{"+minimal+keys+"}"))
}

func TestParseDefaults(t *testing.T) {
	c, warnings, err := parseKeys("")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if c.OVSDB != "unix:/run/openvswitch/db.sock" || c.Vhost.Mode != "client" || c.Vhost.SocketDir != "/run/plexus/vhost" ||
		c.CreateBridge || c.VLAN != nil || c.Trunk != nil || c.MTU != 0 || c.mac() != "" {
		t.Errorf("%+v", c)
	}
}

func TestParseEveryKey(t *testing.T) {
	c, warnings, err := parseKeys(`, "cniVersion": "1.1.0", "name": "n", "ipam": {}, "capabilities": {"mac": true},
		"ovsdb": "tcp:[::1]:6640", "createBridge": true, "vlan": 0, "trunk": [4095, {"id": 3}, 3, {"minID": 10, "maxID": 12}],
		"mtu": 9000, "mac": "02-00-00-00-00-0A", "logFile": "/x", "logLevel": "debug",
		"vhost": {"mode": "server", "socketDir": "/run/v", "socketFile": "s", "group": "g", "permissions": "0700"}`)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := Vhost{Mode: "server", SocketDir: "/run/v", SocketFile: "s", Group: "g", Permissions: "0700"}
	if c.OVSDB != "tcp:[::1]:6640" || !c.CreateBridge || *c.VLAN != 0 || c.MTU != 9000 || c.MAC != "02:00:00:00:00:0a" || c.Vhost != want {
		t.Errorf("%+v", c)
	}
	if fmt.Sprint(c.Trunk) != "[3 10 11 12 4095]" {
		t.Errorf("trunk %v, want it sorted and without repetition", c.Trunk)
	}
}

// The runtime's mac goes before the pod's, and that before the network's.
func TestParseMAC(t *testing.T) {
	const runtime, args, own = `, "runtimeConfig": {"mac": "02:00:00:00:00:03", "ips": ["x"]}`, `, "args": {"cni": {"mac": "02:00:00:00:00:02"}}`, `, "mac": "02:00:00:00:00:01"`
	for keys, want := range map[string]string{
		runtime + args + own: "02:00:00:00:00:03", args + own: "02:00:00:00:00:02", own: "02:00:00:00:00:01", "": "",
	} {
		c, _, err := parseKeys(keys)
		if err != nil || c.mac() != want {
			t.Errorf("%s: mac %q, want %q (%v)", keys, c.mac(), want, err)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	for _, keys := range []string{
		`, "vlan": 4095`, `, "mtu": 68`, `, "mtu": 9702`, `, "vlan": 7, "trunk": []`, `, "trunk": [0, {"minID": 5, "maxID": 5}]`,
		`, "ovsdb": "ssl:[::1]:6640"`, `, "ovsdb": "tcp:127.0.0.1:6640,ssl:b:6640,unix:/run/db.sock"`,
		`, "ovsdb": "tcp:127.0.0.1:6640"`, `, "ovsdb": "unix:/` + strings.Repeat("x", maxSocketPath-1) + `"`,
		`, "vhost": {"socketFile": "` + strings.Repeat("x", nameMax) + `"}`, `, "vhost": {"socketFile": "a b..ü"}`,
		`, "vhost": {"permissions": "777"}`, `, "vhost": {"permissions": "0"}`, `, "MTU": 1500`,
	} {
		if _, _, err := parseKeys(keys); err != nil {
			t.Errorf("%s: %v", keys, err)
		}
	}
	if _, _, err := parse("n", []byte(`{"bridge": "fifteen-letters"}`)); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	vhost := func(key, value string) string { return fmt.Sprintf(`, "vhost": {%q: %s}`, key, value) }
	for _, c := range []struct {
		keys string
		says []string
	}{
		{`, "bridge": ""`, []string{`"bridge"`, "missing", "netdev"}},
		{`, "bridge": "sixteen-letters-"`, []string{`"bridge"`, "16 bytes", "15"}},
		{`, "bridge": "../br"`, []string{`"bridge"`, `'/'`}},
		{`, "bridge": "br 0"`, []string{`"bridge"`, `' '`}},
		{`, "ovsdb": "http://x"`, []string{`"ovsdb"`, "http://x", "unix:", "tcp:"}},
		{`, "ovsdb": "unix:db.sock"`, []string{`"ovsdb"`, "unix:/path"}},
		{`, "ovsdb": "unix:/` + strings.Repeat("x", maxSocketPath) + `"`, []string{`"ovsdb"`, "107"}},
		{`, "ovsdb": "tcp:localhost"`, []string{`"ovsdb"`, "tcp:host:port"}},
		{`, "ovsdb": "ssl:1.2.3.4"`, []string{`"ovsdb"`, "ssl:host:port"}},
		{`, "ovsdb": "tcp:127.0.0.1:6640,unix:db.sock"`, []string{`"ovsdb"`, "unix:db.sock", "unix:/path"}},
		{`, "ovsdb": "tcp:127.0.0.1:6640,"`, []string{`"ovsdb"`, "unix:", "tcp:"}},
		{`, "ovsdb": "` + strings.Repeat("tcp:h:1,", 8) + `tcp:h:1"`, []string{`"ovsdb"`, "9 remotes"}},
		{vhost("mode", `"master"`), []string{`"vhost.mode"`, "master", "client", "server"}},
		{vhost("mode", `"Client"`), []string{`"vhost.mode"`, "client, server"}},
		{vhost("socketDir", `"run/v"`), []string{`"vhost.socketDir"`, "absolute"}},
		{vhost("socketDir", `"/run/../etc"`), []string{`"vhost.socketDir"`, `..`}},
		{vhost("socketDir", `"/"`), []string{`"vhost.socketDir"`}},
		{vhost("socketDir", `"/run//v"`), []string{`"vhost.socketDir"`}},
		{vhost("socketFile", `"../x"`), []string{`"vhost.socketFile"`, "without a folder"}},
		{vhost("socketFile", `"a/b"`), []string{`"vhost.socketFile"`, "without a folder"}},
		{vhost("socketFile", `".."`), []string{`"vhost.socketFile"`}},
		{vhost("socketFile", `"."`), []string{`"vhost.socketFile"`}},
		{vhost("socketFile", `"/"`), []string{`"vhost.socketFile"`}},
		{vhost("socketFile", `"`+strings.Repeat("x", 300)+`"`), []string{`"vhost.socketFile"`, "300 bytes", "250"}},
		{vhost("socketFile", `"a\u0000b"`), []string{`"vhost.socketFile"`}},
		{vhost("socketFile", `"a\nb"`), []string{`"vhost.socketFile"`, "control character"}},
		{vhost("permissions", `"0999"`), []string{`"vhost.permissions"`, "octal"}},
		{vhost("permissions", `"01777"`), []string{`"vhost.permissions"`, "0777"}},
		{vhost("permissions", `"-1"`), []string{`"vhost.permissions"`}},
		{vhost("permissions", `"rwx"`), []string{`"vhost.permissions"`}},
		{vhost("socketfil", `"x"`), []string{`"vhost.socketfil"`, "vhost.socketFile"}},
		{`, "vlan": -1`, []string{`"vlan"`, "0 to 4095"}},
		{`, "vlan": 4096`, []string{`"vlan"`, "4096", "0 to 4095"}},
		{`, "vlan": "7"`, []string{"vlan", "number"}},
		{`, "vlan": 1.5`, []string{"vlan", "number"}},
		{`, "trunk": []`, []string{`"trunk"`, "every VLAN", `"vlan"`}},
		{`, "mtu": 67`, []string{`"mtu"`, "68 to 9702"}},
		{`, "mtu": 9703`, []string{`"mtu"`, "68 to 9702"}},
		{`, "mac": "00:00:00:00:00:00"`, []string{`"mac"`, "not all zero"}},
		{`, "mtu": -1`, []string{`"mtu"`}},
		{`, "mac": "01:00:00:00:00:01"`, []string{`"mac"`, "multicast"}},
		{`, "mac": "ff:ff:ff:ff:ff:ff"`, []string{`"mac"`, "multicast"}},
		{`, "mac": "02:00:00:00:00"`, []string{`"mac"`, "6 bytes"}},
		{`, "mac": "02:00:00:00:00:00:00:01"`, []string{`"mac"`, "6 bytes"}},
		{`, "runtimeConfig": {"mac": "x"}`, []string{`"runtimeConfig.mac"`}},
		{`, "runtimeConfig": {"mac": 7}`, []string{"mac"}},
		{`, "args": {"cni": {"mac": "x"}}`, []string{`"args.cni.mac"`}},
		{`, "brige": "x"`, []string{`"brige"`, `"bridge"`}},
		{`, "createBridg": true`, []string{`"createBridg"`, `"createBridge"`}},
		{`, "createBridge": "yes"`, []string{"createBridge", "true or false"}},
		{`, "vlans": 7`, []string{`"vlans"`, `"vlan"`}},
		{`} {`, []string{"after the JSON object"}},
		{`, `, []string{"invalid JSON"}},
	} {
		_, _, err := parseKeys(c.keys)
		if err == nil {
			t.Errorf("%s is accepted", c.keys)
			continue
		}
		wantError(t, err, append(c.says, "network default/fast: ovsdpdk")...)
	}
}

// All that is wrong is said at once.
func TestParseSaysEverything(t *testing.T) {
	_, _, err := parse("n", []byte(`{"vlan": -1, "mtu": 1, "mac": "x"}`))
	wantError(t, err, `"bridge"`, `"vlan"`, `"mtu"`, `"mac"`)
}

// A key that is far from any is a warning: the configuration may be for others too.
func TestParseWarns(t *testing.T) {
	_, warnings, err := parseKeys(`, "somethingElse": 1, "vhost": {"flavour": 2}`)
	if err != nil || len(warnings) != 2 || !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, "vhost.flavour") }) {
		t.Errorf("warnings %q, %v", warnings, err)
	}
}

func TestTrunks(t *testing.T) {
	for text, want := range map[string]string{
		`[]`: "[]", `[7]`: "[7]", `[7, 3, 7]`: "[3 7]", `[{"id": 7}]`: "[7]", `[{"minID": 2, "maxID": 4}, 3]`: "[2 3 4]",
		`[{"minID": 4095, "maxID": 4095}]`: "[4095]", `[{"minid": 1, "MAXID": 2}]`: "[1 2]",
		`7`: "list", `"7"`: "list", `{"id": 7}`: "list", `["7"]`: "want a VLAN", `[1.5]`: "want a VLAN", `[[1]]`: "want a VLAN",
		`[true]`: "want a VLAN", `[{}]`: "within 0 to 4095", `[{"minID": 3}]`: "within 0 to 4095", `[{"maxID": 3}]`: "within 0 to 4095",
		`[{"minID": 4, "maxID": 3}]`: "within 0 to 4095", `[{"minID": -1, "maxID": 3}]`: "within 0 to 4095",
		`[{"minID": 0, "maxID": 4096}]`: "within 0 to 4095", `[{"minID": 0, "maxID": 9223372036854775807}]`: "within 0 to 4095",
		`[{"id": 1, "minID": 1, "maxID": 2}]`: "within 0 to 4095", `[{"id": "1"}]`: "want a VLAN", `[1e99]`: "want a VLAN",
	} {
		var got Trunks
		err := json.Unmarshal([]byte(text), &got)
		if strings.HasPrefix(want, "[") {
			if err != nil || fmt.Sprint(got) != want {
				t.Errorf("%s: %v %v, want %s", text, got, err, want)
			}
			continue
		}
		wantError(t, err, "trunk", want)
	}
	for _, text := range []string{`[-1]`, `[4096]`, `[{"id": 4096}]`, `[{"id": -1}]`} {
		_, _, err := parseKeys(`, "trunk": ` + text)
		wantError(t, err, `"trunk"`, "0 to 4095")
	}
}

// null is no trunk, as it is no VLAN; and it is no VLAN in a list.
func TestTrunkNull(t *testing.T) {
	c, _, err := parseKeys(`, "trunk": null, "vlan": null`)
	if err != nil || c.Trunk != nil || c.VLAN != nil {
		t.Errorf("trunk %#v vlan %v, %v", c.Trunk, c.VLAN, err)
	}
	_, _, err = parseKeys(`, "trunk": [null]`)
	wantError(t, err, `"trunk"`, "want a VLAN")
}

// A list of ranges takes no more room than there are VLANs.
func TestTrunkRoom(t *testing.T) {
	text := "[" + strings.Repeat(`{"minID": 0, "maxID": 4095},`, 99) + "1]"
	var got Trunks
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 4096 {
		t.Fatalf("%d VLANs, %v", len(got), err)
	}
	if cap(got) > 4*4096 {
		t.Errorf("room for %d VLANs was taken", cap(got))
	}
}
