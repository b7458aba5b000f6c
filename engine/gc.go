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

// GC undoes the attachments of this configuration that the runtime no longer
// knows, lets executables collect their own garbage, and removes what is in no record:
// what libcni's cache knows, addresses of built-ins, and what carries the mark of plexus. Of
// a sandbox whose record cannot be used it leaves everything. A sandbox that another
// request works on is skipped: all that it has stays, and GC ends with code 11 and says
// which one it was.
func (e *Engine) GC(ctx context.Context, r *Request, valid []types.GCAttachment) error {
	known, running := map[types.GCAttachment]bool{}, map[string]bool{}
	for _, a := range valid {
		known[a], running[a.ContainerID] = true, true
	}
	sandboxes, err := e.Journal.Sandboxes()
	if err != nil {
		return err
	}
	before := e.knownNetworks(r)
	var errs []error
	g := &garbage{e: e, r: r, known: known, running: running, lists: map[string]*conf.List{}, valid: map[string][]types.GCAttachment{}, damaged: map[string]bool{}}
	skipping := e.Journal.Skipping(ctx, collectWait)
	for _, sandbox := range sandboxes {
		if err := g.collect(skipping, sandbox); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", sandbox, err))
		}
	}
	if plan, err := e.configured(ctx, r); err == nil {
		for _, n := range plan.Networks {
			g.note(&n.List)
			if n.Default {
				g.keepFormer(n.List.Name, sandboxes)
			}
		}
	}
	if err := g.askCache(); err != nil {
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

// inJournal reads the journal anew, as a pod may have been wired meanwhile.
func (e *Engine) inJournal(marked string) bool {
	sandboxes, err := e.Journal.Sandboxes()
	return err != nil || slices.ContainsFunc(sandboxes, func(s string) bool { return sameSandbox(s, marked) })
}

// garbage is one GC under way.
type garbage struct {
	e       *Engine
	r       *Request
	known   map[types.GCAttachment]bool
	running map[string]bool                 // sandboxes that the runtime knows
	lists   map[string]*conf.List           // every network seen, by its text
	valid   map[string][]types.GCAttachment // by the network's name
	damaged map[string]bool                 // sandboxes whose record cannot be used
	cached  map[string]bool                 // sandboxes that libcni's cache knows

	endpoints []string // of recorded attachments
}

// isRunning reports whether the runtime knows the sandbox of a mark.
func (g *garbage) isRunning(marked string) bool {
	for sandbox := range g.running {
		if sameSandbox(sandbox, marked) {
			return true
		}
	}
	return false
}

func (g *garbage) note(l *conf.List) {
	text, _ := json.Marshal(l) // a List can always be marshalled
	g.lists[string(text)] = l
}

// collect undoes what is stale in one sandbox and notes what is valid.
func (g *garbage) collect(ctx context.Context, sandbox string) error {
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
		stale := tx.Network == g.r.Network && !g.known[types.GCAttachment{ContainerID: sandbox, IfName: tx.IfName}]
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

// retain has all valid that a sandbox has, which cannot be looked at now: by its record,
// and by libcni's cache where that is being written.
func (g *garbage) retain(sandbox string) {
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

// keepFormer adds what the cluster network gave to sandboxes before plexus came: the
// runtime knows them, and the journal does not.
func (g *garbage) keepFormer(network string, recorded []string) {
	for a := range g.known {
		if !slices.Contains(recorded, a.ContainerID) && !slices.Contains(g.valid[network], a) {
			g.valid[network] = append(g.valid[network], a)
		}
	}
}

// askCache adds what libcni's cache knows of running sandboxes, whose record may be lost,
// and of those whose record is damaged.
func (g *garbage) askCache() error {
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
func (g *garbage) executables(ctx context.Context, l *conf.List) error {
	c, err := g.e.network(conf.Network{Name: l.Name, List: *l}, g.e.path(g.r))
	if err == nil {
		err = c.GC(ctx, g.valid[l.Name])
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", l.Name, err)
	}
	return nil
}
