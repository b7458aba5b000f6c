package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/status"
)

// GC undoes the attachments of this configuration that the runtime no longer lists, lets
// executables collect their own garbage, and removes unrecorded leftovers: attachments in
// libcni's cache, addresses of built-ins, and objects that carry the mark of plexus. A
// sandbox whose record cannot be used stays as it is. So does a sandbox that another request
// has locked: GC then ends with code 11 and names it.
func (e *Engine) GC(ctx context.Context, r *Request, valid []types.GCAttachment) error {
	known, running := map[types.GCAttachment]bool{}, map[string]bool{}
	for _, a := range valid {
		known[a], running[a.ContainerID] = true, true
	}
	sandboxes, err := e.Journal.Sandboxes()
	if err != nil {
		return err
	}
	before := e.collectNetworks(r)
	var errs []error
	g := &collection{e: e, r: r, listed: known, running: running, lists: map[string]*conf.List{}, valid: map[string][]types.GCAttachment{}, damaged: map[string]bool{}}
	skipping := e.Journal.Skipping(ctx, collectWait)
	for _, sandbox := range sandboxes {
		if err := g.collect(skipping, sandbox); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", sandbox, err))
		}
	}
	if plan, err := e.configuredPlan(ctx, r); err == nil {
		for _, n := range plan.Networks {
			g.note(&n.List)
			if n.Default {
				g.keepUnrecorded(n.List.Name, sandboxes)
			}
		}
	}
	if err := g.readCache(); err != nil {
		errs = append(errs, err)
	}
	if unknown := g.unknown(); len(unknown) > 0 {
		e.Log.Warn("GC asks no executable to collect: what these sandboxes have of its networks is not known", "sandboxes", unknown)
	} else {
		for _, l := range g.lists {
			errs = append(errs, g.executables(ctx, l))
		}
	}
	errs = append(errs, g.collectCache(skipping), e.releaseAddresses(ctx, g.ofRequest(before), g.keep))
	var mu sync.Mutex
	swept := map[types.GCAttachment]bool{}
	keep := func(sandbox, ifName string) bool {
		if g.keep(sandbox) {
			return true
		}
		mu.Lock()
		defer mu.Unlock()
		swept[types.GCAttachment{ContainerID: sandbox, IfName: ifName}] = true
		return false
	}
	errs = append(errs, e.sweep(ctx, append(g.endpoints, e.configuredEndpoints(r)...), keep))
	for a := range swept {
		errs = append(errs, status.RemoveDeviceInfo(a.ContainerID, a.IfName))
	}
	return errors.Join(errs...)
}

// inJournal reports whether a marked sandbox has a file in the journal. It reads the folder
// at each call, as a pod may have been wired meanwhile.
func (e *Engine) inJournal(marked string) bool {
	sandboxes, err := e.Journal.Sandboxes()
	return err != nil || slices.ContainsFunc(sandboxes, func(s string) bool { return sameSandbox(s, marked) })
}

// collection is one run of GC.
type collection struct {
	e       *Engine
	r       *Request
	listed  map[types.GCAttachment]bool
	running map[string]bool                 // sandboxes that the runtime lists
	lists   map[string]*conf.List           // every network of a record, a plan or the cache, by its text
	valid   map[string][]types.GCAttachment // by the network's name
	damaged map[string]bool                 // sandboxes whose record cannot be used
	cached  map[string]bool                 // sandboxes in libcni's cache

	endpoints []string // of recorded attachments
}

// isRunning reports whether the runtime lists the sandbox of a mark.
func (g *collection) isRunning(marked string) bool {
	for sandbox := range g.running {
		if sameSandbox(sandbox, marked) {
			return true
		}
	}
	return false
}

func (g *collection) note(l *conf.List) {
	text, _ := json.Marshal(l) // a List can always be marshalled
	g.lists[string(text)] = l
}

// collect undoes the stale transactions of one sandbox and notes its valid attachments.
func (g *collection) collect(ctx context.Context, sandbox string) error {
	ctx, unlock, err := g.e.lock(ctx, sandbox)
	if err != nil {
		g.retain(sandbox)
		return err
	}
	defer unlock()
	rec, err := g.e.Journal.Read(sandbox)
	var damaged *journal.DamagedError
	if errors.As(err, &damaged) {
		g.damaged[sandbox] = true
		g.e.Log.Error("GC leaves everything of a sandbox", "sandbox", sandbox, "why", damaged.Error())
		return nil
	}
	if err != nil || rec == nil {
		return err
	}
	var errs []error
	for _, tx := range slices.Clone(rec.Transactions) {
		stale := tx.Network == g.r.Network && !g.listed[types.GCAttachment{ContainerID: sandbox, IfName: tx.IfName}]
		for _, entry := range tx.Attachments {
			g.note(&entry.List)
			g.endpoints = append(g.endpoints, g.e.recordedEndpoints(entry)...)
			if !stale {
				g.valid[entry.List.Name] = append(g.valid[entry.List.Name], types.GCAttachment{ContainerID: sandbox, IfName: entry.IfName})
			}
		}
		if stale {
			tx.Path = plugin.SearchPath(g.e.path(g.r), tx.Path)
			errs = append(errs, g.e.detach(ctx, rec, tx, ""))
		}
	}
	return errors.Join(errs...)
}

// retain notes all attachments of a sandbox that is locked as valid, by its record and by
// libcni's cache.
func (g *collection) retain(sandbox string) {
	g.running[sandbox] = true
	rec, err := g.e.Journal.Read(sandbox)
	if err != nil || rec == nil {
		return
	}
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			g.note(&entry.List)
			g.valid[entry.List.Name] = append(g.valid[entry.List.Name], types.GCAttachment{ContainerID: sandbox, IfName: entry.IfName})
		}
	}
}

// keepUnrecorded notes the cluster network's attachments of sandboxes that were wired before
// plexus was installed: the runtime lists them, and the journal does not.
func (g *collection) keepUnrecorded(network string, recorded []string) {
	for a := range g.listed {
		if !slices.Contains(recorded, a.ContainerID) && !slices.Contains(g.valid[network], a) {
			g.valid[network] = append(g.valid[network], a)
		}
	}
}

// readCache notes the attachments in libcni's cache of running sandboxes, whose record may be
// lost, and of sandboxes whose record is damaged.
func (g *collection) readCache() error {
	cached, err := g.e.runner().Cache().GetCachedAttachments("")
	if err != nil {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	g.cached = map[string]bool{}
	for _, c := range cached {
		g.cached[c.ContainerID] = true
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

// executables hands GC to the executables of a network.
func (g *collection) executables(ctx context.Context, l *conf.List) error {
	c, err := g.e.network(conf.Network{Name: l.Name, List: *l}, g.e.path(g.r))
	if err == nil {
		err = c.GC(ctx, g.valid[l.Name])
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", l.Name, err)
	}
	return nil
}
