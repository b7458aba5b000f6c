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
	ifName, owner  string
	state          *state // nil: the tag is all that is known
	recorded       bool   // the journal has the state
	files          []shareddir.Use
	ports          []port          // in VPP
	domains        []string        // tags of bridge domains that go when they are empty
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
		if err := d.detachFrom(ctx, api, byVPP[api]); !notRunning(err) {
			for _, r := range byVPP[api] {
				r.fail(err)
			}
		}
	}
	d.clear(ctx, removals)
	errs := make([]error, len(all))
	for i, r := range removals {
		errs[i] = r.err
	}
	return errs
}

// detachFrom removes attachments from one VPP. The bridge domains of ours that an attachment
// without a record may have joined are all that there are.
func (d *Delegate) detachFrom(ctx context.Context, api string, all []*removal) error {
	s, err := d.open(ctx, api)
	if err != nil {
		return err
	}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		for _, p := range snap.ports {
			if r.owns(&p) {
				r.ports = append(r.ports, p)
			}
		}
		if !r.recorded {
			r.domains = snap.ownDomains(r.owner)
		}
	}
	return s.remove(ctx, snap, all)
}

// clear removes the files of attachments that VPP has no longer, last attachment first.
// Those of attachments that come later or have failed stay.
func (d *Delegate) clear(ctx context.Context, all []*removal) {
	for i, r := range slices.Backward(all) {
		others := slices.Clone(r.others)
		for k, other := range all {
			if k < i || other.err != nil {
				others = append(others, other.files...)
			}
		}
		for _, use := range r.files {
			if r.err == nil {
				r.fail(delegates.Step(ctx, "%s: remove files from %s", r.ifName, use.Dir))
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
		r := &removal{api: st.API, tag: st.Tag, kind: st.kind(), ifName: a.IfName, state: st, recorded: true}
		if st.DomainTag != "" {
			r.domains = []string{st.DomainTag}
		}
		r.addFiles(st)
		return r
	}
	c := configOf(a)
	if c == nil || c.within(a.Bounds) != nil {
		return &removal{}
	}
	r := &removal{api: c.APISocket, tag: tag(a.Owner, a.Sandbox, a.IfName), kind: kindOf(c.VhostUser), ifName: a.IfName, owner: a.Owner}
	if files, ok := shareddir.Marked(c.Socket.Dir, a.Sandbox, a.IfName, socketName(r.kind, a.Sandbox, a.IfName), unique(a)); ok {
		r.files = append(r.files, files)
	}
	if st, err := decide(c, a); err == nil { // Attach refuses what decide refuses
		if !st.Own && c.Socket.File != "" {
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
