// Package site drives whole executables of plexus on a node of a test: an installation with its
// configuration and folders, requests to it as a container runtime makes them, and all that it
// may change on the node as text. The suites in e2e are written with it.
package site

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
)

// InPod runs a command in a pod, words separated by blanks.
func InPod(t testing.TB, p *node.Pod, command string) string {
	t.Helper()
	out, err := p.Exec(must.Deadline(t), strings.Fields(command)...)
	must.Do(t, err)
	return out
}

// JournalFile is the journal of a sandbox.
func (s *Site) JournalFile(sandbox string) string {
	return filepath.Join(s.DataDir, "sandboxes", sandbox+".json")
}

// On is the site in a subtest.
func (s *Site) On(t testing.TB) *Site {
	there := *s
	there.T = t
	return &there
}

// With is the site with keys of its configuration changed; nil removes one.
func (s *Site) With(keys map[string]any) *Site {
	s.T.Helper()
	there := *s
	there.Conf = Changed(s.T, s.Conf, keys)
	return &there
}

// Changed is a JSON object with keys changed; nil removes one.
func Changed(t testing.TB, object []byte, keys map[string]any) []byte {
	t.Helper()
	all := map[string]any{}
	must.Decode(t, object, &all)
	for k, value := range keys {
		if value == nil {
			delete(all, k)
			continue
		}
		all[k] = value
	}
	return must.JSON(t, all)
}

// BinDir is where make build puts the executables.
func BinDir(t testing.TB) string {
	t.Helper()
	if node.InGuest() {
		return "/opt/cni/bin"
	}
	dir := filepath.Join(must.Root(t), "bin")
	if _, err := os.Stat(filepath.Join(dir, "plexusd")); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return dir
}

// Site is one plexus installation: its configuration and its folders.
type Site struct {
	T         testing.TB
	Dir       string
	Manifests string
	DataDir   string
	Conf      []byte
	Path      string // CNI_PATH
	As        string // executable
	network   string
}

// New makes an installation whose configuration is keys, with folders of
// its own filled in.
func New(t testing.TB, keys map[string]any) *Site {
	t.Helper()
	dir, err := os.MkdirTemp(node.Dir(), "site")
	if err != nil {
		t.Fatal(err)
	}
	s := &Site{T: t, Dir: dir, Manifests: filepath.Join(dir, "manifests"), DataDir: filepath.Join(dir, "data"), Path: BinDir(t), As: "plexus"}
	if err := os.MkdirAll(s.Manifests, 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus",
		"manifests": s.Manifests, "dataDir": s.DataDir, "confDir": filepath.Join(dir, "net.d"), "endpoints": Endpoints, "socketDirs": SocketDirs, "ipamDirs": []string{node.Dir()},
	}
	for k, v := range keys {
		all[k] = v
	}
	s.Conf = must.JSON(t, all)
	s.network, _ = all["name"].(string)
	return s
}

// ClusterBridge is a cluster network by the reference plugin bridge. Each site
// has an address range and a folder of addresses of its own.
func ClusterBridge(dir string) map[string]any {
	return map[string]any{
		"cniVersion": "1.1.0", "name": "cluster", "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
		"ipam": map[string]any{"type": "host-local", "subnet": "10.244.0.0/16", "dataDir": dir},
	}
}

// Manifest writes a file into the folder of manifests.
func (s *Site) Manifest(name, text string) {
	s.T.Helper()
	if err := os.WriteFile(filepath.Join(s.Manifests, name), []byte(text), 0o644); err != nil {
		s.T.Fatal(err)
	}
}

// Nad writes a NetworkAttachmentDefinition of namespace default.
func (s *Site) NAD(name string, config map[string]any) {
	s.T.Helper()
	s.Manifest(name+".yaml", fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: %s}\nspec:\n  config: %q\n", name, must.JSON(s.T, config)))
}

// Pod writes a Pod of namespace default that asks for networks.
func (s *Site) Pod(name, networks string) {
	s.T.Helper()
	s.Manifest(name+".pod.yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  annotations:\n    k8s.v1.cni.cncf.io/networks: %q\nspec: {}\n", name, networks))
}

// NewPod makes a sandbox that is gone after the test.
func NewPod(t testing.TB, name string) *node.Pod {
	t.Helper()
	p, err := node.NewPod(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// PodWithVolume is a pod whose container has a folder of the host as volume
// shared-dir.
func (s *Site) PodWithVolume(name, networks, dir string) {
	s.T.Helper()
	s.Manifest(name+".pod.yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  annotations:
    k8s.v1.cni.cncf.io/networks: %q
spec:
  containers:
  - name: app
    volumeMounts:
    - {name: shared-dir, mountPath: /shared}
  volumes:
  - name: shared-dir
    hostPath: {path: %q}
`, name, networks, dir))
}

// PodWithEmptyDir is a pod whose container mounts an emptyDir, its volume shared-dir, at /shared.
// It makes the folder as the kubelet does, and returns its path on the node.
func (s *Site) PodWithEmptyDir(name, networks, uid string) string {
	s.T.Helper()
	s.Manifest(name+".pod.yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  uid: %s
  annotations:
    k8s.v1.cni.cncf.io/networks: %q
spec:
  containers:
  - name: app
    volumeMounts:
    - {name: shared-dir, mountPath: /shared}
  volumes:
  - name: shared-dir
    emptyDir: {}
`, name, uid, networks))
	return emptyDir(s.T, uid)
}

// EmptyDirOf makes the volume shared-dir of the pod that is the last document of a manifest, as
// the kubelet does.
func EmptyDirOf(t testing.TB, file string) string {
	t.Helper()
	documents := strings.Split(must.ReadFile(t, file), "\n---\n")
	var pod struct{ Metadata struct{ UID string } }
	must.Do(t, yaml.Unmarshal([]byte(documents[len(documents)-1]), &pod))
	return emptyDir(t, pod.Metadata.UID)
}

func emptyDir(t testing.TB, uid string) string {
	t.Helper()
	const pods = "/var/lib/kubelet/pods/"
	dir := pods + uid + "/volumes/kubernetes.io~empty-dir/shared-dir"
	must.Do(t, os.MkdirAll(dir, 0o777))
	t.Cleanup(func() { must.Do(t, os.RemoveAll(pods+uid)) })
	return dir
}
