package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
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
