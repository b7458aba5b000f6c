package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// Detach removes ports, those of one OVSDB in one transaction, with the bridges that
// plexus made for them and that are empty then. It removes the files of the last
// attachment first: the first one's state knows what folders were like before.
func (d *Delegate) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	ports, errs := make([]*port, len(all)), make([]error, len(all))
	for i, a := range all {
		ports[i] = removalOf(a)
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
func removalOf(a *delegates.Attachment) *port {
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
	if s, err := n.decide(a); err == nil {
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
		if err := files.Clear(shareddir.Clearing{Log: d.log, Others: others, Recorded: p.State != nil, Origin: p.socket}); err != nil {
			return err
		}
	}
	return nil
}

// delete removes ports of one OVSDB and of one owner, and empty bridges. It returns the
// uses of folders by the other attachments at this OVSDB, of every plexus.
func (d *Delegate) delete(ctx context.Context, ports []*port) (others []shareddir.Use, err error) {
	address := ports[0].OVSDB
	ifNames, portNames := names(ports)
	if err := delegates.Step(ctx, "%s: delete ports %s", ifNames, portNames); err != nil {
		return nil, err
	}
	if err := d.openSockets(ctx, ports); err != nil {
		return nil, err
	}
	var bridges []string // that have, or had, the ports
	for range tries {
		results, err := d.db.transact(ctx, address, selection(ports)...)
		if err != nil {
			return nil, err
		}
		marked := results[2].Rows
		var ids []ovsdb.UUID
		for i, p := range ports {
			ifaces, rows := results[3+2*i].Rows, results[4+2*i].Rows
			bridges = append(bridges, p.Bridge)
			switch {
			case len(ifaces) == 0:
			case !p.owns(ifaces[0]):
				d.log.Warn("an interface of that name is not ours; it is left alone", "interface", p.Port, "sandbox", p.Sandbox)
			case len(rows) > 0:
				ids = append(ids, uuids(rows[0], "_uuid")...)
				bridges = append(bridges, recordedState(ifaces[0]).Bridge)
			}
		}
		others = usesByOthers(ports, marked)
		ops := deletion(ports[0].Owner, ids, bridges, results[0].Rows, results[1].Rows)
		if len(ops) == 0 {
			for _, p := range ports {
				p.refuseMisnamed(marked)
			}
			return others, nil
		}
		results, err = d.db.transact(ctx, address, ops...)
		if err != nil && refusal(err, answerTimedOut) == nil {
			return nil, fmt.Errorf("delete ports %s: %w", portNames, err)
		}
		if last := len(ops) - 1; err == nil && ops[last].Op == ovsdb.OperationSelect && len(results[last].Rows) > 0 {
			d.awaitConfig(ctx, address, results[last].Rows)
		}
		// Once more: a bridge may have changed between the two transactions, or its
		// last other port was removed at the same time.
	}
	return nil, fmt.Errorf("delete ports %s: their bridges changed %d times meanwhile", portNames, tries)
}

// selection reads bridges, the owner's ports, the interfaces of every plexus, and for each
// port the interface and the port of its name.
func selection(ports []*port) []ovsdb.Operation {
	ops := []ovsdb.Operation{
		selectRows("Bridge", anyRow(), "_uuid", "name", "ports", "external_ids"),
		selectRows("Port", includes("external_ids", pair(markOwner, ports[0].Owner)), "_uuid", "name"),
		selectRows("Interface", includes("external_ids", pair(markFormat, "1")), "name", "external_ids"),
	}
	for _, p := range ports {
		ops = append(ops, selectRows("Interface", equal("name", p.Port), "external_ids"), selectRows("Port", equal("name", p.Port), "_uuid"))
	}
	return ops
}

// refuseMisnamed reports rows that have the attachment's marks and are not its port. A
// record says which port it is.
func (p *port) refuseMisnamed(rows []ovsdb.Row) {
	for _, row := range rows {
		if p.State == nil && p.owns(row) {
			p.err = errors.Join(p.err, p.misnamed(row))
		}
	}
}

// usesByOthers are the uses of folders that the rows of other attachments record. A row
// may keep a folder or a socket; it is never a reason to remove one.
func usesByOthers(ports []*port, rows []ovsdb.Row) []shareddir.Use {
	var uses []shareddir.Use
	for _, row := range rows {
		ids := strMap(row, "external_ids")
		s, err := decodeState(json.RawMessage(ids[markState]), ids[markSandbox])
		if err == nil && !slices.ContainsFunc(ports, func(p *port) bool { return p.Port == s.Port }) {
			uses = append(uses, s.Use)
		}
	}
	return uses
}

// deletion decides which operations take ports out of their bridges. A bridge of the
// owner's goes if nothing but its local port would be left in it, which has the bridge's
// name and is one of the owner's ports. Of the bridges that have none of the ports only
// those in names are looked at. OVSDB removes rows that no other row refers to.
func deletion(owner string, ports []ovsdb.UUID, names []string, bridges, owners []ovsdb.Row) []ovsdb.Operation {
	var ops []ovsdb.Operation
	var empty []ovsdb.UUID
	for _, b := range bridges {
		id, members := uuids(b, "_uuid"), uuids(b, "ports")
		var leaving []ovsdb.UUID
		used := false
		for _, m := range members {
			isLocal := func(p ovsdb.Row) bool {
				return text(p, "name") == text(b, "name") && slices.Contains(uuids(p, "_uuid"), m)
			}
			switch {
			case slices.Contains(ports, m):
				leaving = append(leaving, m)
			case !slices.ContainsFunc(owners, isLocal):
				used = true
			}
		}
		switch {
		case len(id) != 1:
		case !used && strMap(b, "external_ids")[markOwner] == owner && (len(leaving) > 0 || slices.Contains(names, text(b, "name"))):
			empty = append(empty, id[0])
			ops = append(ops, must("Bridge", equal("_uuid", id[0]), ovsdb.Row{"ports": set(members)}))
		case len(leaving) > 0:
			ops = append(ops, mutate("Bridge", equal("_uuid", id[0]), "ports", ovsdb.MutateOperationDelete, set(leaving)))
		}
	}
	if len(empty) > 0 {
		ops = append(ops, mutate("Open_vSwitch", anyRow(), "bridges", ovsdb.MutateOperationDelete, set(empty)), nextConfig(), configured())
	}
	return ops
}
