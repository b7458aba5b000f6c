package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// collectCache undoes the cached attachments of sandboxes that neither the runtime nor the
// journal lists, by the cached configurations, as DEL of a lost record does.
func (g *collection) collectCache(ctx context.Context) error {
	cached, err := g.e.runner().Cache().GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	var errs []error
	seen := map[string]bool{}
	for _, a := range cached {
		if seen[a.ContainerID] || journal.CheckSandbox(a.ContainerID) != nil || g.keep(a.ContainerID) {
			continue
		}
		seen[a.ContainerID] = true
		if err := g.collectCached(ctx, a.ContainerID); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s, of which libcni's cache alone knows: %w", a.ContainerID, err))
		}
	}
	return errors.Join(append(errs, g.removeUnusable(ctx))...)
}

func (g *collection) collectCached(ctx context.Context, sandbox string) error {
	ctx, unlock, err := g.e.lock(ctx, sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if g.keep(sandbox) { // it has been wired meanwhile
		return nil
	}
	entries, err := g.e.cachedEntries(sandbox)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(entry *journal.Entry) bool {
		return g.r.Conf == nil && entry.List.Name != g.r.Network || slices.ContainsFunc(entry.List.Types(), conf.IsOwnType)
	})
	tx := &journal.Transaction{Network: g.r.Network, Path: g.e.path(g.r)}
	_, err = g.e.detachEach(ctx, sandbox, tx, entries, "")
	return err
}

// removeUnusable removes files of libcni's cache that a loss of power has truncated: they
// cannot be used to undo anything. A file whose name has the ID of a kept sandbox stays.
func (g *collection) removeUnusable(ctx context.Context) error {
	if g.r.Conf == nil {
		return nil // the runtime's list does not have all sandboxes
	}
	dir := g.e.runner().CacheFolder()
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	var errs []error
	for _, file := range files {
		name := filepath.Join(dir, file.Name())
		data, err := os.ReadFile(name)
		if err != nil || !file.Type().IsRegular() || json.Valid(data) || g.isOfKept(file.Name()) {
			continue
		}
		if err := delegates.Step(ctx, "remove %s, a file of libcni's cache that is no JSON", name); err != nil {
			return err
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// isOfKept reports whether the name of a cache file has the ID of a sandbox that is kept.
func (g *collection) isOfKept(name string) bool {
	recorded, err := g.e.Journal.Sandboxes()
	if err != nil {
		return true
	}
	has := func(sandbox string) bool { return strings.Contains(name, "-"+sandbox+"-") }
	for sandbox := range g.running {
		if has(sandbox) {
			return true
		}
	}
	return slices.ContainsFunc(recorded, has)
}

// keep reports whether the runtime lists a sandbox or the journal has a file of it now.
func (g *collection) keep(sandbox string) bool { return g.isRunning(sandbox) || g.e.inJournal(sandbox) }

// unknown are the sandboxes whose record cannot be used and which are not in libcni's cache.
func (g *collection) unknown() (sandboxes []string) {
	for sandbox := range g.damaged {
		if !g.cached[sandbox] {
			sandboxes = append(sandboxes, sandbox)
		}
	}
	return sandboxes
}

// ofRequest are the given and the noted networks that the runtime's list of attachments
// covers: all of a node, or that of a built-in that is executed under its own name.
func (g *collection) ofRequest(networks []conf.Network) []conf.Network {
	all := slices.Clone(networks)
	for _, l := range g.lists {
		all = append(all, conf.Network{Name: l.Name, List: *l})
	}
	return slices.DeleteFunc(all, func(n conf.Network) bool { return g.r.Conf == nil && n.List.Name != g.r.Network })
}

// releaseAddresses releases the addresses that built-ins of the networks have reserved by
// host-local for sandboxes that keep does not keep.
func (e *Engine) releaseAddresses(ctx context.Context, networks []conf.Network, keep func(sandbox string) bool) error {
	var errs []error
	seen := map[string]bool{}
	for _, n := range networks {
		c, err := e.network(conf.Network{Name: n.List.Name, List: n.List, OfNode: n.OfNode}, nil)
		if err == nil {
			err = c.CollectAddresses(ctx, seen, keep)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
