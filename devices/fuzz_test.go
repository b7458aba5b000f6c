package devices

import (
	"encoding/json"
	"testing"
)

// Settings are refused or understood, and never cause a panic.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{"resources": [{"name": "x.com/a", "pf": ["eth0"], "vf": "0-3,7"}]}`,
		`{"resources": [{"name": "x.com/a", "bridge": "br0", "ports": 5}, {"name": "x.com/b", "vpp": "/a"}]}`,
		`{"resourceList": [{"resourceName": "a", "selectors": [{"pfNames": ["eth0#0-1"]}, {}]}]}`,
		`null`, `{"resources": [null]}`, `[]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		all, _ := Parse(json.RawMessage(text))
		given, _ := Assign(all, []Function{{PCI: "0000:01:02.0", PF: "0000:01:00.0", PFName: "eth0", Driver: "iavf"}})
		for name := range given {
			if checkName(name) != nil {
				t.Errorf("resource %q", name)
			}
		}
	})
}
