package delegates

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
)

// collectCache undoes what libcni's cache has of sandboxes that neither the runtime nor
// the journal knows, by the cached configurations, as DEL of a lost record does.
func (g *garbage) collectCache(ctx context.Context) error {
	cached, err := g.cache().GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	var errs []error
	seen := map[string]bool{}
	for _, a := range cached {
		if seen[a.ContainerID] || checkSandbox(a.ContainerID) != nil || g.keep(a.ContainerID) {
			continue
		}
		seen[a.ContainerID] = true
		if err := g.collectCached(ctx, a.ContainerID); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s, of which libcni's cache alone knows: %w", a.ContainerID, err))
		}
	}
	return errors.Join(append(errs, g.removeUnusable(ctx))...)
}

func (g *garbage) collectCached(ctx context.Context, sandbox string) error {
	ctx, unlock, err := g.lock(ctx, sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	if g.keep(sandbox) { // it was wired meanwhile
		return nil
	}
	entries, err := g.cachedEntries(sandbox)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(entry *Entry) bool {
		return g.r.Conf == nil && entry.List.Name != g.r.Network || slices.ContainsFunc(entry.List.Types(), conf.IsOwnType)
	})
	tx := &Transaction{Network: g.r.Network, Path: g.path(g.r)}
	_, err = g.detachEach(ctx, sandbox, tx, entries, "")
	return err
}

// removeUnusable removes files of libcni's cache that a loss of power has cut: nothing can
// be undone by them. Their names tell whether they are of a sandbox that is to be kept.
func (g *garbage) removeUnusable(ctx context.Context) error {
	if g.r.Conf == nil {
		return nil // the runtime's list is not about all sandboxes
	}
	dir := filepath.Join(g.Journal.DataDir(), "results")
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
		if err := conf.Step(ctx, "remove %s, a file of libcni's cache that is no JSON", name); err != nil {
			return err
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// isOfKept reports whether the name of a cache file has the ID of a sandbox that is to be
// kept in it.
func (g *garbage) isOfKept(name string) bool {
	recorded, err := g.Journal.Sandboxes()
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

// keep reports whether a sandbox is the runtime's or has a file in the journal, as it is
// now: a pod may have been wired meanwhile.
func (g *garbage) keep(sandbox string) bool { return g.isRunning(sandbox) || g.inJournal(sandbox) }

// unknown are the sandboxes whose record cannot be used and which libcni's cache does not
// know.
func (g *garbage) unknown() (sandboxes []string) {
	for sandbox := range g.damaged {
		if !g.cached[sandbox] {
			sandboxes = append(sandboxes, sandbox)
		}
	}
	return sandboxes
}

// ofRequest are the networks that were seen, and those given, as far as the runtime's list of
// attachments is about them: all of a node, or the one of a built-in that is executed under
// its own name.
func (g *garbage) ofRequest(networks []conf.Network) []conf.Network {
	all := slices.Clone(networks)
	for _, l := range g.lists {
		all = append(all, conf.Network{Name: l.Name, List: *l})
	}
	return slices.DeleteFunc(all, func(n conf.Network) bool { return g.r.Conf == nil && n.List.Name != g.r.Network })
}
