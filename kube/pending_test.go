package kube_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/kube"
)

func TestABrokenManifestHidesNoNetworkOfConfDir(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", broken), ConfDir: folder(t, "calico.conf", `{"name": "calico", "type": "calico"}`)}
	d, err := network(m, wantedAnyForm("calico"))
	checkError(t, err)
	checkEqual(t, d.Origin, "file "+filepath.Join(m.ConfDir, "calico.conf"))
	t.Run("yet it is named when the network is nowhere", func(t *testing.T) {
		_, err := network(m, wantedAnyForm("nobody"))
		checkError(t, err, `"nobody"`, m.ConfDir, filepath.Join(m.Dir, "a.yaml"))
	})
}

func TestABrokenNetworkFileIsNamedBesideWhatWasLookedFor(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "nad.yaml", nadBare), ConfDir: folder(t, "a.conf", "{")}
	t.Run("a NAD without config", func(t *testing.T) {
		_, err := network(m, wantedNAD("shop", "bare"))
		checkError(t, err, "NetworkAttachmentDefinition shop/bare", filepath.Join(m.ConfDir, "a.conf"))
	})
	t.Run("a network of the configuration", func(t *testing.T) {
		_, err := network(m, wantedAnyForm("calico"))
		checkError(t, err, `"calico"`, filepath.Join(m.ConfDir, "a.conf"))
	})
}

func TestANADThatIsMissingIsNamedBesideABrokenManifest(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", broken)}
	_, err := network(m, wantedNAD("shop", "fast"))
	checkError(t, err, "NetworkAttachmentDefinition shop/fast", filepath.Join(m.Dir, "a.yaml"))
}

func TestAVolumeWithoutASourceIsAnEmptyDir(t *testing.T) { // as the API server fills it in
	for _, volume := range []string{"{name: scratch}", "{name: scratch, emptyDir: null}"} {
		t.Run(volume, func(t *testing.T) {
			documents, err := kube.ParseManifests("x", []byte("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {volumes: ["+volume+"]}}"))
			checkError(t, err)
			checkEqual(t, documents[0].Pod.Volumes, []conf.Volume{{Name: "scratch"}})
		})
	}
}

func TestAPodOfAnotherUIDIsSaidToBeOne(t *testing.T) {
	m := &kube.Manifests{Dir: folder(t, "a.yaml", "{apiVersion: v1, kind: Pod, metadata: {name: web, uid: u1}}")}
	_, err := m.Pod(context.Background(), "default", "web", "u2")
	checkError(t, err, "default/web", "u1", "u2")
}

func TestThePodWithTheLongestNameHasAStatus(t *testing.T) { // a file name has at most 255 bytes
	m := &kube.Manifests{Dir: folder(t)}
	pod := &conf.Pod{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("p", 253)}
	publish(t, m, pod, "c1", "x")
	other := &conf.Pod{Namespace: pod.Namespace, Name: pod.Name[:252] + "q"}
	publish(t, m, other, "c2", "x")
	checkEqual(t, len(contents(t, m.Dir)), 2)
}
