package conf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// Each network that names a resource gets a device of its own.
func TestAssignDevices(t *testing.T) {
	network := func(name, resource string) *conf.Definition {
		return &conf.Definition{Origin: "NetworkAttachmentDefinition shop/" + name, Name: "shop/" + name, ResourceName: resource, Config: []byte(anyNAD)}
	}
	a, b, plain := network("a", "x.com/vf"), network("b", "x.com/other"), network("plain", "")
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("d", i))
	}
	given := map[string][]string{
		"x.com/vf": {"0000:01:10.0", "0000:01:10.2"}, "x.com/other": {"0000:02:10.0"},
		"x.com/empty": {""}, "x.com/long": {strings.Repeat("a", 15<<20)}, "x.com/control": {"0000:01:10.0\n"}, "x.com/bytes": {"\xff"},
		"x.com/out": {"../../etc"}, "x.com/inner": {"a/../b"}, "x.com/folder": {"a..b/c"}, "x.com/many": many,
	}
	for name, test := range map[string]struct {
		annotation  string
		definitions []*conf.Definition
		want        []string
		says        []string
	}{
		"in order":                           {"a,a,b", []*conf.Definition{a, a, b}, []string{"0000:01:10.0", "0000:01:10.2", "0000:02:10.0"}, nil},
		"without a resource":                 {"plain,a", []*conf.Definition{plain, a}, []string{"", "0000:01:10.0"}, nil},
		"one is asked for":                   {`[{"name":"a"},{"name":"a","deviceID":"0000:01:10.0"}]`, []*conf.Definition{a, a}, []string{"0000:01:10.2", ""}, nil},
		"too few":                            {"a,a,a", []*conf.Definition{a, a, a}, nil, []string{"shop/a", "2 devices", "x.com/vf"}},
		"none":                               {"c", []*conf.Definition{network("c", "x.com/none")}, nil, []string{"shop/c", "no device", "x.com/none", "container"}},
		"asked for twice":                    {`[{"name":"a","deviceID":"0000:01:10.0"},{"name":"a","deviceID":"0000:01:10.0"}]`, []*conf.Definition{a, a}, nil, []string{"0000:01:10.0", "already"}},
		"asked for, another pod's":           {`[{"name":"a","deviceID":"0000:09:10.0"}]`, []*conf.Definition{a}, nil, []string{"0000:09:10.0", "x.com/vf", "0000:01:10.2"}},
		"empty":                              {"c", []*conf.Definition{network("c", "x.com/empty")}, nil, []string{"shop/c", "x.com/empty", "is empty", "device plugin"}},
		"too long":                           {"c", []*conf.Definition{network("c", "x.com/long")}, nil, []string{"shop/c", "x.com/long", "15728640 bytes"}},
		"control characters":                 {"c", []*conf.Definition{network("c", "x.com/control")}, nil, []string{"shop/c", `10.0\n"`}},
		"no UTF-8":                           {"c", []*conf.Definition{network("c", "x.com/bytes")}, nil, []string{"shop/c", "no text"}},
		"a path":                             {"c", []*conf.Definition{network("c", "x.com/out")}, nil, []string{"shop/c", "../../etc"}},
		"a path inside":                      {"c", []*conf.Definition{network("c", "x.com/inner")}, nil, []string{"shop/c", "a/../b"}},
		"a name with a folder":               {"c", []*conf.Definition{network("c", "x.com/folder")}, []string{"a..b/c"}, nil},
		"none of many":                       {`[{"name":"c","deviceID":"x"}]`, []*conf.Definition{network("c", "x.com/many")}, nil, []string{"d15, and 984 more"}},
		"none of a long one":                 {`[{"name":"c","deviceID":"x"}]`, []*conf.Definition{network("c", "x.com/long")}, nil, []string{"aaa"}},
		"asked for twice without a resource": {`[{"name":"plain","deviceID":"0000:09:10.0"},{"name":"plain","deviceID":"0000:09:10.0"}]`, []*conf.Definition{plain, plain}, nil, []string{"already"}},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, _, err := conf.References(parse(t, settings("")), podWith(test.annotation))
			checkError(t, err)
			all, err := conf.AssignDevices(wanted, test.definitions, given)
			checkError(t, err, test.says...)
			if err != nil {
				if len(err.Error()) > 1000 {
					t.Errorf("the error has %d bytes", len(err.Error()))
				}
				return
			}
			var got []string
			for _, d := range all {
				got = append(got, d.DeviceID)
			}
			checkEqual(t, got, test.want)
			checkEqual(t, a.DeviceID, "") // a definition is shared
		})
	}
}

// The device gets into the configuration under both names, and into the
// capability arguments.
func TestAssignedDeviceIsInjected(t *testing.T) {
	d := &conf.Definition{Origin: "NetworkAttachmentDefinition shop/a", Name: "shop/a", DeviceID: "0000:01:10.0", Config: []byte(`{"name": "a", "type": "sriov"}`)}
	c := parse(t, settings(""))
	wanted, _, err := conf.References(c, podWith("a"))
	checkError(t, err)
	p, err := conf.Resolve(c, wanted, []*conf.Definition{d}, "eth0", nil)
	checkError(t, err)
	checkJSON(t, p.Networks[1].List.Plugins[0], `{"name": "a", "type": "sriov", "deviceID": "0000:01:10.0", "pciBusID": "0000:01:10.0"}`)
	checkEqual(t, p.Networks[1].CapabilityArgs, map[string]any{"deviceID": "0000:01:10.0"})
}

// The lists that are made of one definition are apart: what one has got the next has not.
func TestListsAreApart(t *testing.T) {
	d := &conf.Definition{Origin: "NAD x/y", Fallback: "y", DeviceID: "0000:01:00.1", Config: []byte(`{"type": "sriov"}`)}
	c := parse(t, settings(""))
	wanted, _, err := conf.References(c, podWith("a"))
	checkError(t, err)
	p, err := conf.Resolve(c, wanted, []*conf.Definition{d}, "eth0", nil)
	checkError(t, err)
	first := p.Networks[1].List
	checkJSON(t, first.Plugins[0], `{"type": "sriov", "deviceID": "0000:01:00.1", "pciBusID": "0000:01:00.1"}`)
	version := first.CNIVersion
	d.Fallback = "z"
	second, err := d.ParseList("0.4.0")
	checkError(t, err)
	checkEqual(t, string(second.Plugins[0]), `{"type": "sriov"}`)
	checkEqual(t, []string{first.Name, first.CNIVersion, second.Name, second.CNIVersion}, []string{"y", version, "z", "0.4.0"})
}
