package conf_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

const annotation = "pod shop/web: annotation " + conf.NetworksAnnotation

func selections(text string) ([]conf.Selection, []string, error) {
	return conf.ParseSelections(annotation, text, "shop")
}

func TestTheShortFormOfTheNetworksAnnotation(t *testing.T) {
	at := func(namespace, name, ifName string) conf.Selection {
		return conf.Selection{Namespace: namespace, Name: name, Interface: ifName}
	}
	for _, test := range []struct {
		name, text string
		want       []conf.Selection
	}{
		{"nothing", "", nil},
		{"white space is nothing", " \n\t ", nil},
		{"a name is in the pod's namespace", "fast", []conf.Selection{at("shop", "fast", "")}},
		{"a namespace", "lab/fast", []conf.Selection{at("lab", "fast", "")}},
		{"an interface", "fast@data0", []conf.Selection{at("shop", "fast", "data0")}},
		{"all three", "lab/fast@data0", []conf.Selection{at("lab", "fast", "data0")}},
		{"several, in order", "b,a,lab/c@x", []conf.Selection{at("shop", "b", ""), at("shop", "a", ""), at("lab", "c", "x")}},
		{"one network twice", "a,a", []conf.Selection{at("shop", "a", ""), at("shop", "a", "")}},
		{"white space and line breaks between elements", " a ,\n\tb@x ,c ", []conf.Selection{at("shop", "a", ""), at("shop", "b", "x"), at("shop", "c", "")}},
		{"a name with dots", "fast.vlan7", []conf.Selection{at("shop", "fast.vlan7", "")}},
		{"a name of 200 bytes", strings.Repeat("n", 200), []conf.Selection{at("shop", strings.Repeat("n", 200), "")}},
		{"an interface name of 15 bytes", "a@" + strings.Repeat("i", 15), []conf.Selection{at("shop", "a", strings.Repeat("i", 15))}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, warnings, err := selections(test.text)
			checkError(t, err)
			checkEqual(t, got, test.want)
			checkEqual(t, warnings, []string(nil))
		})
	}
}

func TestTheJSONFormOfTheNetworksAnnotation(t *testing.T) {
	got, warnings, err := selections(` [
		{
			"name": "fast", "namespace": "lab", "interface": "data0",
			"ips": ["10.0.0.7", "10.0.0.8/24", "fd00::7/64"],
			"mac": "02:00:00:00:00:07",
			"infiniband-guid": "02:00:00:00:00:00:00:07",
			"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"}],
			"bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000, "egressBurst": 4000},
			"deviceID": "0000:03:02.1",
			"cni-args": {"queues": 4, "labels": {"a": "b"}},
			"default-route": ["10.0.0.1", "fd00::1"]
		},
		{"name": "slow", "ipam-claim-reference": "claim"},
		{"name": "old", "interfaceRequest": "data1"},
		{"name": "both", "interface": "data2", "interfaceRequest": "data3"}
	] `)
	checkError(t, err)
	checkEqual(t, warnings, []string(nil))
	checkEqual(t, got, []conf.Selection{
		{
			Name: "fast", Namespace: "lab", Interface: "data0",
			IPs:            []string{"10.0.0.7", "10.0.0.8/24", "fd00::7/64"},
			MAC:            "02:00:00:00:00:07",
			InfinibandGUID: "02:00:00:00:00:00:00:07",
			PortMappings:   []conf.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp", HostIP: "192.0.2.1"}},
			Bandwidth:      &conf.Bandwidth{IngressRate: 1000, IngressBurst: 2000, EgressRate: 3000, EgressBurst: 4000},
			DeviceID:       "0000:03:02.1",
			CNIArgs:        map[string]json.RawMessage{"queues": json.RawMessage("4"), "labels": json.RawMessage(`{"a": "b"}`)},
			DefaultRoute:   []string{"10.0.0.1", "fd00::1"},
		},
		{Name: "slow", Namespace: "shop", IPAMClaimReference: "claim"},
		{Name: "old", Namespace: "shop", Interface: "data1", InterfaceRequest: "data1"},
		{Name: "both", Namespace: "shop", Interface: "data2", InterfaceRequest: "data3"},
	})
}

func TestAnEmptyJSONListSelectsNothing(t *testing.T) {
	got, _, err := selections("[]")
	checkError(t, err)
	checkEqual(t, len(got), 0)
}

func TestAnUnknownKeyOfASelectionGivesOneWarning(t *testing.T) {
	got, warnings, err := selections(`[{"name": "a"}, {"name": "b", "vendorHint": {"x": [1, 2]}}]`)
	checkError(t, err)
	checkEqual(t, len(got), 2)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "network 2") || !strings.Contains(warnings[0], `"vendorHint"`) {
		t.Errorf("warnings %q, want one that names network 2 and vendorHint", warnings)
	}
}

func TestParseSelectionsRefuses(t *testing.T) {
	element := func(more string) string { return `[{"name": "ok"}, {"name": "b", ` + more + `}]` }
	for _, test := range []struct {
		name, text string
		says       []string
	}{
		// The short form.
		{"a path upwards", "../x", []string{`".."`, "DNS label"}},
		{"a name upwards", "..", []string{`".."`}},
		{"an absolute path", "/etc/passwd", []string{"no namespace before '/'"}},
		{"two slashes", "a/b/c", []string{`"b/c"`}},
		{"only a slash", "/", []string{"no namespace before '/'"}},
		{"no name behind the slash", "lab/", []string{`name ""`}},
		{"only an at sign", "@", []string{"no interface name after '@'"}},
		{"no interface behind the at sign", "a@", []string{"no interface name after '@'"}},
		{"no name before the at sign", "@net1", []string{`name ""`}},
		{"two at signs", "a@b@c", []string{`"interface"`, "'@'"}},
		{"an interface with a path", "a@../x", []string{`"interface"`, "'/'"}},
		{"an interface name of 16 bytes", "a@" + strings.Repeat("i", 16), []string{`"interface"`, "16 bytes", "15"}},
		{"an empty element in the middle", "a,,b", []string{"network 2", `name ""`}},
		{"an empty element at the end", "a,", []string{"network 2", `name ""`}},
		{"only commas", ",,,", []string{"network 1", "network 4"}},
		{"a blank in a name", "a b", []string{`"a b"`}},
		{"capital letters", "Fast", []string{`"Fast"`, "lower-case"}},
		{"an underscore", "a_b", []string{`"a_b"`}},
		{"a dot in a namespace", "a.b/c", []string{`"a.b"`, "DNS label"}},
		{"a dash in front", "-a", []string{`"-a"`}},
		{"a zero byte", "a\x00b", []string{`"a\x00b"`}},
		{"letters that look like others", "f\u0430st", []string{"DNS subdomain"}},
		{"bytes that are no text", "\xff\xfe", []string{"DNS subdomain"}},
		{"a name of 254 bytes", strings.Repeat("n", 254), []string{"253"}},
		{"a namespace of 64 bytes", strings.Repeat("n", 64) + "/a", []string{"63"}},
		{"65 networks", strings.Repeat("a,", 64) + "a", []string{"65 networks", "64"}},
		{"1000 networks", strings.Repeat("a,", 999) + "a", []string{"1000 networks", "64"}},
		{"a huge text", strings.Repeat("a", 300<<10), []string{"at most"}},
		{"huge white space", strings.Repeat(" ", 300<<10), []string{"at most"}},

		// The JSON form.
		{"an object", `{"name": "a"}`, []string{"want a JSON list"}},
		{"a string", `"a"`, []string{"want a JSON list"}},
		{"a list of strings", `["a"]`, []string{"network 1", "want an object", "got string"}},
		{"a list of null", `[null]`, []string{"network 1", "JSON object"}},
		{"a list of lists", `[[]]`, []string{"network 1", "want an object"}},
		{"an unfinished list", `[{"name": "a"}`, []string{"invalid JSON"}},
		{"two lists", `[][]`, []string{"invalid JSON"}},
		{"a bracket alone", "[", []string{"invalid JSON"}},
		{"a deep nest", strings.Repeat("[", 100000), []string{"want a JSON list"}},
		{"no name", `[{"namespace": "a"}]`, []string{"network 1", `name ""`}},
		{"1000 elements", "[" + strings.Repeat(`{"name": "a"},`, 999) + `{"name": "a"}]`, []string{"1000 networks", "64"}},
		{"a slip of the pen", element(`"interfaces": "x"`), []string{"network 2", `"interfaces"`, `"interface"`}},
		{"a slip in a section", element(`"bandwidth": {"ingresRate": 1}`), []string{`"bandwidth.ingresRate"`, `"bandwidth.ingressRate"`}},
		{"a path in a name", `[{"name": "../../etc"}]`, []string{`"../../etc"`}},
		{"a path in a namespace", element(`"namespace": "../x"`), []string{"network 2", `"../x"`}},
		{"a zero byte in a name", `[{"name": "a\u0000"}]`, []string{"network 1"}},
		{"a list for a name", `[{"name": ["a"]}]`, []string{"network 1", `"name"`, "want a string"}},
		{"an interface with a blank", element(`"interface": "a b"`), []string{`"interface"`, "' '"}},
		{"a bad former interface key", element(`"interfaceRequest": "a/b"`), []string{`"interface"`, "'/'"}},
		{"no address", element(`"ips": ["10.0.0.7", "10.0.0"]`), []string{"network 2", `"ips"`, `"10.0.0"`}},
		{"a prefix that is too long", element(`"ips": ["10.0.0.7/33"]`), []string{`"ips"`}},
		{"an empty address", element(`"ips": [""]`), []string{`"ips"`}},
		{"a string for ips", element(`"ips": "10.0.0.7"`), []string{`"ips"`, "want a list", "got string"}},
		{"a hardware address of 5 bytes", element(`"mac": "02:00:00:00:00"`), []string{`"mac"`, "6 bytes"}},
		{"a hardware address of 8 bytes", element(`"mac": "02:00:00:00:00:00:00:01"`), []string{`"mac"`, "6 bytes"}},
		{"a GUID of 6 bytes", element(`"infiniband-guid": "02:00:00:00:00:01"`), []string{`"infiniband-guid"`, "8 bytes"}},
		{"a host port beyond 65535", element(`"portMappings": [{"hostPort": 65536, "containerPort": 80}]`), []string{`"portMappings.hostPort"`, "65535"}},
		{"a negative host port", element(`"portMappings": [{"hostPort": -1, "containerPort": 80}]`), []string{`"portMappings.hostPort"`}},
		{"no container port", element(`"portMappings": [{"hostPort": 80}]`), []string{`"portMappings.containerPort"`, "1 to 65535"}},
		{"an unknown protocol", element(`"portMappings": [{"containerPort": 80, "protocol": "icmp"}]`), []string{`"portMappings.protocol"`, "tcp", "udp", "sctp"}},
		{"a host address that is none", element(`"portMappings": [{"containerPort": 80, "hostIP": "host"}]`), []string{`"portMappings.hostIP"`}},
		{"a string for a port", element(`"portMappings": [{"containerPort": "80"}]`), []string{`portMappings.containerPort"`, "want a number", "got string"}},
		{"a negative rate", element(`"bandwidth": {"ingressRate": -1}`), []string{`"bandwidth"`, "0 or more"}},
		{"a gateway with a prefix", element(`"default-route": ["10.0.0.1/24"]`), []string{`"default-route"`, "10.0.0.1/24"}},
		{"a string for gateways", element(`"default-route": "10.0.0.1"`), []string{`"default-route"`, "want a list"}},
		{"a list for cni-args", element(`"cni-args": [1]`), []string{`"cni-args"`, "want an object"}},
		{"two bad networks, each named", `[{"name": "A"}, {"name": "b"}, {"name": "C"}]`, []string{"network 1", "network 3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := selections(test.text)
			checkError(t, err, append(test.says, annotation)...)
			if got != nil {
				t.Errorf("networks came with the error: %v", got)
			}
		})
	}
}

func TestSixtyFourNetworksAreAllowed(t *testing.T) {
	for name, text := range map[string]string{
		"short form": strings.Repeat("a,", 63) + "a",
		"JSON form":  "[" + strings.Repeat(`{"name": "a"},`, 63) + `{"name": "a"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := selections(text)
			checkError(t, err)
			checkEqual(t, len(got), 64)
		})
	}
}

func TestCheckIfName(t *testing.T) {
	for _, name := range []string{"eth0", "net1", "a", "eth0.100", "br-int", "data_0", strings.Repeat("i", 15)} {
		t.Run("accepts "+name, func(t *testing.T) { checkError(t, conf.CheckIfName(name)) })
	}
	for _, test := range []struct{ name, ifName, says string }{
		{"no name", "", "missing"},
		{"16 bytes", strings.Repeat("i", 16), "16 bytes, at most 15"},
		{"16 bytes in 8 letters", strings.Repeat("ä", 8), "16 bytes"},
		{"this folder", ".", "reserved"},
		{"the folder above", "..", "reserved"},
		{"the loopback", "lo", "reserved"},
		{"the sysctl folder all", "all", "reserved"},
		{"the sysctl folder default", "default", "reserved"},
		{"a slash", "a/b", `'/'`},
		{"a colon, which is an alias", "eth0:1", `':'`},
		{"an at sign", "a@b", `'@'`},
		{"a percent sign, which the kernel numbers", "eth%d", `'%'`},
		{"a blank", "a b", `' '`},
		{"a line break", "a\n", `'\n'`},
		{"a zero byte", "a\x00", `'\x00'`},
		{"a quote", `a"b`, `'"'`},
		{"a delete character", "a\x7f", `'\x7f'`},
		{"an umlaut", "nät", "'ä'"},
		{"a byte that is no text", "a\xff", "not allowed"},
	} {
		t.Run("refuses "+test.name, func(t *testing.T) { checkError(t, conf.CheckIfName(test.ifName), test.says) })
	}
}

func TestCheckObjectName(t *testing.T) {
	for _, test := range []struct{ namespace, name, says string }{
		{"default", "a", ""},
		{"a-b", "a.b-c.d", ""},
		{strings.Repeat("n", 63), strings.Repeat("n", 253), ""},
		{"", "a", "namespace"},
		{"a.b", "a", "namespace"},
		{"A", "a", "namespace"},
		{"a\n", "a", "namespace"},
		{strings.Repeat("n", 64), "a", "63"},
		{"a", "", "name"},
		{"a", "..", "name"},
		{"a", "a..b", "name"},
		{"a", "a/b", "name"},
		{"a", "a\n", "name"},
		{"a", "a_b", "name"},
		{"a", strings.Repeat("n", 254), "253"},
	} {
		t.Run(fmt.Sprintf("%.20q and %.20q", test.namespace, test.name), func(t *testing.T) {
			var says []string
			if test.says != "" {
				says = []string{test.says}
			}
			checkError(t, conf.CheckObjectName(test.namespace, test.name), says...)
		})
	}
}

// What a pod's annotation says goes to the log and back to the runtime.
func TestABadAnnotationDoesNotFloodTheLog(t *testing.T) {
	const bound = 64 << 10
	many := func(element string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(element+",", 64), ",") + "]"
	}
	list := func(element string) string {
		return strings.TrimSuffix(strings.Repeat(element+",", 200<<10/(len(element)+1)), ",")
	}
	keys := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`"unknown%d": 1`, i))
		}
		return strings.Join(all, ",")
	}
	for _, test := range []struct{ name, text string }{
		{"many bad addresses", `[{"name": "a", "ips": [` + list(`"x"`) + `]}]`},
		{"many bad gateways", `[{"name": "a", "default-route": [` + list(`""`) + `]}]`},
		{"many bad port mappings", `[{"name": "a", "portMappings": [` + list(`{}`) + `]}]`},
		{"many unknown keys", `[{"name": "a", ` + keys(10000) + `}]`},
		{"many slips", `[{"name": "a", "portMappings": [` + list(`{"hostPor":1}`) + `]}]`},
		{"bad addresses in every network", many(`{"name": "a", "ips": [` + strings.TrimSuffix(strings.Repeat(`"`+strings.Repeat("x", 80)+`",`, 40), ",") + `]}`)},
		{"a key of 200 KiB", `[{"name": "a", "` + strings.Repeat("k", 200<<10) + `": 1}]`},
		{"a number of 200 KiB", `[{"name": "a", "mac": ` + strings.Repeat("1", 200<<10) + `}]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, warnings, err := selections(test.text)
			n := len(strings.Join(warnings, "\n"))
			if err != nil {
				n += len(err.Error())
			}
			if n > bound {
				t.Errorf("%d bytes of errors and warnings from %d bytes of annotation, want at most %d", n, len(test.text), bound)
			}
		})
	}
}

func TestAnAddressWithAZoneIsRefused(t *testing.T) { // a zone may be any text
	for key, value := range map[string]string{
		"ips":           `["fe80::1%;reboot"]`,
		"default-route": `["fe80::1%../../x"]`,
		"portMappings":  `[{"containerPort": 80, "hostIP": "fe80::1%a b"}]`,
	} {
		t.Run(key, func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", %q: %s}]`, key, value))
			checkError(t, err, key)
		})
	}
}

func TestADeviceIDIsNoPath(t *testing.T) { // plugins look it up below /sys
	for _, id := range []string{"../../../tmp/x", "/dev/vda", "..", "a b", "a\x00", "a\n", strings.Repeat("d", 1000)} {
		t.Run(fmt.Sprintf("refuses %.20q", id), func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", "deviceID": %s}]`, asJSON(t, id)))
			checkError(t, err, `"deviceID"`)
		})
	}
	for _, id := range []string{"0000:03:02.1", "mlx5_core.sf.4", "2f5d3a1e-0c1b-4a52-9f7e-1d2c3b4a5f60", "vdpa0"} {
		t.Run("accepts "+id, func(t *testing.T) {
			_, _, err := selections(fmt.Sprintf(`[{"name": "a", "deviceID": %q}]`, id))
			checkError(t, err)
		})
	}
}

func TestWhiteSpaceAroundThePartsOfTheShortFormIsNothing(t *testing.T) { // as in Multus' parsePodNetworkObjectName
	got, _, err := selections("lab / fast @ data0")
	checkError(t, err)
	checkEqual(t, got, []conf.Selection{{Namespace: "lab", Name: "fast", Interface: "data0"}})
}

func TestUnknownKeysInEveryNetworkDoNotFloodTheLog(t *testing.T) {
	var keys strings.Builder
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		keys.WriteString(`, "` + strings.Repeat(string(c), 60) + `": 1`)
	}
	_, warnings, err := selections("[" + strings.TrimSuffix(strings.Repeat(`{"name": "a"`+keys.String()+`},`, 64), ",") + "]")
	checkError(t, err)
	if n := len(strings.Join(warnings, "\n")); n > 64<<10 {
		t.Errorf("%d bytes of warnings, want at most %d", n, 64<<10)
	}
}
