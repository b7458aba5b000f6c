package kube

import (
	"io/fs"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
)

// KubeletDir is the root folder of the node's kubelet, without links: the configured one, or the
// first of those of the distributions that has the socket of the podresources API.
func KubeletDir(configured string) string {
	dir := configured
	if dir == "" {
		dir = conf.DefaultKubeletDir
		for _, of := range []string{conf.DefaultKubeletDir, "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet"} {
			if st, err := os.Stat(filepath.Join(of, podResourcesSocket)); err == nil && st.Mode()&fs.ModeSocket != 0 {
				dir = of
				break
			}
		}
	}
	if dir == conf.DefaultKubeletDir { // a link there is the node's, and its paths are known by this name
		return dir
	}
	if at, err := filepath.EvalSymlinks(dir); err == nil {
		return at
	}
	return dir
}

// podResourcesSocket is below the kubelet's root folder (k8s.io/kubernetes/pkg/kubelet).
const podResourcesSocket = "pod-resources/kubelet.sock"
