package engine

import (
	"context"
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

// configuredEndpoints are the endpoints that the node's configuration names: an unrecorded
// sandbox may be attached there.
func (e *Engine) configuredEndpoints(r *Request) []string {
	all := sockets(e.Bounds.Endpoints)
	note := func(raw []byte, own bool) {
		d := conf.Definition{Config: raw, Fallback: "x"}
		l, err := d.ParseList("")
		if err != nil {
			return
		}
		for _, endpoint := range e.endpointsOf(l) {
			if own || e.Bounds.Allows(endpoint) {
				all = append(all, endpoint)
			}
		}
	}
	if r.Conf == nil { // a tenant's configuration
		note(r.Stdin, false)
		return all
	}
	for _, raw := range r.Conf.Delegates {
		note(raw, true)
	}
	return all
}

// sockets are the endpoints that patterns name. A wildcard in a tcp address stands for
// endpoints that cannot be listed.
func sockets(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		switch file, ok := strings.CutPrefix(p, "unix:"); {
		case ok:
			for _, found := range matching(file, fs.ModeSocket) {
				all = append(all, "unix:"+found)
			}
		case !strings.HasPrefix(p, "tcp:"):
			all = append(all, matching(p, fs.ModeSocket)...)
		case !strings.ContainsAny(p, "*?"):
			all = append(all, p)
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

// recordedEndpoints are the endpoints of a recorded attachment that the node allows.
func (e *Engine) recordedEndpoints(entry *journal.Entry) []string {
	return slices.DeleteFunc(e.endpointsOf(&entry.List), func(endpoint string) bool { return !entry.OfNode && !e.Bounds.Allows(endpoint) })
}

// endpointsOf are the vswitches that the built-ins of a list attach to.
func (e *Engine) endpointsOf(l *conf.List) []string {
	c, err := e.network(conf.Network{Name: l.Name, List: *l}, nil)
	if err != nil {
		return nil
	}
	return c.EndpointsOf()
}

// namedByNode are the endpoints of networks that the node's own files define. The pod's
// other networks may name them too.
func (e *Engine) namedByNode(networks []conf.Network) []string {
	var all []string
	for i := range networks {
		if networks[i].OfNode {
			all = append(all, e.endpointsOf(&networks[i].List)...)
		}
	}
	return all
}

// markedSandbox is how many bytes of a container ID a mark holds at least.
const markedSandbox = 24

// sameSandbox compares a container ID with one of a mark, which may hold its
// beginning alone.
func sameSandbox(sandbox, marked string) bool {
	return sandbox == marked || len(marked) >= markedSandbox && strings.HasPrefix(sandbox, marked)
}
