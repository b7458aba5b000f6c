package plugin

import (
	"testing"
)

// What a plugin's CHECK gets where it would call a healthy pod different.
func TestConfigurationsOfCheck(t *testing.T) {
	with := t.TempDir()
	script(t, with, "static", "exit 0")
	const prev = `"prevResult":{"interfaces":[{"name":"net1","sandbox":"/x"}],"ips":[{"address":"10.0.0.2/24"}],"routes":[{"dst":"0.0.0.0/0"}]}`
	for _, c := range []struct {
		path              string
		behind            string // it in the list
		typ, config, want string
	}{
		{with, `{"type":"tuning"}`, "bridge", `{"type":"bridge","ipam":{},` + prev + `}`, `{"ipam":{"type":"static"},` + prev + `,"type":"bridge"}`},
		{with, `{"type":"tuning"}`, "vlan", `{` + prev + `,"type":"vlan"}`, `{"ipam":{"type":"static"},` + prev + `,"type":"vlan"}`},
		{t.TempDir(), `{"type":"tuning"}`, "bridge", `{"type":"bridge",` + prev + `}`, ""},
		{with, `{"type":"tuning"}`, "bridge", `{"type":"bridge","ipam":{"type":"dhcp"},` + prev + `}`, `{"type":"bridge","ipam":{"type":"dhcp"},` + prev + `}`},
		{with, `{"type":"tuning"}`, "macvlan", `{"type":"macvlan",` + prev + `}`, `{"type":"macvlan",` + prev + `}`},
		{with, `{"type":"sbr"}`, "macvlan", `{"type":"macvlan",` + prev + `}`, `{"prevResult":{"interfaces":[{"name":"net1","sandbox":"/x"}]},"type":"macvlan"}`},
		{with, `{"type":"vrf"}`, "vrf", `{"type":"vrf",` + prev + `}`, `{"type":"vrf",` + prev + `}`},
		{with, `{"type":"tuning"}`, "bridge", `{"type":"bridge"}`, `{"type":"bridge"}`},
	} {
		got := chainOf(t, Request{Path: []string{c.path}}, `{"type":"`+c.typ+`"}`, c.behind).forCheck(c.typ, []byte(c.config))
		if string(got) != c.want {
			t.Errorf("%s gets %s, want %s", c.typ, got, c.want)
		}
	}
}
