package conf_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// port is a configuration as a built-in delegate would have it.
type port struct {
	common
	VLAN   *int   `json:"vlan"`
	MTU    uint16 `json:"mtu"`
	ID     string `json:"id"`
	Socket *struct {
		Mode string `json:"mode"`
		Path string `json:"path"`
	} `json:"socket"`
	Trunk []struct {
		Min int `json:"minID"`
		Max int `json:"maxID"`
	} `json:"trunk"`
	Free   map[string]json.RawMessage `json:"free"`
	Raw    json.RawMessage            `json:"raw"`
	Odd    selfMade                   `json:"odd"`
	Hidden string                     `json:"-"`
	Plain  string
}

type common struct {
	Bridge string `json:"bridge"`
}

// selfMade decodes itself.
type selfMade struct{ text string }

func (s *selfMade) UnmarshalJSON(data []byte) error {
	s.text = string(data)
	return nil
}

func decode(text string, s conf.Strictness) (port, []string, error) {
	var p port
	warnings, err := conf.Decode("network blue", []byte(text), &p, s)
	return p, warnings, err
}

// A key of another plugin that restricts or isolates is not dropped.
func TestDecodeRefusesUnknownRestrictions(t *testing.T) {
	for _, key := range []string{"vlan_trunk", "vlanTrunk", "rdmaIsolation", "pkey", "qos", "macspoofchk", "max_rate", "rateLimit", "portIsolation", "qosPolicy", "ingressACL", "trusted"} {
		_, _, err := decode(`{"`+key+`": "7"}`, conf.RefuseSlips)
		checkError(t, err, "network blue", key, "restrict or isolate")
		_, _, err = decode(`{"socket": {"`+key+`": {"x": 1}}}`, conf.RefuseSlips)
		checkError(t, err, "socket."+key)
		for _, nothing := range []string{"null", "false", "0", `""`, `"off"`, "[]", "{}"} {
			_, warnings, err := decode(`{"`+key+`": `+nothing+`}`, conf.RefuseSlips)
			checkError(t, err)
			checkEqual(t, len(warnings), 1)
		}
	}
	for _, key := range []string{"operator", "iterate", "colour", "delimiter", "trace"} {
		_, warnings, err := decode(`{"`+key+`": "7"}`, conf.RefuseSlips)
		checkError(t, err)
		checkEqual(t, len(warnings), 1)
	}
}

func TestDecodeReadsValues(t *testing.T) {
	p, warnings, err := decode(`{"bridge": "br0", "vlan": 7, "MTU": 9000, "socket": {"Mode": "client"}, "trunk": [{"minID": 1, "maxID": 9}],
		"free": {"x": {"y": 1}}, "raw": {"z": [1]}, "odd": {"w": 1}, "plain": "p"}`, conf.RefuseUnknown)
	checkError(t, err)
	checkEqual(t, warnings, []string(nil))
	checkEqual(t, p.Bridge, "br0")
	checkEqual(t, *p.VLAN, 7)
	checkEqual(t, p.MTU, uint16(9000))
	checkEqual(t, p.Socket.Mode, "client")
	checkEqual(t, p.Trunk[0].Max, 9)
	checkEqual(t, p.Odd.text, `{"w": 1}`)
	checkEqual(t, p.Plain, "p")
}

func TestDecodeWithRefuseSlips(t *testing.T) {
	for _, test := range []struct {
		name, text string
		says       []string // of the error
		warns      []string // one part of each warning
	}{
		{name: "known keys pass in silence", text: `{"vlan": 7, "Bridge": "br0"}`},
		{name: "the keys of CNI pass in silence", text: `{"cniVersion": "1.1.0", "name": "n", "type": "t", "ipam": {"type": "host-local"}, "dns": {},
			"args": {}, "capabilities": {}, "runtimeConfig": {}, "prevResult": {}, "cni.dev/attachments": []}`},
		{name: "a letter too many is refused", text: `{"vlann": 7}`, says: []string{"network blue", `"vlann"`, `"vlan"`}},
		{name: "a letter too few is refused", text: `{"bridg": "x"}`, says: []string{`"bridg"`, `"bridge"`}},
		{name: "another letter is refused", text: `{"vlan": 1, "mtv": 1500}`, says: []string{`"mtv"`, `"mtu"`}},
		{name: "swapped neighbours are refused", text: `{"vlna": 7}`, says: []string{`"vlna"`, `"vlan"`}},
		{name: "a slip in other case is refused", text: `{"VLNA": 7}`, says: []string{`"VLNA"`, `"vlan"`}},
		{name: "a slip below a section is refused with its path", text: `{"socket": {"mod": "client"}}`, says: []string{`"socket.mod"`, `"socket.mode"`}},
		{name: "a slip in a list of sections is refused with its place", text: `{"trunk": [{"minID": 1}, {"maxI": 2}]}`, says: []string{`"trunk[1].maxI"`, `"trunk[1].maxID"`}},
		{name: "two slips are both named", text: `{"vlna": 7, "bridg": "x"}`, says: []string{`"vlna"`, `"bridg"`}},
		{name: "an unrelated key gives one warning", text: `{"isGateway": true}`, warns: []string{`"isGateway"`}},
		{name: "two slips away is another word", text: `{"vxlans": 7}`, warns: []string{`"vxlans"`}},
		{name: "each unrelated key gives its own warning, in order", text: `{"zone": 1, "hairpinMode": true}`, warns: []string{`"hairpinMode"`, `"zone"`}},
		{name: "an unrelated key with a section inside gives one warning", text: `{"vendor": {"a": 1, "b": {"c": 2}}}`, warns: []string{`"vendor"`}},
		{name: "an unrelated key below a section", text: `{"socket": {"backlog": 5}}`, warns: []string{`"socket.backlog"`}},
		{name: "an unrelated key in a list of sections", text: `{"trunk": [{"comment": "x"}]}`, warns: []string{`"trunk[0].comment"`}},
		{name: "maps, raw JSON and types that decode themselves are their own matter", text: `{"free": {"vlna": 1}, "raw": {"vlna": 1}, "odd": {"vlna": 1}}`},
		{name: "a key of two letters is too short to be a slip", text: `{"ip": 1}`, warns: []string{`"ip"`}},
		{name: "a very long key is no slip", text: `{"` + strings.Repeat("plain", 80) + `": 1}`, warns: []string{"plainplain"}},
		{name: "a field without JSON is unknown", text: `{"hidden": "x"}`, warns: []string{`"hidden"`}},
		{name: "a reserved name is not reserved below the top", text: `{"socket": {"prevResult": 1}}`, warns: []string{`"socket.prevResult"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, warnings, err := decode(test.text, conf.RefuseSlips)
			checkError(t, err, test.says...)
			if len(warnings) != len(test.warns) {
				t.Fatalf("warnings %q, want %d", warnings, len(test.warns))
			}
			for i, part := range test.warns {
				if !strings.Contains(warnings[i], part) || !strings.Contains(warnings[i], "network blue") {
					t.Errorf("warning %q does not name %s of network blue", warnings[i], part)
				}
			}
		})
	}
}

func TestDecodeWithRefuseUnknownRefusesWhatSlipsWouldWarnOf(t *testing.T) {
	_, warnings, err := decode(`{"isGateway": true}`, conf.RefuseUnknown)
	checkError(t, err, `network blue: unknown key "isGateway"`)
	checkEqual(t, warnings, []string(nil))
}

func TestDecodeNamesTheKeyOfAWrongValue(t *testing.T) {
	for _, test := range []struct {
		name, text string
		says       []string
	}{
		{"a string for a pointer to a number", `{"vlan": "7"}`, []string{`"vlan"`, "a number", "got string"}},
		{"a negative number for an unsigned one", `{"mtu": -1}`, []string{`"mtu"`, "0 or more", "-1"}},
		{"a number beyond 16 bits", `{"mtu": 65536}`, []string{`"mtu"`, "range", "65536"}},
		{"a list for a section", `{"socket": []}`, []string{`"socket"`, "want an object", "got array"}},
		{"a section for a list", `{"trunk": {}}`, []string{`"trunk"`, "want a list", "got object"}},
		{"within a list", `{"trunk": [{"minID": true}]}`, []string{"trunk", "minID", "got bool"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := decode(test.text, conf.RefuseSlips)
			checkError(t, err, append(test.says, "network blue")...)
		})
	}
}

func TestDecodeNamesTheNearestKeyWhicheverOrderTheyComeIn(t *testing.T) {
	var two struct {
		A string `json:"hostPort"`
		B string `json:"hostPart"`
	}
	for range 50 {
		_, err := conf.Decode("x", []byte(`{"hostPxrt": "1"}`), &two, conf.RefuseSlips)
		checkError(t, err, `"hostPart"`)
	}
}
