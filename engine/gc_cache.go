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

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// readCache reads libcni's cache. It notes the attachments of running sandboxes, whose record
// may be lost, and of sandboxes whose record is damaged.
func (g *collection) readCache() (err error) {
	if g.cached, err = g.e.runner().Cache().GetCachedAttachments(""); err != nil {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	for _, c := range g.cached {
		a := types.GCAttachment{ContainerID: c.ContainerID, IfName: c.IfName}
		if !g.running[c.ContainerID] && !g.damaged[c.ContainerID] || slices.Contains(g.valid[c.Network], a) {
			continue
		}
		g.valid[c.Network] = append(g.valid[c.Network], a)
		d := conf.Definition{Origin: "cached network " + c.Network, Config: c.Config}
		if list, err := d.ParseList(""); err == nil {
			g.note(list)
		}
	}
	return nil
}

// collectCache undoes the cached attachments of sandboxes that neither the runtime nor the
// journal lists, by the cached configurations, as DEL of a lost record does.
func (g *collection) collectCache(ctx context.Context) error {
	var errs []error
	seen := map[string]bool{}
	for _, a := range g.cached {
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
		ofSandbox := func(sandbox string) bool { return strings.Contains(file.Name(), "-"+sandbox+"-") }
		if err != nil || !file.Type().IsRegular() || json.Valid(data) || g.isKept(ofSandbox) {
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

// releaseAddresses releases the addresses that built-ins of the networks have reserved by
// host-local for sandboxes that keep does not keep.
func (e *Engine) releaseAddresses(ctx context.Context, networks []conf.Network, keep func(sandbox string) bool) error {
	var errs []error
	seen := map[string]bool{}
	for _, n := range networks {
		c, err := e.network(n, nil)
		if err == nil {
			err = c.CollectAddresses(ctx, seen, keep)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
