package vppmemif

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// Sweep is delegates.Delegate. keep gets the beginning of the container ID. A VPP that
// does not run has nothing.
func (d *Delegate) Sweep(
	ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool,
) []error {
	apis := []string{defaultAPISocket}
	for _, e := range endpoints {
		if filepath.IsAbs(e) && !slices.Contains(apis, e) {
			apis = append(apis, e)
		}
	}
	bases := append(slices.Clone(defaultSocketDirs), bounds.SocketDirs...)
	errs := make([]error, len(apis))
	var group sync.WaitGroup
	for i, api := range apis {
		group.Go(func() {
			if err := d.sweepAt(ctx, api, owner, bases, keep); !notRunning(err) {
				errs[i] = err
			}
		})
	}
	group.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// sweepAt goes by the tags alone. A tag is no licence for the socket's path: of files it
// removes those alone that the attachment's names lead to, below the bases.
func (d *Delegate) sweepAt(ctx context.Context, api, owner string, bases []string, keep func(sandbox, ifName string) bool) error {
	s, err := d.open(ctx, api)
	if err != nil {
		return err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	var all []*removal
	for _, p := range snap.ports {
		sandbox, ifName, ours := parseTag(owner, p.Tag)
		if !ours || keep(sandbox, ifName) {
			continue
		}
		r := &removal{tag: p.Tag, ifName: ifName, ports: []port{p}}
		file, link := socketName(kindOf(p.memif == nil), sandbox, ifName), uniqueOf(owner, sandbox, ifName)
		for _, base := range bases {
			if use, ok := shareddir.Marked(base, sandbox, ifName, file, link); ok {
				r.files = append(r.files, use)
			}
		}
		all = append(all, r)
	}
	for _, tag := range snap.ownDomains(owner) {
		all = append(all, &removal{tag: tag, domains: []string{tag}})
	}
	err = s.remove(ctx, snap, all)
	if err == nil {
		d.clear(ctx, all)
	}
	errs := []error{err}
	for _, r := range all {
		if r.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.tag, r.err))
		}
	}
	return errors.Join(errs...)
}
