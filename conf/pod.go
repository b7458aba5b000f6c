package conf

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Pod has the fields of a Kubernetes pod that plexus uses.
type Pod struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	KubeletDir  string            `json:"kubeletDir,omitempty"` // root folder of the pod's kubelet, "" for the default
	Annotations map[string]string `json:"-"`                    // read once, for the plan
	Volumes     []Volume          `json:"volumes,omitempty"`
	// SharedDirMount is Mount of the volume shared-dir in former records.
	SharedDirMount string `json:"sharedDirMount,omitempty"`
	// Containers are the names of the containers: sidecars, the pod's own, then init containers.
	Containers []string `json:"-"` // for the order of devices
	// Ended: the pod is being deleted, or its phase is Succeeded or Failed.
	Ended bool `json:"-"`
}

// Volume is a pod volume that the host can reach, or the volume shared-dir of any kind; other
// volumes are left out.
type Volume struct {
	Name     string `json:"name"`
	HostPath string `json:"hostPath,omitempty"` // empty for an emptyDir
	// Mount is where a container mounts the whole volume: the first of the pod's own containers
	// that does, else the first init container. Empty for none.
	Mount string `json:"mount,omitempty"`
	// Kind is the source of a volume shared-dir that the host cannot reach, such as configMap.
	Kind string `json:"kind,omitempty"`
	// Create: plexus makes the folder and its parents, as a manifest file of the node says
	// (hostPath of type DirectoryOrCreate). The kubelet makes it for pods of the API server.
	Create bool `json:"create,omitempty"`
}

// DefaultKubeletDir is the kubelet's root folder unless it is told otherwise.
const DefaultKubeletDir = "/var/lib/kubelet"

// SharedDir is the volume that vhost-user and memif sockets are put in, by
// userspace-cni's convention.
const SharedDir = "shared-dir"

// volume is a volume of the pod, nil when it has none of that name.
func (p *Pod) volume(name string) *Volume {
	if p != nil {
		if i := slices.IndexFunc(p.Volumes, func(v Volume) bool { return v.Name == name }); i >= 0 {
			return &p.Volumes[i]
		}
	}
	return nil
}

// HostDir is where a volume of the pod is on the host, "" when the pod has no
// such volume. The kubelet keeps an emptyDir below its root folder.
func (p *Pod) HostDir(volume string) string {
	switch v := p.volume(volume); {
	case v == nil || v.Kind != "":
		return ""
	case v.HostPath == "" && len(p.UID) <= maxUID && uidForm.MatchString(p.UID):
		return cmp.Or(p.KubeletDir, DefaultKubeletDir) + "/pods/" + p.UID + "/volumes/kubernetes.io~empty-dir/" + volume
	default:
		return v.HostPath
	}
}

// IsEmptyDir reports whether a volume of the pod is an emptyDir, which the kubelet makes
// for the pod alone.
func (p *Pod) IsEmptyDir(volume string) bool {
	v := p.volume(volume)
	return v != nil && v.HostPath == "" && v.Kind == ""
}

// IsToCreate reports whether plexus makes the folder of a volume (Volume.Create).
func (p *Pod) IsToCreate(volume string) bool {
	v := p.volume(volume)
	return v != nil && v.Create
}

// Unreachable is the kind of a volume that the host cannot reach, "" for one that it can.
func (p *Pod) Unreachable(volume string) string {
	if v := p.volume(volume); v != nil {
		return v.Kind
	}
	return ""
}

// MountOf is where a container of the pod mounts a volume, "" for nowhere.
func (p *Pod) MountOf(volume string) string {
	v := p.volume(volume)
	switch {
	case v != nil && v.Mount != "":
		return v.Mount
	case p != nil && volume == SharedDir:
		return p.SharedDirMount
	}
	return ""
}

// Seen is the path by which a container of the pod sees a path of the host: through the volume
// shared-dir, else through any other hostPath. It is "" for a path that no container sees.
func (p *Pod) Seen(host string) string {
	if p == nil {
		return ""
	}
	host = noVarRun(path.Clean(host))
	through := func(volume string) string {
		dir, mount := p.HostDir(volume), p.MountOf(volume)
		if dir == "" || mount == "" || !isBelow(host)(dir) {
			return ""
		}
		return path.Join(mount, strings.TrimPrefix(host, noVarRun(path.Clean(dir))))
	}
	seen := through(SharedDir)
	for _, v := range p.Volumes {
		seen = cmp.Or(seen, through(v.Name))
	}
	return seen
}

// String is the pod's name for people.
func (p *Pod) String() string {
	if p == nil {
		return "no pod"
	}
	return p.Namespace + "/" + p.Name
}

var uidForm = regexp.MustCompile(`^[0-9a-zA-Z-]+$`)

const maxUID = 64

var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// CheckObjectName refuses a namespace or a name that Kubernetes refuses.
func CheckObjectName(namespace, name string) error {
	if len(namespace) > 63 || !dnsLabel.MatchString(namespace) {
		return fmt.Errorf("namespace %.80q is no DNS label: at most 63 lower-case letters, digits, '-'", namespace)
	}
	if len(name) > 253 || !dnsSubdomain.MatchString(name) {
		return fmt.Errorf("name %.80q is no DNS subdomain: at most 253 lower-case letters, digits, '-', '.'", name)
	}
	return nil
}

// Args are the CNI_ARGS of a request, in the order given.
type Args [][2]string

// ParseArgs reads "K=V;K=V" (CNI specification 1.1.0, section 2).
func ParseArgs(s string) (Args, error) {
	var args Args
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("CNI_ARGS: %.80q, want KEY=VALUE separated by ';'", pair)
		}
		args = append(args, [2]string{key, value})
	}
	return args, nil
}

// Get returns the last value of a key, as every later setting overrides.
func (a Args) Get(key string) string {
	for _, pair := range slices.Backward(a) {
		if pair[0] == key {
			return pair[1]
		}
	}
	return ""
}

// with are the arguments with one value of a key, the last.
func (a Args) with(key, value string) Args {
	return append(slices.DeleteFunc(slices.Clone(a), func(pair [2]string) bool { return pair[0] == key }), [2]string{key, value})
}

// PodIdentity are the arguments that say who the pod is. The others ask something of the cluster
// network: an address (IP, MAC, GATEWAY), of an SR-IOV plugin a device or a VLAN.
func (a Args) PodIdentity() Args {
	return slices.DeleteFunc(slices.Clone(a), func(pair [2]string) bool {
		return !strings.HasPrefix(pair[0], "K8S_") && pair[0] != "IgnoreUnknown"
	})
}

// String is the form of CNI_ARGS.
func (a Args) String() string {
	parts := make([]string, len(a))
	for i, pair := range a {
		parts[i] = pair[0] + "=" + pair[1]
	}
	return strings.Join(parts, ";")
}
