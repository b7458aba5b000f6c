package kube

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/utils"
	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube/statusfile"
)

// FuzzStatus feeds status files: Retract removes one that is about the sandbox
// and no other, and Publish replaces whatever is there by one that Retract knows.
func FuzzStatus(f *testing.F) {
	seed, err := os.ReadFile("testdata/shop_web.status.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, "c1", `[{"name": "x", "default": true}]`)
	for _, text := range []string{"", "{", "null", "[]", `{"metadata": null}`, `{"metadata": {"annotations": {"plexus-cni.io/sandbox": "a"}}}`, `{"metadata": {"annotations": {"PLEXUS-CNI.IO/SANDBOX": "a"}}}`} {
		f.Add([]byte(text), "a", "")
	}
	pod := &conf.Pod{Namespace: "shop", Name: "web", UID: "u1"}
	f.Fuzz(func(t *testing.T, text []byte, sandbox, value string) {
		if utils.ValidateContainerID(sandbox) != nil || len(sandbox) > 200 {
			return // the engine refuses it
		}
		m := &Manifests{Dir: t.TempDir()}
		place := m.StatusPlace(pod)
		if err := os.WriteFile(place, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var s object
		own := json.Unmarshal(text, &s) == nil && s.Metadata.Annotations[statusfile.SandboxAnnotation] == sandbox
		if err := m.Retract(context.Background(), place, sandbox); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(place); errors.Is(err, fs.ErrNotExist) != own {
			t.Errorf("about this sandbox: %v, and then %v", own, err)
		}
		if err := m.Publish(context.Background(), pod, sandbox, map[string]string{conf.NetworkStatusAnnotation: value}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(place)
		if err != nil || json.Unmarshal(data, &s) != nil {
			t.Fatalf("published: %s, %v", data, err)
		}
		if err := m.Retract(context.Background(), place, sandbox); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(m.Dir); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// FuzzCheckpoint feeds checkpoints of the kubelet's device manager: each device
// of the pod is there once, and the same every time.
func FuzzCheckpoint(f *testing.F) {
	for _, text := range []string{
		`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"x.com/vf","DeviceIDs":{"1":["d2"],"0":["d1","d2"]}},{"PodUID":"u2","DeviceIDs":["d9"]}]},"Checksum":1}`,
		`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","ResourceName":"x.com/vf","DeviceIDs":["d1"]}]}}`,
		`{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":null}, null]}}`, `{"Data":null}`, `[]`, ``, `{"Data":{"PodDeviceEntries":[{"PodUID":"u1","DeviceIDs":3}]}}`,
	} {
		f.Add([]byte(text))
	}
	pod := &conf.Pod{Namespace: "shop", Name: "web", UID: "u1"}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "checkpoint")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		given, err := readCheckpoint(file, pod)
		if err != nil {
			return
		}
		for resource, devices := range given {
			seen := map[string]bool{}
			for _, d := range devices {
				if seen[d] {
					t.Errorf("resource %q has %q twice", resource, d)
				}
				seen[d] = true
			}
		}
		again, err := readCheckpoint(file, pod)
		if diff := cmp.Diff(given, again); err != nil || diff != "" {
			t.Errorf("read again: %v %s", err, diff)
		}
	})
}
