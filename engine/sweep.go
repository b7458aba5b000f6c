package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
)

// sweepBudget bounds a sweep of all endpoints together. An endpoint that does not
// answer within it is passed over.
const sweepBudget = 5 * time.Second

// sweep lets all built-ins, in parallel, remove objects that carry their mark and that keep
// does not keep. An unavailable endpoint is logged and no error: the agent sweeps again, and
// leftover objects do no harm.
func (e *Engine) sweep(ctx context.Context, endpoints []string, keep func(sandbox, ifName string) bool) error {
	slices.Sort(endpoints)
	endpoints = slices.Compact(endpoints)
	bounds := e.Bounds
	bounds.SocketDirs = folders(bounds.SocketDirs)
	bounded, cancel := context.WithTimeout(ctx, sweepBudget)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for name, d := range e.Delegates {
		group.Go(func() {
			for _, err := range d.Sweep(bounded, e.Journal.DataDir(), endpoints, bounds, keep) {
				if delegates.AllUnavailable(err) != nil {
					e.Log.Warn("could not look for marks of ownership", "delegate", name, "why", err.Error())
					continue
				}
				mu.Lock()
				errs = append(errs, fmt.Errorf("sweep %s: %w", name, err))
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// configuredNetworks are the networks that the request's configuration has itself: those of
// the node, or the one of a tenant.
func configuredNetworks(r *Request) (all []conf.Network) {
	own := r.Conf != nil
	configs := []json.RawMessage{r.Stdin}
	if own {
		configs = r.Conf.Delegates
	}
	for _, raw := range configs {
		d := conf.Definition{Config: raw, Fallback: "x"}
		if l, err := d.ParseList(""); err == nil {
			all = append(all, conf.Network{Name: l.Name, List: *l, OfNode: own})
		}
	}
	return all
}

// knownNetworks are the networks of the request, of the journal and of libcni's cache.
func (e *Engine) knownNetworks(r *Request) []conf.Network {
	all := configuredNetworks(r)
	transactions, _ := e.Journal.Transactions() // on an error the default folders are still searched
	for _, tx := range transactions {
		all = append(all, journal.Networks(tx.Attachments)...)
	}
	cached, _ := e.cachedEntries("")
	for _, n := range journal.Networks(cached) {
		n.OfNode = false // its folder of addresses has to be within the bounds
		all = append(all, n)
	}
	return all
}

// configuredEndpoints are the endpoints that the node's configuration names: an unrecorded
// sandbox may be attached there.
func (e *Engine) configuredEndpoints(r *Request) []string {
	all := sockets(e.Bounds.Endpoints)
	for _, n := range configuredNetworks(r) {
		all = append(all, e.allowedEndpoints(n)...)
	}
	return all
}

// allowedEndpoints are the endpoints of a network that the node allows.
func (e *Engine) allowedEndpoints(n conf.Network) []string {
	return slices.DeleteFunc(e.endpointsOf(n), func(endpoint string) bool { return !n.OfNode && !e.Bounds.Allows(endpoint) })
}

// endpointsOf are the vswitches that the built-ins of a network attach to.
func (e *Engine) endpointsOf(n conf.Network) []string {
	c, err := e.network(n, nil)
	if err != nil {
		return nil
	}
	return c.EndpointsOf()
}

// sockets are the endpoints that patterns name. A wildcard in a tcp address stands for
// endpoints that cannot be listed.
func sockets(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		file, isUnix := strings.CutPrefix(p, "unix:")
		if (strings.HasPrefix(p, "tcp:") || strings.HasPrefix(p, "ssl:")) && strings.ContainsAny(p, "*?") {
			continue
		}
		for _, path := range matching(file, fs.ModeSocket) {
			if isUnix {
				path = "unix:" + path
			}
			all = append(all, path)
		}
	}
	return all
}

// folders are the folders that patterns name.
func folders(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		all = append(all, matching(p, fs.ModeDir)...)
	}
	return all
}

// matching are the paths that a pattern names: the pattern itself if it has no wildcard, else
// the existing files of that kind which match.
func matching(pattern string, kind fs.FileMode) []string {
	if !strings.ContainsAny(pattern, "*?") {
		return []string{pattern}
	}
	paths, _ := filepath.Glob(pattern) // the check of the configuration refuses a malformed pattern
	return slices.DeleteFunc(paths, func(path string) bool {
		st, err := os.Lstat(path)
		return err != nil || st.Mode().Type() != kind
	})
}

// markedSandbox is how many bytes of a container ID a mark holds at least.
const markedSandbox = 24

// sameSandbox compares a container ID with one of a mark, which may hold its
// beginning alone.
func sameSandbox(sandbox, marked string) bool {
	return sandbox == marked || len(marked) >= markedSandbox && strings.HasPrefix(sandbox, marked)
}
