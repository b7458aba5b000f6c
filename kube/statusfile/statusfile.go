// Package statusfile has what a status file beside a pod's manifest (see kube.Manifests) needs to
// be taken back. It imports no more than that, for executables that have no business with pods
// but undo what is recorded.
package statusfile

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// SandboxAnnotation is the sandbox of a status file, so that a late DEL of a pod's former
// sandbox does not remove the status of the present one.
const SandboxAnnotation = "plexus-cni.io/sandbox"

// Temporary is the name of the temporary file of a status file. Each sandbox of a pod has its
// own, as requests for two of them may run at the same time.
func Temporary(sandbox string) string { return "." + sandbox[:min(64, len(sandbox))] + ".status.new" }

// Retract removes the status file at place if it is about the sandbox. Absent is success.
func Retract(place, sandbox string) error {
	if place == "" {
		return nil
	}
	if err := removeIfThere(filepath.Join(filepath.Dir(place), Temporary(sandbox))); err != nil {
		return err
	}
	data, err := os.ReadFile(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var s struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if json.Unmarshal(data, &s) != nil || s.Metadata.Annotations[SandboxAnnotation] != sandbox {
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
