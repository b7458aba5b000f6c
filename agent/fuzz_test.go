package agent

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// FuzzValidate feeds files of every kind, the examples and the corpus first:
// nothing panics, and what is said has a place and fits into a log.
func FuzzValidate(f *testing.F) {
	for _, pattern := range []string{"../examples/*", "../conf/testdata/corpus/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: no files, %v", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(filepath.Ext(file), data)
		}
	}
	f.Add(".json", []byte(`{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "annotations": {"k8s.v1.cni.cncf.io/networks": "[{}]"}}}`))
	f.Add(".conf", []byte(`{"type": "multus", "name": "n", "delegates": [{"type": "sriov"}, {"plugins": [{"type": "userspace"}]}]}`))
	f.Fuzz(func(t *testing.T, ext string, data []byte) {
		file := "x" + ext
		documents, findings := Validate(file, data)
		if documents < 0 {
			t.Errorf("%d documents", documents)
		}
		for _, finding := range findings {
			if !strings.HasPrefix(finding.Where, file) || finding.Problem == "" {
				t.Errorf("finding %+v", finding)
			}
		}
	})
}

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

// FuzzParseRequest feeds bodies of requests: what is read is what plexus would have
// written.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("version=1\x00id=x\x00as=plexus\x00CNI_COMMAND=ADD\x00CNI_ARGS=\x00\x00{}"))
	f.Add([]byte("version=1\x00\x00\x00\x00"))
	f.Add([]byte("=\x00\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseRequest(body)
		if err != nil {
			if len(err.Error()) > 500 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		pairs, stdin, _ := bytes.Cut(body, []byte("\x00\x00"))
		if got, err := io.ReadAll(c.Stdin); err != nil || !bytes.Equal(got, stdin) {
			t.Errorf("%q: standard input %q, %v", body, got, err)
		}
		want := map[string]string{}
		for pair := range strings.SplitSeq(string(pairs), "\x00") {
			key, value, _ := strings.Cut(pair, "=")
			want[key] = value
		}
		if version, err := strconv.Atoi(want["version"]); err != nil || version < 1 || c.ID != want["id"] || c.As != want["as"] {
			t.Errorf("%q: %+v", body, c)
		}
		for key, value := range want {
			if got := c.Getenv(key); strings.HasPrefix(key, "CNI_") && got != value || !strings.HasPrefix(key, "CNI_") && got != "" {
				t.Errorf("%q: %q is %q", body, key, got)
			}
		}
	})
}
