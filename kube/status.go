package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
)

// sandboxAnnotation is the sandbox of a status file, so that a late DEL of a pod's former
// sandbox does not remove the status of the present one.
const sandboxAnnotation = "plexus-cni.io/sandbox"

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
	all := map[string]string{sandboxAnnotation: sandbox}
	maps.Copy(all, annotations)
	data, err := json.MarshalIndent(object{APIVersion: "v1", Kind: "Pod", Metadata: metadata{pod.Name, pod.Namespace, pod.UID, all}}, "", "  ")
	if err != nil {
		return err
	}
	// Volatile: the pod does not outlast a loss of power either.
	return file.Replacement{Path: place, Mode: 0o644, Temp: temporary(sandbox), Volatile: true}.Write(bytes.NewReader(append(data, '\n')))
}

// temporary is the name of the temporary file of a status file. Each sandbox of a pod has its
// own, as requests for two of them may run at the same time.
func temporary(sandbox string) string { return "." + sandbox[:min(64, len(sandbox))] + ".status.new" }

// Retract removes the status file if it is about the sandbox.
func (m *Manifests) Retract(_ context.Context, place, sandbox string) error {
	if place == "" {
		return nil
	}
	if err := removeIfThere(filepath.Join(filepath.Dir(place), temporary(sandbox))); err != nil {
		return err
	}
	data, err := os.ReadFile(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s object
	if json.Unmarshal(data, &s) != nil || s.Metadata.Annotations[sandboxAnnotation] != sandbox {
		return nil // another sandbox' status
	}
	return removeIfThere(place)
}

func removeIfThere(file string) error {
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil // which a read-only file system does not say of a removal
	}
	err := os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
