package ovsdpdk

import (
	"encoding/json"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzConfig feeds whatever is read from elsewhere: nothing panics, and what is
// accepted is within its ranges.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		`{"bridge": "br0"}`, `{"bridge": "br0", "vlan": 4095, "trunk": [1, {"id": 2}, {"minID": 3, "maxID": 9}], "mtu": 1500}`,
		`{"bridge": "br0", "ovsdb": "tcp:[::1]:6640", "vhost": {"mode": "server", "socketDir": "/run/v/", "socketFile": "s", "permissions": "0770"}}`,
		`{"bridge": "br0", "mac": "02-00-00-00-00-01", "args": {"cni": {"mac": "0200.0000.0002"}}, "runtimeConfig": {"mac": ""}}`,
		`{"host": {"engine": "ovs-dpdk", "iftype": "vhostuser", "vhost": {"mode": "client", "socketfile": "s"}, "bridge": {"vlanId": 7}}}`,
		`{"host": {"engine": "ovs-dpdk", "iftype": "vhostuser"}, "sharedDir": "/x", "container": {"memif": {}}}`,
		`[1, {"minID": 0, "maxID": 4095}, null]`, `{"ovsdb": "unix:/x", "bridge": "b", "port": "p", "dir": "/x", "file": "f", "gid": -1, "mode": 488}`,
		`{"vhost": null, "trunk": null, "vlan": null, "bridge": "b"}`, `{"bridge": "b", "trunk": [{"id": -1}]}`, `null`, ``, `{"a`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func(string, []byte) (*Config, []string, error){parse, parseUserspace} {
			if c, _, err := parse("n", data); err == nil {
				inRange(t, c)
			}
		}
		var trunks Trunks
		if json.Unmarshal(data, &trunks) == nil && !slices.IsSorted(trunks) {
			t.Errorf("trunk %v is not in order", trunks)
		}
		if s, err := decodeState(data, sandbox); err == nil {
			for _, name := range []string{s.File, s.Config} {
				if strings.Contains(name, "/") || name == ".." || name == "." {
					t.Errorf("file %q is accepted", name)
				}
			}
			if s.Port == "" || s.OVSDB == "" {
				t.Errorf("state %+v is accepted", s)
			}
		}
	})
}

func inRange(t *testing.T, c *Config) {
	t.Helper()
	if c.VLAN != nil && (*c.VLAN < 0 || *c.VLAN > 4095) || c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		t.Errorf("vlan %v mtu %d", c.VLAN, c.MTU)
	}
	for i, id := range c.Trunk {
		if id < 0 || id > 4095 || i > 0 && id <= c.Trunk[i-1] {
			t.Errorf("trunk %v", c.Trunk)
		}
	}
	if n := len(c.Bridge); n == 0 || n > 15 || strings.ContainsAny(c.Bridge, "/ \x00") {
		t.Errorf("bridge %q", c.Bridge)
	}
	if c.Vhost.Mode != modeClient && c.Vhost.Mode != modeServer {
		t.Errorf("mode %q", c.Vhost.Mode)
	}
	if dir := c.Vhost.SocketDir; !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" || slices.Contains(strings.Split(dir, "/"), "..") {
		t.Errorf("socketDir %q", dir)
	}
	if file := c.Vhost.SocketFile; len(file) > 250 || strings.ContainsAny(file, "/\x00\n") || file == ".." || file == "." {
		t.Errorf("socketFile %q", file)
	}
	for _, mac := range []string{c.MAC, c.mac()} {
		if hw, err := net.ParseMAC(mac); mac != "" && (err != nil || len(hw) != 6 || hw[0]&1 != 0 || hw.String() != mac) {
			t.Errorf("mac %q", mac)
		}
	}
	if !strings.HasPrefix(c.OVSDB, "unix:/") && !strings.HasPrefix(c.OVSDB, "tcp:") {
		t.Errorf("ovsdb %q", c.OVSDB)
	}
}
