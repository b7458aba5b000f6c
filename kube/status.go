package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/kube/statusfile"
)

// StatusPlace is NAME.status.json in the folder of manifests. A namespace
// other than default stands before the name.
func (m *Manifests) StatusPlace(pod *conf.Pod) string {
	if m.Dir == "" || pod == nil {
		return ""
	}
	name := pod.Name + statusEnd
	if pod.Namespace != "default" {
		name = pod.Namespace + "_" + name // no name of Kubernetes has '_'
	}
	if len(name) > maxFileName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxFileName-64] + "-" + hex.EncodeToString(sum[:12]) + statusEnd
	}
	return filepath.Join(m.Dir, name)
}

// maxFileName is NAME_MAX of Linux' file systems, in bytes.
const maxFileName = 255

// Publish writes the status file in one atomic step: the pod with the annotations that an
// API server would hold.
func (m *Manifests) Publish(_ context.Context, pod *conf.Pod, sandbox string, annotations map[string]string) error {
	place := m.StatusPlace(pod)
	if place == "" {
		return nil
	}
	all := map[string]string{statusfile.SandboxAnnotation: sandbox}
	maps.Copy(all, annotations)
	data, err := json.MarshalIndent(object{APIVersion: "v1", Kind: "Pod", Metadata: metadata{pod.Name, pod.Namespace, pod.UID, all}}, "", "  ")
	if err != nil {
		return err
	}
	// Volatile: the pod does not outlast a loss of power either.
	return file.Replacement{Path: place, Mode: 0o644, Temp: statusfile.Temporary(sandbox), Volatile: true}.Write(bytes.NewReader(append(data, '\n')))
}

// Retract removes the status file if it is about the sandbox.
func (m *Manifests) Retract(_ context.Context, place, sandbox string) error {
	return statusfile.Retract(place, sandbox)
}
