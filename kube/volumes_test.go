package kube

import (
	"encoding/json"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/conf"
)

// The API server and a manifest tell the same of a pod's volumes: what the host can reach, where
// a container mounts the whole of it, and of which kind a shared-dir is that the host cannot reach.
func TestVolumes(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		want       []conf.Volume
	}{
		{"the first of the pod's own containers that mounts it", `
volumes: [{name: shared-dir, emptyDir: {}}]
initContainers: [{name: i, volumeMounts: [{name: shared-dir, mountPath: /init}]}]
containers: [{name: a}, {name: b, volumeMounts: [{name: shared-dir, mountPath: /b}]}, {name: c, volumeMounts: [{name: shared-dir, mountPath: /c}]}]`,
			[]conf.Volume{{Name: "shared-dir", Mount: "/b"}}},
		{"an init container, which may be a sidecar", `
volumes: [{name: shared-dir, emptyDir: {}}]
initContainers: [{name: i, restartPolicy: Always, volumeMounts: [{name: shared-dir, mountPath: /init}]}]
containers: [{name: a}]`,
			[]conf.Volume{{Name: "shared-dir", Mount: "/init"}}},
		{"a part of the volume is not the volume", `
volumes: [{name: shared-dir, emptyDir: {}}]
containers: [{name: a, volumeMounts: [{name: shared-dir, mountPath: /a, subPath: x}, {name: shared-dir, mountPath: /b, subPathExpr: $(POD)}]}]`,
			[]conf.Volume{{Name: "shared-dir"}}},
		{"a hostPath of another name", `
volumes: [{name: sockets, hostPath: {path: /run/plexus}}, {name: settings, configMap: {name: x}}]
containers: [{name: a, volumeMounts: [{name: settings, mountPath: /s}, {name: sockets, mountPath: /run/plexus}]}]`,
			[]conf.Volume{{Name: "sockets", HostPath: "/run/plexus", Mount: "/run/plexus"}}},
		{"kinds that the host cannot reach", `
volumes: [{name: shared-dir, persistentVolumeClaim: {claimName: x}}]
containers: [{name: a, volumeMounts: [{name: shared-dir, mountPath: /a}]}]`,
			[]conf.Volume{{Name: "shared-dir", Mount: "/a", Kind: "persistentVolumeClaim"}}},
		{"an image", `
volumes: [{name: shared-dir, image: {reference: x}}]
containers: [{name: a}]`,
			[]conf.Volume{{Name: "shared-dir", Kind: "image"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &corev1.Pod{}
			spec, err := yaml.YAMLToJSON([]byte(c.spec))
			if err == nil {
				err = json.Unmarshal(spec, &p.Spec)
			}
			if err != nil {
				t.Fatal(err)
			}
			slimmed, _ := slim(p)
			manifest, err := parsePod(&object{Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			for from, got := range map[string]*conf.Pod{"the API server": podOf(p), "the agent": podOf(slimmed.(*corev1.Pod)), "a manifest": manifest} {
				if !reflect.DeepEqual(got.Volumes, c.want) {
					t.Errorf("from %s: %+v, want %+v", from, got.Volumes, c.want)
				}
			}
		})
	}
}
