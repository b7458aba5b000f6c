package call

import (
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// FuzzAsVersion feeds results: in every version that plexus answers it is one
// that can be read as that version, or it is refused.
func FuzzAsVersion(f *testing.F) {
	for _, v := range append(version.All.SupportedVersions(), "", "9.9.9", "x") {
		f.Add(v, `{"interfaces": [{"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/ns", "mtu": 1500, "socketPath": "/s", "pciID": "p"}],
			"ips": [{"address": "10.0.0.7/24", "gateway": "10.0.0.1", "interface": 0}, {"address": "fd00::7/64"}],
			"routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1", "mtu": 1400, "table": 7, "priority": 3, "scope": 0, "advmss": 1300}], "dns": {"domain": "a"}}`)
	}
	f.Fuzz(func(t *testing.T, cniVersion, text string) {
		r := &types100.Result{}
		if json.Unmarshal([]byte(text), r) != nil || strings.Contains(strings.ToLower(text), "null") {
			return
		}
		for _, ip := range r.IPs {
			if ip.Address.IP == nil {
				return // refused where it comes from
			}
		}
		for _, route := range r.Routes {
			if route.Dst.IP == nil {
				return // likewise
			}
		}
		out, err := asVersion(r, cniVersion)
		if err != nil {
			return
		}
		data, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		if cniVersion == "" {
			cniVersion = "0.1.0"
		}
		if _, err := version.NewResult(cniVersion, data); err != nil {
			t.Errorf("it cannot be read as %s: %v\n%s", cniVersion, err, data)
		}
	})
}

// FuzzValidAttachments feeds what a runtime says to GC.
func FuzzValidAttachments(f *testing.F) {
	for _, seed := range []string{`{}`, `{"cni.dev/valid-attachments": []}`, `{"cni.dev/valid-attachments": null}`, `{"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, null]}`, `[]`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stdin []byte) {
		valid, err := validAttachments(stdin)
		if err != nil {
			return
		}
		var c map[string]json.RawMessage
		if json.Unmarshal(stdin, &c) != nil {
			t.Errorf("%d attachments of what is no object", len(valid))
		}
	})
}
