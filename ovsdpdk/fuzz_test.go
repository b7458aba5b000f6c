package ovsdpdk

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// FuzzConfig feeds any text to the readers of configurations and records: nothing
// panics, and accepted values are within their ranges.
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
	if c.VLAN != nil && (*c.VLAN < 0 || *c.VLAN > 4095) || c.MTU != 0 && (c.MTU < 68 || c.MTU > 9702) {
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

// FuzzConn lets a server say anything while a request is under way: the request
// ends, and nothing panics.
func FuzzConn(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"id": 1}`, `{"id": 1, "error": "x"}`, `{"id": 1, "error": {"error": "x", "details": 7}}`, fmt.Sprintf(bridges, "1"),
		`{"id": 1, "method": "echo", "params": []} {"id": 1, "result": [null, {"count": 1}, {"error": "timed out"}]}`,
		`{"id": null, "method": "update", "params": [7]}`, `{"id":1,"result":[{"rows":[{"a":["map",[["k",["uuid","v"]]]]}]}]}`, `[[[[`, `{"id": 1`,
		`{"id":1,"result":[{"rows":[{"a":["set",[1,2.5,true,"x"]], "b": -1e9, "c": [], "d": {}, "e": null}]}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		c := newConn(ours, nil)
		go func() {
			_, _ = theirs.Read(make([]byte, 1<<16))
			go func() { _, _ = io.Copy(io.Discard, theirs) }()
			_, _ = theirs.Write(data)
			_ = theirs.Close()
		}()
		results, err := c.transact(t.Context(), []ovsdb.Operation{selectRows("Bridge", anyRow(), "name")})
		<-c.ended.Done()
		if err == nil {
			for _, r := range results {
				readAll(t, r.Rows)
			}
		}
	})
}

// readAll uses every reader on every column.
func readAll(t *testing.T, rows []ovsdb.Row) {
	t.Helper()
	for _, row := range rows {
		for column := range row {
			_, _, _, _ = text(row, column), uuids(row, column), ints(row, column), strMap(row, column)
			for _, v := range atoms[any](row, column) {
				switch v.(type) {
				case string, bool, int64, float64, ovsdb.UUID, ovsdb.OvsMap:
				default:
					t.Errorf("column %q has a %T", column, v)
				}
			}
		}
		_, _ = usesByOthers(nil, []ovsdb.Row{row}), recordedState(row)
		_ = columns(&state{}, row, row, rows)
	}
}
