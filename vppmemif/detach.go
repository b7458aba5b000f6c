package vppmemif

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"syscall"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// removal is an attachment to remove.
type removal struct {
	api, tag, kind string
	owner          string
	state          *state // nil: the tag is all that is known
	recorded       bool   // the journal has the state
	files          []shareddir.Use
	ports          []port          // in VPP
	others         []shareddir.Use // of folders, by the sockets that VPP keeps
	err            error
}

// Detach is delegates.Delegate. A VPP that does not run has nothing to remove.
func (d *Delegate) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	removals := make([]*removal, len(all))
	byVPP := map[string][]*removal{}
	for i, a := range all {
		r := removalOf(a)
		removals[i] = r
		if r.api != "" {
			r.fail(delegates.Step(ctx, "%s: delete %s %s", a.IfName, r.kind, r.tag))
		}
		if r.api != "" && r.err == nil {
			byVPP[r.api] = append(byVPP[r.api], r)
		}
	}
	for _, api := range slices.Sorted(maps.Keys(byVPP)) {
		s, err := d.vpps.open(ctx, api)
		if err == nil {
			err = s.remove(ctx, byVPP[api])
		}
		for _, r := range byVPP[api] {
			if !notRunning(err) {
				r.fail(err)
			}
		}
	}
	d.clear(ctx, all, removals)
	errs := make([]error, len(all))
	for i, r := range removals {
		errs[i] = r.err
	}
	return errs
}

// clear removes the files of attachments that VPP has no longer, last attachment first.
// Those of attachments that come later or have failed stay.
func (d *Delegate) clear(ctx context.Context, all []*delegates.Attachment, removals []*removal) {
	for i, r := range slices.Backward(removals) {
		others := slices.Clone(r.others)
		for k, other := range removals {
			if k < i || other.err != nil {
				others = append(others, other.files...)
			}
		}
		for _, use := range r.files {
			if r.err == nil {
				r.fail(delegates.Step(ctx, "%s: remove files from %s", all[i].IfName, use.Dir))
			}
			if r.err == nil {
				r.fail(use.Clear(shareddir.Clearing{Log: d.log, Others: others, Recorded: r.recorded}))
			}
		}
	}
}

// removalOf goes by the record of an attachment, or else by its configuration and tag.
// Without either there is nothing to remove, and Attach refuses a configuration that
// is out of bounds.
func removalOf(a *delegates.Attachment) *removal {
	if a.State != nil {
		st, err := decodeState(a)
		if err != nil {
			return &removal{err: err}
		}
		r := &removal{api: st.API, tag: st.Tag, kind: st.kind(), owner: a.Owner, state: st, recorded: true}
		r.addFiles(st)
		return r
	}
	c := configOf(a)
	if c == nil || c.within(a.Bounds) != nil {
		return &removal{}
	}
	r := &removal{api: c.APISocket, tag: tag(a.Owner, a.Sandbox, a.IfName), kind: kindOf(c.vhost), owner: a.Owner}
	if files, ok := shareddir.Marked(c.Socket.Dir, a.Sandbox, a.IfName, socketName(r.kind, a.Sandbox, a.IfName), unique(a)); ok {
		r.files = append(r.files, files)
	}
	if st, err := decide(c, a); err == nil { // Attach refuses what decide refuses
		if !st.Own && !st.Alone {
			st.File = "" // nothing says that a socket of that name is the attachment's
		}
		r.state = st
		r.addFiles(st)
	}
	return r
}

func (r *removal) addFiles(st *state) {
	if st.Abstract == "" {
		r.files = append(r.files, st.Use)
	}
}

// fail keeps the first error.
func (r *removal) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// notRunning reports whether an error says that nobody listens on the API socket, and
// nothing else. Such a VPP has lost all that it had.
func notRunning(err error) bool {
	away := delegates.AllUnavailable(err)
	return len(away) > 0 && !slices.ContainsFunc(away, func(e *delegates.Unavailable) bool {
		return !errors.Is(e, fs.ErrNotExist) && !errors.Is(e, syscall.ECONNREFUSED)
	})
}
