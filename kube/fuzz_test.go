package kube_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

// hostile are texts that have broken parsers before.
var hostile = []string{
	"", "---", "--- ---", "...", "\xef\xbb\xbf" + podWeb, "\x00", "\xff", "null", "~", "- a", "a", "[", "{", "%YAML 1.2\n---\n" + podWeb,
	broken + "---\n" + podWeb, strings.ReplaceAll(podWeb, "\n", "\r\n"), strings.ReplaceAll(podWeb, "\n", "\r"),
	"a: &a [*a]", "a: &a {b: *a}", "<<: {a: b}", "? {a: b}\n: c", "!!binary aGFsbG8=", "? !!float .nan\n: 1", "1: 2\n1.0: 3", "true: 1\n\"true\": 2",
	"{apiVersion: v1, kind: Pod, metadata: {name: ../x}}", "{apiVersion: v1, kind: Pod, metadata: null, spec: null}",
	"{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {volumes: [null], containers: [null]}}",
	"{apiVersion: v1, kind: Pod, metadata: {name: a, uid: ../.., annotations: null}, spec: {volumes: [{name: shared-dir, emptyDir: {}}]}}",
	"{kind: List, items: null}", "{kind: List, items: [null, [], {kind: List, items: [{}]}]}", "{kind: PodList, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}",
	"{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {name: a}, spec: {config: |\n}}",
	"apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: a}\nspec:\n  config: |\n    ---\n    {}\n",
	nadFast, nadBare, podWeb + "---\n" + nadFast,
}

func FuzzParseManifests(f *testing.F) {
	for _, text := range hostile {
		f.Add(text)
	}
	err := filepath.WalkDir("../examples", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		f.Add(string(data))
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		documents, _ := kube.ParseManifests("x.yaml", []byte(text))
		for _, d := range documents {
			if (d.Pod == nil) == (d.Network == nil) {
				t.Fatalf("%s is neither a pod nor a network, or both", d)
			}
			if d.Number < 1 || d.File != "x.yaml" {
				t.Errorf("its place is %s", d)
			}
			if d.Pod != nil {
				checkPod(t, d.Pod)
			} else {
				checkNetwork(t, d.Network)
			}
		}
	})
}

func checkPod(t *testing.T, p *conf.Pod) {
	t.Helper()
	if err := conf.CheckObjectName(p.Namespace, p.Name); err != nil {
		t.Error(err)
	}
	if place := (&kube.Manifests{Dir: "/m"}).StatusPlace(p); filepath.Dir(place) != "/m" {
		t.Errorf("its status would be at %q", place)
	}
	for _, v := range p.Volumes {
		if v.HostPath == "" && strings.ContainsAny(p.UID, "/.") && p.HostDir(v.Name) != "" && !anyHostPath(p, v.Name) {
			t.Errorf("UID %q leads to %q", p.UID, p.HostDir(v.Name))
		}
	}
	again := parseOne(t, map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"name": p.Name, "namespace": p.Namespace, "uid": p.UID, "annotations": p.Annotations},
	}).Pod
	want := &conf.Pod{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Annotations: p.Annotations}
	if !reflect.DeepEqual(again, want) {
		t.Errorf("written and read again\ngot  %#v\nwant %#v", again, want)
	}
}

func anyHostPath(p *conf.Pod, volume string) bool {
	for _, v := range p.Volumes {
		if v.Name == volume && v.HostPath != "" {
			return true
		}
	}
	return false
}

func checkNetwork(t *testing.T, d *conf.Definition) {
	t.Helper()
	namespace, name, _ := strings.Cut(d.Name, "/")
	if err := conf.CheckObjectName(namespace, name); err != nil {
		t.Error(err)
	}
	again := parseOne(t, map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": namespace, "annotations": map[string]string{conf.ResourceNameAnnotation: d.ResourceName}},
		"spec":     map[string]any{"config": string(d.Config)},
	}).Network
	if !reflect.DeepEqual(again, d) {
		t.Errorf("written and read again\ngot  %#v\nwant %#v", again, d)
	}
	if list, err := d.ParseList(""); err == nil && len(list.Types()) == 0 {
		t.Error("a network without plugins")
	}
}

// parseOne writes an object as JSON and reads it again.
func parseOne(t *testing.T, object any) *kube.Document {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := kube.ParseManifests("again.json", text)
	if err != nil || len(documents) != 1 {
		t.Fatalf("%s does not parse again: %d documents, %v", text, len(documents), err)
	}
	return documents[0]
}
