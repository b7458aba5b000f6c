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
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
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
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   metadata          `json:"metadata"`
	Spec       json.RawMessage   `json:"spec,omitempty"`
	Items      []json.RawMessage `json:"items,omitempty"`
}

type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid,omitempty"`
	Annotations map[string]string `json:"annotations"`
}

type podSpec struct {
	Volumes        []map[string]json.RawMessage `json:"volumes"`
	Containers     []container                  `json:"containers"`
	InitContainers []container                  `json:"initContainers"`
}

type container struct {
	Name         string  `json:"name"`
	VolumeMounts []mount `json:"volumeMounts"`
}

type mount struct {
	Name        string `json:"name"`
	MountPath   string `json:"mountPath"`
	SubPath     string `json:"subPath"`
	SubPathExpr string `json:"subPathExpr"`
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
	number := 0
	for _, text := range documentMarker.Split(string(data), -1) {
		object, err := yaml.YAMLToJSONStrict([]byte(text))
		if err == nil && string(object) == "null" {
			continue // white space and comments
		}
		number++
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: document %d: invalid YAML: %s", file, number, strings.TrimPrefix(err.Error(), "yaml: ")))
			continue
		}
		parsed, err := parseObject(Document{File: file, Number: number}, object, true)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: document %d: %w", file, number, err))
		}
		documents = append(documents, parsed...)
	}
	return documents, errors.Join(errs...)
}

// documentMarker begins a line of YAML between two documents.
var documentMarker = regexp.MustCompile("(?m)^---")

// parseObject reads an object of a document, or the items of a list that is not itself an
// item.
func parseObject(d Document, data []byte, mayList bool) ([]*Document, error) {
	var o object
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("no Kubernetes object: %w", err)
	}
	if mayList && strings.HasSuffix(o.Kind, "List") && o.Items != nil {
		var all []*Document
		var errs []error
		for i, item := range o.Items {
			parsed, err := parseObject(d, item, false)
			if err != nil {
				errs = append(errs, fmt.Errorf("items[%d]: %w", i, err))
			}
			all = append(all, parsed...)
		}
		return all, errors.Join(errs...)
	}
	isPod := o.Kind == "Pod" && o.APIVersion == "v1"
	if !isPod && (o.Kind != "NetworkAttachmentDefinition" || !strings.HasPrefix(o.APIVersion, "k8s.cni.cncf.io/")) {
		return nil, nil
	}
	if o.Metadata.Namespace == "" {
		o.Metadata.Namespace = "default"
	}
	if len(o.Spec) == 0 {
		o.Spec = []byte("{}")
	}
	err := conf.CheckObjectName(o.Metadata.Namespace, o.Metadata.Name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: key %q: %w", o.Kind, "metadata", err)
	case isPod:
		d.Pod, err = parsePod(&o)
	default:
		d.Network, err = parseNetwork(&o)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", o.Kind, o.Metadata.Namespace, o.Metadata.Name, err)
	}
	return []*Document{&d}, nil
}

func parsePod(o *object) (*conf.Pod, error) {
	pod := &conf.Pod{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID, Annotations: o.Metadata.Annotations}
	var spec podSpec
	if err := json.Unmarshal(o.Spec, &spec); err != nil {
		return nil, fmt.Errorf("key %q: %w", "spec", err)
	}
	for i, v := range spec.Volumes {
		volume, ok, err := parseVolume(v)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", fmt.Sprintf("spec.volumes[%d]", i), err)
		}
		if ok {
			pod.Volumes = append(pod.Volumes, volume)
		}
	}
	var mounts []mount
	for _, c := range spec.Containers {
		pod.Containers = append(pod.Containers, c.Name)
		mounts = append(mounts, c.VolumeMounts...)
	}
	for _, c := range spec.InitContainers {
		mounts = append(mounts, c.VolumeMounts...)
	}
	setMounts(pod, mounts)
	return pod, nil
}

// parseVolume reads a volume that the host can reach, or the volume shared-dir: a hostPath, or
// an emptyDir, which a volume without a source is.
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
	ok = hostPath != nil || empty || len(keys) == 1
	if !ok && v.Name == conf.SharedDir {
		delete(keys, "name")
		v.Kind, ok = strings.Join(slices.Sorted(maps.Keys(keys)), ", "), true
	}
	return v, ok, nil
}

func parseNetwork(o *object) (*conf.Definition, error) {
	var spec struct {
		Config string `json:"config"`
	}
	if err := json.Unmarshal(o.Spec, &spec); err != nil {
		return nil, fmt.Errorf("key %q: want a string that holds JSON: %w", "spec.config", err)
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
	m.once.Do(func() {
		entries, err := os.ReadDir(m.Dir)
		if err != nil {
			m.err = fmt.Errorf("manifests: %w", err)
			return
		}
		var errs []error
		for _, e := range entries {
			if !isManifest(e.Name()) {
				continue
			}
			file := filepath.Join(m.Dir, e.Name())
			data, err := readRegular(file, maxFile)
			if err == nil {
				var parsed []*Document
				parsed, err = ParseManifests(file, data)
				m.documents = append(m.documents, parsed...)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		m.err = errors.Join(errs...)
	})
	return m.documents, m.err
}

func isManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) &&
		!strings.HasSuffix(name, statusEnd) && !strings.HasPrefix(name, ".")
}

// readRegular reads a regular file of at most limit bytes.
func readRegular(path string, limit int64) ([]byte, error) { return file.ReadRegular(path, limit) }

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
func (m *Manifests) Recall(ctx context.Context, namespace, name, uid string) (*conf.Pod, error) {
	pod, _ := m.Pod(ctx, namespace, name, uid)
	return pod, nil
}

// Network finds a network, see find.
func (m *Manifests) Network(_ context.Context, w conf.Reference) (*conf.Definition, error) {
	where := " in the manifests of " + m.Dir
	if m.Dir == "" {
		where = ": the configuration names no folder of manifests"
	}
	return find(w, m.ConfDir, where, m.definition)
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
