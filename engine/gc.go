package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/status"
)

// collectWait is how long GC waits for all sandboxes that are locked, together.
const collectWait = 2 * time.Second

// GC undoes the attachments of this configuration that the runtime no longer lists, lets
// executables collect their own garbage, and removes unrecorded leftovers: attachments in
// libcni's cache, addresses of built-ins, and objects that carry the mark of plexus. A
// sandbox whose record cannot be used stays as it is. So does a sandbox that another request
// has locked: GC then ends with code 11 and names it.
func (e *Engine) GC(ctx context.Context, r *Request, valid []types.GCAttachment) error {
	g := &collection{e: e, r: r, listed: valid, running: map[string]bool{}, marked: map[string]bool{}, lists: map[string]*conf.List{}, valid: map[string][]types.GCAttachment{}, damaged: map[string]bool{}}
	for _, a := range valid {
		g.run(a.ContainerID)
	}
	sandboxes, err := e.Journal.Sandboxes()
	if err != nil {
		return err
	}
	networks := e.knownNetworks(r) // before records are removed
	var errs []error
	skipping := e.Journal.Skipping(ctx, collectWait)
	for _, sandbox := range sandboxes {
		if err := g.collect(skipping, sandbox); err != nil {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", sandbox, err))
		}
	}
	if plan, err := e.configuredPlan(ctx, r); err == nil {
		networks = append(networks, plan.Networks...)
		for _, n := range plan.Networks {
			g.note(&n.List)
			if n.Default {
				g.keepUnrecorded(n.List.Name, sandboxes)
			}
		}
	}
	errs = append(errs, g.readCache())
	if unknown := g.unknown(); len(unknown) > 0 {
		e.Log.Warn("GC asks no executable to collect: what these sandboxes have of its networks is not known", "sandboxes", unknown)
	} else {
		for _, l := range g.lists {
			errs = append(errs, g.executables(ctx, l))
		}
	}
	if r.Conf == nil { // the runtime lists the attachments of this network alone
		networks = slices.DeleteFunc(networks, func(n conf.Network) bool { return n.List.Name != r.Network })
	}
	errs = append(errs, g.collectCache(skipping), e.releaseAddresses(ctx, networks, g.keep))
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

// collection is one run of GC.
type collection struct {
	e       *Engine
	r       *Request
	listed  []types.GCAttachment            // by the runtime
	running map[string]bool                 // sandboxes that the runtime lists, and locked ones
	marked  map[string]bool                 // the beginnings of their IDs, as marks have them
	lists   map[string]*conf.List           // every network of a record, a plan or a running sandbox in the cache, by its text
	valid   map[string][]types.GCAttachment // by the network's name
	damaged map[string]bool                 // sandboxes whose record cannot be used
	cached  []*libcni.NetworkAttachment     // in libcni's cache

	endpoints []string // of recorded attachments
}

// isKept reports whether match accepts a sandbox that the runtime lists, or one that the journal
// has a file of now: a pod may have been wired meanwhile.
func (g *collection) isKept(match func(sandbox string) bool) bool {
	recorded, err := g.e.Journal.Sandboxes()
	return err != nil || slices.ContainsFunc(slices.AppendSeq(recorded, maps.Keys(g.running)), match)
}

// run notes a sandbox that the runtime lists, or that another request has locked.
func (g *collection) run(sandbox string) {
	g.running[sandbox] = true
	if len(sandbox) >= markedSandbox {
		g.marked[sandbox[:markedSandbox]] = true
	}
}

// keep reports whether the sandbox of a mark is kept. It reads no folder for one that runs: there
// is a mark for each attachment of the node.
func (g *collection) keep(marked string) bool {
	if g.running[marked] || g.marked[marked] {
		return true
	}
	return g.isKept(func(sandbox string) bool { return sameSandbox(sandbox, marked) })
}

func (g *collection) note(l *conf.List) {
	text, _ := json.Marshal(l) // a List can always be marshalled
	g.lists[string(text)] = l
}

// collect undoes the stale transactions of one sandbox and notes its valid attachments. All
// attachments of a locked sandbox are valid.
func (g *collection) collect(ctx context.Context, sandbox string) error {
	ctx, unlock, locked := g.e.lock(ctx, sandbox)
	if locked == nil {
		defer unlock()
	} else {
		g.run(sandbox)
	}
	rec, err := g.e.Journal.Read(sandbox)
	var damaged *journal.DamagedError
	if errors.As(err, &damaged) {
		g.damaged[sandbox] = true
		g.e.Log.Error("GC leaves everything of a sandbox", "sandbox", sandbox, "why", damaged.Error())
		return locked
	}
	if err != nil || rec == nil {
		return errors.Join(locked, err)
	}
	errs := []error{locked}
	for _, tx := range slices.Clone(rec.Transactions) {
		stale := locked == nil && tx.Network == g.r.Network && !slices.Contains(g.listed, types.GCAttachment{ContainerID: sandbox, IfName: tx.IfName})
		for _, entry := range tx.Attachments {
			g.note(&entry.List)
			g.endpoints = append(g.endpoints, g.e.allowedEndpoints(entry.Network)...)
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

// keepUnrecorded notes the cluster network's attachments of sandboxes that were wired before
// plexus was installed: the runtime lists them, and the journal does not.
func (g *collection) keepUnrecorded(network string, recorded []string) {
	for _, a := range g.listed {
		if !slices.Contains(recorded, a.ContainerID) && !slices.Contains(g.valid[network], a) {
			g.valid[network] = append(g.valid[network], a)
		}
	}
}

// unknown are the sandboxes whose record cannot be used and which are not in libcni's cache.
func (g *collection) unknown() (sandboxes []string) {
	for sandbox := range g.damaged {
		if !slices.ContainsFunc(g.cached, func(a *libcni.NetworkAttachment) bool { return a.ContainerID == sandbox }) {
			sandboxes = append(sandboxes, sandbox)
		}
	}
	return sandboxes
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
