package delegates

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// ipamBounds says which files and folders of the node an ipam section may name. nil
// bounds nothing.
type ipamBounds struct {
	DataDirs    []string // folders; those below them too
	ResolvConfs []string // files
}

// defaultDataDir is host-local's folder when a configuration names none.
const defaultDataDir = "/var/lib/cni/networks"

// defaultIPAMBounds is what holds where the node's configuration says nothing.
func defaultIPAMBounds() *ipamBounds {
	return &ipamBounds{
		DataDirs:    []string{defaultDataDir},
		ResolvConfs: []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"},
	}
}

// boundsOf is the one place where the bounds of the node's configuration come in. TODO:
// nothing is connected yet, so everything passes.
func boundsOf(conf.Attachment) *ipamBounds { return nil }

// checkDataDir refuses a folder of addresses that the node does not allow. The default
// one is the node's own choice.
func (b *ipamBounds) checkDataDir(dir string) error {
	if b == nil || dir == "" {
		return nil
	}
	if filepath.IsAbs(dir) && slices.ContainsFunc(b.DataDirs, func(base string) bool { return isBelow(base, dir) }) {
		return nil
	}
	return fmt.Errorf("key %q: %.200q is not allowed: allowed are folders in %s; the node's configuration may name others by its key %q", "ipam.dataDir", dir, strings.Join(b.DataDirs, ", "), "ipamDirs")
}

// checkResolvConf refuses a file that the node does not allow.
func (b *ipamBounds) checkResolvConf(file string) error {
	if b == nil || file == "" || slices.Contains(b.ResolvConfs, file) {
		return nil
	}
	return fmt.Errorf("key %q: %.200q is not allowed: allowed are %s; the node's configuration may name others by its key %q", "ipam.resolvConf", file, strings.Join(b.ResolvConfs, ", "), "resolvConfs")
}

// dataDir cuts the folder of addresses of a configuration into a base, which is the
// node's, and the path below it, where no link is followed. A folder in none of the
// allowed ones is its own base: ADD refuses it, DEL comes to what was allowed once.
func (b *ipamBounds) dataDir(dir string) (base string, below []string) {
	if dir == "" {
		return defaultDataDir, nil
	}
	dir = filepath.Clean(dir)
	if b == nil {
		return dir, nil
	}
	for _, allowed := range b.DataDirs {
		if isBelow(allowed, dir) && len(filepath.Clean(allowed)) > len(base) {
			base = filepath.Clean(allowed)
		}
	}
	if base == "" {
		return dir, nil
	}
	if rel, err := filepath.Rel(base, dir); err == nil && rel != "." {
		below = strings.Split(rel, string(filepath.Separator))
	}
	return base, below
}

// isBelow reports whether a path is base or below it.
func isBelow(base, path string) bool {
	rel, err := filepath.Rel(filepath.Clean(base), filepath.Clean(path))
	return err == nil && filepath.IsLocal(rel)
}
