// Package kube provides pods and networks, and publishes their status.
//
// Live is the source on a cluster: pods and NetworkAttachmentDefinitions
// (k8s.cni.cncf.io/v1) of the API server, which Cluster watches in the node agent
// and requests elsewhere; the network-status is patched onto the pod. Manifests is
// the source for a node without an API server: a folder of the YAML that kubectl
// apply takes, the network-status is written beside a pod's file. Networks that
// the configuration names by file or by name come from its confDir.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/conf"
)

// Manifests is a folder of manifests and a folder of network files. It reads
// the folder of manifests once: make one for each request.
type Manifests struct {
	Dir     string // "" when the configuration names none
	ConfDir string

	once      sync.Once
	documents []*Document
	err       error
}

const (
	maxFile   = 4 << 20 // bytes of a manifest file
	statusEnd = ".status.json"
)

// object has the fields of a Kubernetes object that plexus reads.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		UID         string            `json:"uid"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec  json.RawMessage   `json:"spec"`
	Items []json.RawMessage `json:"items"`
}

type podSpec struct {
	Volumes    []map[string]json.RawMessage `json:"volumes"`
	Containers []struct {
		VolumeMounts []struct {
			Name      string `json:"name"`
			MountPath string `json:"mountPath"`
		} `json:"volumeMounts"`
	} `json:"containers"`
}

// Document is one pod or network of a manifest file.
type Document struct {
	File    string
	Number  int // from 1, within the file
	Pod     *conf.Pod
	Network *conf.Definition
}

// String names the document for errors.
func (d *Document) String() string { return fmt.Sprintf("%s: document %d", d.File, d.Number) }

// ParseManifests reads the pods and networks of a file's text: YAML or JSON,
// several documents, lists. Other kinds are left out.
func ParseManifests(file string, data []byte) ([]*Document, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are allowed", file, len(data), maxFile)
	}
	var documents []*Document
	var errs []error
	for i, text := range splitDocuments(data) {
		found, err := parseDocument(file, i+1, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: document %d: %w", file, i+1, err))
		}
		documents = append(documents, found...)
	}
	return documents, errors.Join(errs...)
}

// splitDocuments cuts at lines that begin with the YAML document marker.
func splitDocuments(data []byte) [][]byte {
	var documents [][]byte
	var current []byte
	for line := range bytes.Lines(data) {
		if bytes.HasPrefix(line, []byte("---")) {
			documents = append(documents, current)
			current = nil
			line = bytes.TrimPrefix(line, []byte("---"))
		}
		current = append(current, line...)
	}
	documents = append(documents, current)
	return slices.DeleteFunc(documents, func(d []byte) bool {
		for line := range bytes.Lines(d) {
			if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
				return false
			}
		}
		return true
	})
}

func parseDocument(file string, number int, text []byte) ([]*Document, error) {
	data, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, fmt.Errorf("invalid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return parseObject(file, number, data, 0)
}

func parseObject(file string, number int, data []byte, depth int) ([]*Document, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("no Kubernetes object: %w", err)
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = "default"
	}
	d := &Document{File: file, Number: number}
	switch {
	case strings.HasSuffix(o.Kind, "List") && o.Items != nil && depth == 0:
		var all []*Document
		var errs []error
		for i, item := range o.Items {
			found, err := parseObject(file, number, item, depth+1)
			if err != nil {
				errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
			}
			all = append(all, found...)
		}
		return all, errors.Join(errs...)
	case o.Kind == "Pod" && o.APIVersion == "v1":
		pod, err := parsePod(&o)
		if err != nil {
			return nil, err
		}
		d.Pod = pod
	case o.Kind == "NetworkAttachmentDefinition" && strings.HasPrefix(o.APIVersion, "k8s.cni.cncf.io/"):
		n, err := parseNetwork(&o)
		if err != nil {
			return nil, err
		}
		d.Network = n
	default:
		return nil, nil
	}
	return []*Document{d}, nil
}

func parsePod(o *object) (*conf.Pod, error) {
	if err := conf.CheckObjectName(o.Metadata.Namespace, o.Metadata.Name); err != nil {
		return nil, fmt.Errorf("Pod: key %q: %w", "metadata", err)
	}
	pod := &conf.Pod{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID, Annotations: o.Metadata.Annotations}
	var spec podSpec
	if len(o.Spec) > 0 {
		if err := json.Unmarshal(o.Spec, &spec); err != nil {
			return nil, fmt.Errorf("Pod %s: key %q: %w", pod, "spec", err)
		}
	}
	for i, v := range spec.Volumes {
		volume, ok, err := parseVolume(v)
		if err != nil {
			return nil, fmt.Errorf("Pod %s: key %q: %w", pod, fmt.Sprintf("spec.volumes[%d]", i), err)
		}
		if ok {
			pod.Volumes = append(pod.Volumes, volume)
		}
	}
	for _, c := range spec.Containers {
		for _, m := range c.VolumeMounts {
			if m.Name == conf.SharedDir && pod.SharedDirMount == "" {
				pod.SharedDirMount = m.MountPath
			}
		}
	}
	return pod, nil
}

// parseVolume reads a volume that the host can reach: a hostPath, or an
// emptyDir, which a volume without a source is.
func parseVolume(keys map[string]json.RawMessage) (v conf.Volume, ok bool, err error) {
	if err := json.Unmarshal(keys["name"], &v.Name); err != nil {
		return v, false, fmt.Errorf("key %q: want a string", "name")
	}
	var hostPath *struct {
		Path string `json:"path"`
		Type string `json:"type"`
	}
	if raw, named := keys["hostPath"]; named {
		if err := json.Unmarshal(raw, &hostPath); err != nil {
			return v, false, fmt.Errorf("key %q: %w", "hostPath", err)
		}
	}
	_, empty := keys["emptyDir"]
	if hostPath != nil {
		v.HostPath, v.Create = hostPath.Path, hostPath.Type == "DirectoryOrCreate"
	}
	return v, hostPath != nil || empty || len(keys) == 1, nil
}

func parseNetwork(o *object) (*conf.Definition, error) {
	if err := conf.CheckObjectName(o.Metadata.Namespace, o.Metadata.Name); err != nil {
		return nil, fmt.Errorf("NetworkAttachmentDefinition: key %q: %w", "metadata", err)
	}
	name := o.Metadata.Namespace + "/" + o.Metadata.Name
	var spec struct {
		Config string `json:"config"`
	}
	if len(o.Spec) > 0 {
		if err := json.Unmarshal(o.Spec, &spec); err != nil {
			return nil, fmt.Errorf("NetworkAttachmentDefinition %s: key %q: want a string that holds JSON: %w", name, "spec.config", err)
		}
	}
	d := newDefinition(o.Metadata.Namespace, o.Metadata.Name, spec.Config, o.Metadata.Annotations)
	d.OfNode = true // the folder is the node's
	return d, nil
}

func newDefinition(namespace, name, config string, annotations map[string]string) *conf.Definition {
	return &conf.Definition{
		Origin:       "NetworkAttachmentDefinition " + namespace + "/" + name,
		Name:         namespace + "/" + name,
		Fallback:     name,
		Config:       []byte(config),
		ResourceName: annotations[conf.ResourceNameAnnotation],
	}
}

// read returns the documents of the folder. It skips files that cannot
// be read or parsed, and returns their errors beside the documents.
func (m *Manifests) read() ([]*Document, error) {
	m.once.Do(func() { m.documents, m.err = readFolder(m.Dir) })
	return m.documents, m.err
}

func readFolder(dir string) ([]*Document, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	var all []*Document
	var errs []error
	for _, e := range entries {
		if !isManifest(e.Name()) {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, err := readRegular(file)
		if err == nil {
			var found []*Document
			found, err = ParseManifests(file, data)
			all = append(all, found...)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasSuffix(name, statusEnd) && !strings.HasPrefix(name, ".")
	}
	return false
}

// readRegular reads a regular file of at most maxFile bytes.
func readRegular(file string) ([]byte, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, fmt.Errorf("%s: want a regular file of at most %d bytes", file, maxFile)
	}
	return os.ReadFile(file)
}

// Pod finds a pod by name, and by UID where both the request and the manifest
// have one (a static pod's manifest has none).
func (m *Manifests) Pod(_ context.Context, namespace, name, uid string) (*conf.Pod, error) {
	if m.Dir == "" {
		return nil, nil
	}
	documents, err := m.read()
	why := "is in no manifest of " + m.Dir
	for _, d := range documents {
		p := d.Pod
		if p == nil || p.Namespace != namespace || p.Name != name {
			continue
		}
		if p.UID != "" && uid != "" && p.UID != uid {
			why = fmt.Sprintf("has UID %s in %s, the request is about UID %.80s", p.UID, d, uid)
			continue
		}
		found := *p
		if found.UID == "" {
			found.UID = uid
		}
		return &found, nil
	}
	return nil, errors.Join(fmt.Errorf("pod %s/%s %s", namespace, name, why), err)
}

// Recall finds a pod by its manifest.
func (m *Manifests) Recall(namespace, name, uid string) *conf.Pod {
	pod, _ := m.Pod(context.Background(), namespace, name, uid)
	return pod
}

// Network finds a network, see find.
func (m *Manifests) Network(_ context.Context, w conf.Reference) (*conf.Definition, error) {
	return find(w, m.ConfDir, m.where(), m.definition)
}

func (m *Manifests) where() string {
	if m.Dir == "" {
		return ": the configuration names no folder of manifests"
	}
	return " in the manifests of " + m.Dir
}

// definition returns nil when there is none, and the errors of files that could not be read.
func (m *Manifests) definition(namespace, name string) (*conf.Definition, error) {
	if m.Dir == "" {
		return nil, nil
	}
	documents, err := m.read()
	for _, d := range documents {
		if d.Network != nil && d.Network.Name == namespace+"/"+name {
			return d.Network, nil
		}
	}
	return nil, err
}
