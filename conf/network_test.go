package conf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

const nadName = "NetworkAttachmentDefinition lab/blue"

func nad(config string) *conf.Definition {
	return &conf.Definition{Origin: nadName, Name: "lab/blue", Fallback: "blue", Config: []byte(config)}
}

func TestParseList(t *testing.T) {
	for _, test := range []struct {
		name, config, version string
		wantName, wantVersion string
		wantTypes             []string
	}{
		{"a single configuration is a list of one", `{"cniVersion": "1.0.0", "name": "n", "type": "macvlan"}`, "1.1.0", "n", "1.0.0", []string{"macvlan"}},
		{"a list keeps its order", `{"cniVersion": "0.4.0", "name": "n", "plugins": [{"type": "b"}, {"type": "a"}, {"type": "b"}]}`, "1.1.0", "n", "0.4.0", []string{"b", "a", "b"}},
		{"a network without a name has the one of its object", `{"cniVersion": "1.0.0", "type": "macvlan"}`, "", "blue", "1.0.0", []string{"macvlan"}},
		{"a network with an empty name, too", `{"name": "", "type": "macvlan"}`, "1.0.0", "blue", "1.0.0", []string{"macvlan"}},
		{"a network without a version has the configuration's", `{"name": "n", "type": "macvlan"}`, "1.0.0", "n", "1.0.0", []string{"macvlan"}},
		{"a list without a version, too", `{"name": "n", "plugins": [{"type": "a"}]}`, "1.1.0", "n", "1.1.0", []string{"a"}},
		{"a version nowhere: the oldest that lists interfaces", `{"name": "n", "type": "macvlan"}`, "", "n", "0.3.1", []string{"macvlan"}},
		{"the versions of members do not count", `{"cniVersion": "1.0.0", "plugins": [{"type": "a", "cniVersion": "0.2.0"}]}`, "", "blue", "1.0.0", []string{"a"}},
		{"a type with dots and dashes", `{"type": "my.own-plugin_2"}`, "", "blue", "0.3.1", []string{"my.own-plugin_2"}},
		{"white space around", " \n" + `{"type": "a"}` + "\n ", "", "blue", "0.3.1", []string{"a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := nad(test.config).ParseList(test.version)
			checkError(t, err)
			checkEqual(t, l.Name, test.wantName)
			checkEqual(t, l.CNIVersion, test.wantVersion)
			checkEqual(t, l.Types(), test.wantTypes)
		})
	}
}

func TestParseListKeepsWhatItDoesNotKnow(t *testing.T) {
	l, err := nad(`{"name": "n", "disableCheck": true, "disableGC": true, "vendor": 1, "plugins": [{"type": "a", "any": {"x": [1, "2", null]}}]}`).ParseList("")
	checkError(t, err)
	checkEqual(t, l.DisableCheck, true)
	checkEqual(t, l.DisableGC, true)
	checkJSON(t, l.Plugins[0], `{"type": "a", "any": {"x": [1, "2", null]}}`)
}

func TestParseListRefuses(t *testing.T) {
	for _, test := range []struct {
		name, config string
		says         []string
	}{
		{"nothing", "", []string{`"config"`, "invalid JSON"}},
		{"a broken text", "{\n\"type\": \"a\",\n}", []string{`"config"`, "invalid JSON", "line 3"}},
		{"YAML", "type: macvlan", []string{`"config"`, "invalid JSON"}},
		{"a list", "[]", []string{"want an object", "got array"}},
		{"null", "null", []string{"an object"}},
		{"two objects", `{"type": "a"}{"type": "b"}`, []string{"invalid JSON"}},
		{"an empty list of plugins", `{"plugins": []}`, []string{`"plugins"`, "empty"}},
		{"null for the plugins", `{"plugins": null}`, []string{`"plugins"`, "empty"}},
		{"an object for the plugins", `{"plugins": {"type": "a"}}`, []string{`"plugins"`, "want a list"}},
		{"a plugin that is a string", `{"plugins": [{"type": "a"}, "b"]}`, []string{"plugins[1]", "want an object"}},
		{"a plugin that is null", `{"plugins": [null]}`, []string{"plugins[0]", `"type"`, "missing"}},
		{"no type", `{"name": "n"}`, []string{"plugins[0]", `"type"`, "missing"}},
		{"no type in the middle of a list", `{"plugins": [{"type": "a"}, {}]}`, []string{"plugins[1]", `"type"`, "missing"}},
		{"a number for a type", `{"type": 1}`, []string{`"type"`, "want a string", "got number"}},
		{"a path for a type", `{"type": "../../bin/sh"}`, []string{`"type"`, `"../../bin/sh"`}},
		{"an absolute path for a type", `{"plugins": [{"type": "/bin/sh"}]}`, []string{"plugins[0]", `"/bin/sh"`}},
		{"dots for a type", `{"type": ".."}`, []string{`"type"`, `".."`}},
		{"a zero byte in a type", `{"type": "a\u0000"}`, []string{`"type"`}},
		{"a type of 201 bytes", fmt.Sprintf(`{"type": %q}`, strings.Repeat("t", 201)), []string{`"type"`}},
		{"plexus below plexus", `{"type": "plexus"}`, []string{`"type"`, "plexus cannot be a delegate of itself"}},
		{"a plexus of another name below plexus", `{"type": "plexus-canary"}`, []string{`"type"`, `"plexus-canary"`, "plexus cannot be a delegate of itself"}},
		{"multus below plexus", `{"type": "multus", "binDir": "/home/tenant"}`, []string{`"type"`, `"multus"`, "takes Multus' place"}},
		{"multus-shim below plexus", `{"plugins": [{"type": "bridge"}, {"type": "multus-shim"}]}`, []string{"plugins[1]", `"type"`, `"multus-shim"`, "takes Multus' place"}},
		{"plexus within a list", `{"plugins": [{"type": "a"}, {"type": "plexus"}]}`, []string{"plugins[1]", "itself"}},
		{"a name with a path", `{"name": "../../x", "type": "a"}`, []string{`"name"`, `"../../x"`}},
		{"a name with a line break", `{"name": "x\n", "type": "a"}`, []string{`"name"`}},
		{"a name of 201 bytes", fmt.Sprintf(`{"name": %q, "type": "a"}`, strings.Repeat("n", 201)), []string{`"name"`, "200"}},
		{"a name that is a list", `{"name": [], "type": "a"}`, []string{`"name"`, "want a string"}},
		{"an unknown version", `{"cniVersion": "7.0.0", "type": "a"}`, []string{`"cniVersion"`, `"7.0.0"`}},
		{"capabilities that are no flags", `{"type": "a", "capabilities": {"ips": "yes"}}`, []string{"capabilities", "true or false"}},
		{"a giant", `{"type": "a", "x": "` + strings.Repeat("x", 1<<20) + `"}`, []string{"at most"}},
		{"a deep nest", `{"type": ` + strings.Repeat("[", 100000), []string{"invalid JSON"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := nad(test.config).ParseList("1.1.0")
			checkError(t, err, append(test.says, nadName)...)
		})
	}
}

func TestParseListRefusesAFallbackThatIsNoNetworkName(t *testing.T) {
	d := &conf.Definition{Origin: "file /x", Fallback: "my network", Config: []byte(`{"type": "a"}`)}
	_, err := d.ParseList("")
	checkError(t, err, "file /x", `"name"`, `"my network"`)
}

func TestPluginOfType(t *testing.T) {
	for _, test := range []struct{ name, config, want string }{
		{"a single configuration is that plugin", `{"name": "n", "type": "x", "a": 1}`, `{"name": "n", "type": "x", "a": 1}`},
		{"a member of a list has the list's name and version", `{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "y"}, {"type": "x", "name": "own", "a": 1}]}`,
			`{"cniVersion": "1.0.0", "name": "n", "type": "x", "a": 1}`},
		{"the first of two", `{"name": "n", "plugins": [{"type": "x", "a": 1}, {"type": "x", "a": 2}]}`, `{"name": "n", "type": "x", "a": 1}`},
		{"a list without a name leaves the member's", `{"plugins": [{"type": "x", "name": "own"}]}`, `{"type": "x", "name": "own"}`},
		{"a single configuration of another type", `{"type": "y"}`, ""},
		{"a list without it", `{"plugins": [{"type": "y"}, null, {"type": 1}]}`, ""},
		{"an empty list", `{"plugins": []}`, ""},
		{"a text that is no configuration", `x`, ""},
		{"nothing", ``, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := nad(test.config).PluginOfType("x")
			if test.want == "" {
				checkEqual(t, string(got), "")
				return
			}
			checkJSON(t, got, test.want)
		})
	}
}

func TestATypeCannotHideBehindTheSameKeyInOtherCase(t *testing.T) {
	for _, hidden := range []string{"plexus", "../../bin/sh"} {
		for _, config := range []string{
			fmt.Sprintf(`{"type": %q, "Type": "macvlan"}`, hidden),
			fmt.Sprintf(`{"plugins": [{"type": %q, "TYPE": "macvlan"}]}`, hidden),
		} {
			t.Run(config, func(t *testing.T) {
				p, _, err := request{conf: settings(""), pod: podWith("a"), networks: map[string]string{"shop/a": config}}.plan()
				if err == nil && p.Networks[1].List.Types()[0] != "macvlan" {
					t.Errorf("type %q was checked, type %q is executed", "macvlan", p.Networks[1].List.Types()[0])
				}
			})
		}
	}
}

func TestAnUnknownVersionOfANetworkListsTheKnownOnes(t *testing.T) {
	_, err := nad(`{"cniVersion": "7.0.0", "type": "a"}`).ParseList("")
	checkError(t, err, `"cniVersion"`, "7.0.0", "1.1.0")
}

func TestTheFlagsOfAListMayBeTexts(t *testing.T) { // as in libcni's NetworkConfFromBytes
	l, err := nad(`{"disableCheck": "true", "plugins": [{"type": "a"}]}`).ParseList("")
	checkError(t, err)
	checkEqual(t, l.DisableCheck, true)
}

func TestAWrongFlagOfAListNamesItsKey(t *testing.T) {
	for _, value := range []string{`"perhaps"`, "1", `"1"`, "[]"} { // libcni takes true, false, "true", "false"
		t.Run(value, func(t *testing.T) {
			_, err := nad(`{"disableGC": ` + value + `, "plugins": [{"type": "a"}]}`).ParseList("")
			checkError(t, err, nadName, `"disableGC"`, "true or false")
		})
	}
}

func TestAWrongValueInAListNamesItsKeyAsItIsWritten(t *testing.T) {
	_, err := nad(`{"name": 1, "plugins": [{"type": "a"}]}`).ParseList("")
	checkError(t, err, nadName, `"name"`)
}
