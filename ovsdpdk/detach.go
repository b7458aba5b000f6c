package ovsdpdk

import (
	"context"
	"errors"
	"slices"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Detach removes ports, those of one OVSDB in one transaction, with the bridges that
// plexus made for them and that are empty then. It removes the files of the last
// attachment first: the first one's state knows what folders were like before.
func (d *Delegate) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	ports, errs := make([]*port, len(all)), make([]error, len(all))
	for i, a := range all {
		ports[i] = removalOf(ctx, a)
	}
	for _, group := range byOVSDB(ports) {
		d.undo(ctx, group)
	}
	for i, p := range ports {
		errs[i] = p.err
	}
	return errs
}

// removalOf is the port of an attachment that is to be undone, without a state if there
// is nothing to undo. An attachment without a record gets its names and paths from the
// network again.
func removalOf(ctx context.Context, a *delegates.Attachment) *port {
	p := &port{Attachment: a}
	if a.State != nil {
		if p.state, p.err = decodeState(a.State, a.Sandbox); p.err == nil {
			p.files = []shareddir.Use{p.Use}
		}
		return p
	}
	n := networkOf(a)
	if n == nil || n.within(a.Bounds) != nil {
		return p // ADD refuses it, so it never was
	}
	p.state = &state{OVSDB: n.OVSDB, Bridge: n.Bridge, Port: portName(a)}
	p.files = markedFiles(a, n.Vhost.SocketDir)
	if s, err := n.decide(ctx, a); err == nil {
		if !s.Own && n.Vhost.SocketFile != "" {
			s.File = "" // nothing says that a socket of that name is the attachment's
		}
		p.state, p.files = s, append(p.files, s.Use)
	}
	return p
}

// markedFiles are the files that the marks of an attachment lead to, below the bases.
func markedFiles(a *delegates.Attachment, bases ...string) []shareddir.Use {
	var all []shareddir.Use
	for _, base := range bases {
		if u, ok := shareddir.Marked(base, a.Sandbox, a.IfName, socketName(a.Sandbox, a.IfName), portName(a)); ok {
			all = append(all, u)
		}
	}
	return all
}

// undo undoes attachments at one OVSDB.
func (d *Delegate) undo(ctx context.Context, ports []*port) {
	others, err := d.delete(ctx, ports)
	for i, p := range slices.Backward(ports) {
		remaining := slices.Clone(others)
		for _, q := range ports[:i] {
			remaining = append(remaining, q.files...)
		}
		if err == nil {
			p.err = errors.Join(p.err, d.clear(ctx, p, remaining))
		} else {
			p.err = errors.Join(p.err, err)
		}
		if p.socket != nil {
			_ = p.socket.Close()
		}
	}
}

// clear removes the files of an attachment that no other one uses.
func (d *Delegate) clear(ctx context.Context, p *port, others []shareddir.Use) error {
	for _, files := range p.files {
		if err := delegates.Step(ctx, "%s: remove files from %s", p.IfName, files.Dir); err != nil {
			return err
		}
		d.grants.Drop(files)
		if err := files.Clear(shareddir.Clearing{Log: d.log, Others: others, Recorded: p.State != nil, Origin: p.socket}); err != nil {
			return err
		}
	}
	return nil
}
