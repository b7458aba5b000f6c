package kube_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

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

func checkEqual(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

// folder is a folder of files, name, text, ...
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// contents are the names of a folder's files, in order.
func contents(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// found says what documents hold: "pod ns/name" and "network ns/name".
func found(documents []*kube.Document) []string {
	all := []string{}
	for _, d := range documents {
		if d.Pod != nil {
			all = append(all, "pod "+d.Pod.String())
		}
		if d.Network != nil {
			all = append(all, "network "+d.Network.Name)
		}
	}
	return all
}

const (
	podWeb = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
`
	nadFast = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: fast, namespace: shop}
spec:
  config: '{"type": "macvlan", "from": "NAD"}'
`
	nadBare = `apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: bare, namespace: shop}
`
	broken = "kind: [\n"
)

func wantedNAD(namespace, name string) conf.Reference {
	return conf.Reference{Namespace: namespace, Name: name}
}

func wantedAnyForm(name string) conf.Reference {
	return conf.Reference{Namespace: "kube-system", Name: name, AnyForm: true}
}
