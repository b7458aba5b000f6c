package shareddir

import (
	"path/filepath"
	"regexp"
	"strings"
)

// kubeletRoot has the volumes of pods, as conf.Pod.HostDir names them.
const kubeletRoot = "/var/lib/kubelet"

// nodePath resolves the node's own links in a path: the folder of the kubelet may be a link,
// and so may entries of /var and / (/var/run, /home). Pods
// cannot change those. Any other link in the path of a volume is not followed.
func nodePath(path string) string {
	for _, place := range nodePlaces(path) {
		at, err := filepath.EvalSymlinks(place)
		if err == nil && at != place {
			return filepath.Join(at, strings.TrimPrefix(path, place))
		}
	}
	return path
}

// nodePlaces are the prefixes of a path that belong to the node, the longest first.
func nodePlaces(path string) []string {
	var all []string
	if path == kubeletRoot || strings.HasPrefix(path, kubeletRoot+"/") {
		all = append(all, kubeletRoot)
	}
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	if parts[0] == "var" && len(parts) > 1 {
		all = append(all, "/var/"+parts[1])
	}
	return append(all, "/"+parts[0])
}

var emptyDirForm = regexp.MustCompile(`^` + kubeletRoot + `/pods/[0-9a-zA-Z-]+/volumes/kubernetes\.io~empty-dir/[^/]+$`)

// isEmptyDir reports whether the folder is an emptyDir, which the kubelet makes for one pod and
// removes with it. A record of a former version tells by its path.
func (f *Folder) isEmptyDir() bool { return f.EmptyDir || emptyDirForm.MatchString(f.Dir) }
