// Package node is what plexus puts on a node, and takes back: its executables in the
// folder of the CNI plugins, credentials for the API server, and the configuration that
// comes first in the runtime's folder. The network that was first until then, the cluster
// network's, is adopted: plexus' configuration names its file as clusterNetwork and
// follows it. A node that Multus runs is moved to plexus, and back: the configuration,
// and what each of the two knows of the pods that are running.
//
// Every file is written in place (package file), the installer's under one lock: the
// runtime and a second installer never read half of one, and a killed installer leaves
// nothing that the next one does not clear away. Nothing that is somebody else's is
// changed or removed.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/lock"
)

// Paths are places of the node, all of them absolute.
type Paths struct {
	BinDir  string // executables of CNI plugins
	ConfDir string // the runtime's network configurations
	CredDir string // our credentials; a folder of our own
	DataDir string // journal, locks, results
	Socket  string // the agent's
	Lock    string // file that one installer holds at a time
}

// DefaultPaths are those of containerd, CRI-O and plexus.
func DefaultPaths() Paths {
	return Paths{
		BinDir:  "/opt/cni/bin",
		ConfDir: "/etc/cni/net.d",
		CredDir: "/etc/cni/net.d/plexus.d",
		DataDir: conf.DefaultDataDir,
		Socket:  "/run/plexus/agent.sock",
		Lock:    "/run/plexus/install.lock",
	}
}

// Node is a node and what is to be on it.
type Node struct {
	Paths
	// Account is the folder of the service account, with token and ca.crt. It
	// is read anew each time, since tokens are rotated. nil: no credentials are
	// written and the configuration names no kubeconfig.
	Account fs.FS
	Server  string // URL of the API server, see APIServer
	// Settings are further keys of the configuration.
	Settings *Settings
	Log      *slog.Logger
}

// check refuses paths that the configuration could not name.
func (n *Node) check() error {
	var errs []error
	for _, p := range [][2]string{
		{"folder of executables", n.BinDir}, {"folder of configurations", n.ConfDir}, {"folder of credentials", n.CredDir},
		{"data folder", n.DataDir}, {"socket of the agent", n.Socket}, {"lock of the installer", n.Lock},
	} {
		if !filepath.IsAbs(p[1]) {
			errs = append(errs, fmt.Errorf("%s: %q, want an absolute path", p[0], p[1]))
		}
	}
	return errors.Join(errs...)
}

// locked does something as the only installer of the node.
func (n *Node) locked(ctx context.Context, do func() error) error {
	if err := n.check(); err != nil {
		return err
	}
	// The lock's folder holds the pods' sockets too: others have to pass it.
	if err := os.MkdirAll(filepath.Dir(n.Lock), 0o755); err != nil {
		return fmt.Errorf("lock of the installer: %w", err)
	}
	release, err := lock.TakeFile(ctx, n.Lock, "of the installer")
	if err != nil {
		return err
	}
	defer release()
	return do()
}
