// Package plugin runs the plugins of a network: built-in backends in memory, everything
// else as executables. libcni handles lists, prevResult, capability arguments, versions
// and the cache of results; Chain is its invoke.Exec.
package plugin

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/plexus-cni/plexus/conf"
)

// Runner has the settings that the lists of all attachments share. It is the invoke.Exec of
// executables.
type Runner struct {
	version.PluginDecoder
	Delegates Table
	DataDir   string      // of libcni's cache; the owner in marks
	Bounds    conf.Bounds // of what networks may name
	Stderr    io.Writer   // gets the standard error of executables that succeed; nil for nothing
	// Timeout bounds one execution of a plugin; 0 is conf.DefaultPluginTimeout.
	Timeout time.Duration
}

// Cache is libcni's cache of results.
func (r *Runner) Cache() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(nil, r.DataDir, nil)
}

// CacheFolder is where libcni keeps its files.
func (r *Runner) CacheFolder() string { return filepath.Join(r.DataDir, "results") }

// SearchPath joins folders of executables without repeating one.
func SearchPath(lists ...[]string) []string {
	var all []string
	for _, dir := range slices.Concat(lists...) {
		if dir != "" && !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// ownNames are the names of plexus' executables.
var ownNames = []string{"plexus", "plexusd", "plexusbuiltin", "plexusctl"}

// isPlexus reports whether an executable is one of plexus', under any name: it is the same
// file as one of them in its own folder, in the folder of its link's target, or in that of the
// running executable.
func isPlexus(path string) bool {
	found, err := os.Stat(path)
	if err != nil {
		return false
	}
	dirs := []string{filepath.Dir(path)}
	if to, err := filepath.EvalSymlinks(path); err == nil {
		dirs = append(dirs, filepath.Dir(to))
	}
	if running, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(running))
	}
	for _, dir := range dirs {
		for _, name := range ownNames {
			if own, err := os.Stat(filepath.Join(dir, name)); err == nil && os.SameFile(found, own) {
				return true
			}
		}
	}
	return false
}
