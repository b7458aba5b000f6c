package conf_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/kube"
)

var update = flag.Bool("update", false, "write the golden files anew")

// checkError wants an error whose text has every part, or none when there are
// no parts.
func checkError(t *testing.T, err error, parts ...string) {
	t.Helper()
	switch {
	case len(parts) == 0 && err != nil:
		t.Fatalf("got error %q, want none", err)
	case len(parts) > 0 && err == nil:
		t.Fatalf("got no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// checkEqual compares two values and prints them as JSON, or in Go's form when
// that hides the difference.
func checkEqual(t *testing.T, got, want any) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	g, w := asJSON(t, got), asJSON(t, want)
	if bytes.Equal(g, w) {
		t.Errorf("got %#v\nwant %#v", got, want)
		return
	}
	t.Errorf("got %s\nwant %s", g, w)
}

// checkJSON compares two JSON texts by value.
func checkJSON(t *testing.T, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("got %s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("want %s: %v", want, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// checkGolden compares a value as JSON with a file below testdata.
func checkGolden(t *testing.T, name string, got any) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden.json")
	out := append(asJSON(t, got), '\n')
	if *update {
		if err := os.WriteFile(file, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want) {
		t.Errorf("differs from %s (go test ./conf -update writes it anew):\n%s", file, out)
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// examples are the files of the examples folder by path.
func examples(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir("../examples", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// exampleDocuments are the pods and networks of the examples folder.
func exampleDocuments(t testing.TB) []*kube.Document {
	t.Helper()
	var all []*kube.Document
	for path, data := range examples(t) {
		switch filepath.Ext(path) {
		case ".yaml", ".yml":
			found, err := kube.ParseManifests(path, data)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, found...)
		}
	}
	return all
}
