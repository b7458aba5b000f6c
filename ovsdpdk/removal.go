package ovsdpdk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/shareddir"
)

// removal is what is taken out of one OVSDB.
type removal struct {
	vswitches []ovsdb.Row // of table Open_vSwitch

	ports   []ovsdb.UUID // rows of table Port
	bridges []*ownBridge
}

// ownBridge is a bridge that the owner made. It goes when it has no other ports than its
// local one, which has the bridge's name and is the owner's too.
type ownBridge struct {
	id             ovsdb.UUID
	local, leaving []ovsdb.UUID // rows of table Port
	used           bool         // it has other ports, as far as is known
	at             int          // of the operation that looks at its ports
}

// delete removes ports of one OVSDB and of one owner, and bridges that are empty then. It
// returns the uses of their folders by other attachments at this OVSDB, of every plexus.
// What it asks and is told does not grow with the ports of others.
func (d *Delegate) delete(ctx context.Context, ports []*port) (others []shareddir.Use, err error) {
	address := ports[0].OVSDB
	ifNames, portNames := names(ports)
	if err := delegates.Step(ctx, "%s: delete ports %s", ifNames, portNames); err != nil {
		return nil, err
	}
	r, err := d.findRemoval(ctx, ports)
	if err != nil {
		return nil, err
	}
	folder, local := folderOf(address, r.vswitches)
	if local {
		folder.openSockets(ports)
	}
	uses := selectUses(ports)
	for range tries {
		ops := append(slices.Clip(uses), r.operations(len(uses))...)
		results, err := d.db.transact(ctx, address, ops...)
		again := r.look(results, refusal(err, answerTimedOut))
		switch {
		case again:
			continue
		case err != nil:
			return nil, fmt.Errorf("delete ports %s: %w", portNames, err)
		}
		if last := len(ops) - 1; ops[last].Table == "Open_vSwitch" {
			d.awaitConfig(ctx, address, results[last].Rows)
		}
		var rows []ovsdb.Row
		for i := range uses {
			rows = append(rows, results[i].Rows...)
		}
		for _, p := range ports {
			p.refuseMisnamed(rows)
			if local && p.Mode == modeServer {
				p.err = errors.Join(p.err, folder.removeStale(p))
			}
		}
		return usesByOthers(ports, rows), nil
	}
	return nil, fmt.Errorf("delete ports %s: their bridges changed %d times meanwhile", portNames, tries)
}

// findRemoval reads which rows the ports have, and which of their bridges are the owner's.
func (d *Delegate) findRemoval(ctx context.Context, ports []*port) (*removal, error) {
	ops := []ovsdb.Operation{selectSocketFolder()}
	for _, p := range ports {
		ops = append(ops, selectRows("Interface", equal("name", p.Port), "external_ids"), selectRows("Port", equal("name", p.Port), "_uuid"))
	}
	results, err := d.db.transact(ctx, ports[0].OVSDB, ops...)
	if err != nil {
		return nil, err
	}
	r := &removal{vswitches: results[0].Rows}
	results = results[1:]
	var bridges []string
	leaving := map[string][]ovsdb.UUID{} // by bridge
	for i, p := range ports {
		bridge := p.Bridge
		switch ifaces, rows := results[2*i].Rows, results[2*i+1].Rows; {
		case len(ifaces) == 0:
		case !p.owns(ifaces[0]):
			d.log.Warn("an interface of that name is not ours; it is left alone", "interface", p.Port, "sandbox", p.Sandbox)
		case len(rows) > 0:
			recorded := recordedState(ifaces[0])
			bridge, p.Mode = cmp.Or(recorded.Bridge, bridge), cmp.Or(p.Mode, recorded.Mode)
			r.ports = append(r.ports, uuids(rows[0], "_uuid")...)
			leaving[bridge] = append(leaving[bridge], uuids(rows[0], "_uuid")...)
		}
		if bridge != "" && !slices.Contains(bridges, bridge) {
			bridges = append(bridges, bridge)
		}
	}
	if len(bridges) == 0 {
		return r, nil
	}
	ops = nil
	for _, name := range bridges {
		where := append(equal("name", name), includes("external_ids", pair(markOwner, ports[0].Owner))...)
		ops = append(ops, selectRows("Bridge", where, "_uuid"), selectRows("Port", where, "_uuid"))
	}
	if results, err = d.db.transact(ctx, ports[0].OVSDB, ops...); err != nil {
		return nil, err
	}
	for i, name := range bridges {
		for _, row := range results[2*i].Rows {
			var local []ovsdb.UUID
			for _, port := range results[2*i+1].Rows {
				local = append(local, uuids(port, "_uuid")...)
			}
			for _, id := range uuids(row, "_uuid") {
				r.bridges = append(r.bridges, &ownBridge{id: id, local: local, leaving: leaving[name]})
			}
		}
	}
	return r, nil
}

// operations takes the ports out of their bridges, and the owner's empty bridges out of the
// vswitch: OVSDB removes rows that no other row refers to. A bridge of the owner's that is
// taken for empty is guarded, and one that is taken for used is looked at: it may have
// become empty. at is the place of the first operation in its transaction.
func (r *removal) operations(at int) (ops []ovsdb.Operation) {
	ports := slices.Clone(r.ports)
	var empty []ovsdb.UUID
	for _, b := range r.bridges {
		if b.used {
			continue
		}
		b.at = at + len(ops)
		ops = append(ops, must("Bridge", equal("_uuid", b.id), ovsdb.Row{"ports": set(slices.Concat(b.local, b.leaving))}))
		empty = append(empty, b.id)
		ports = slices.DeleteFunc(ports, func(id ovsdb.UUID) bool { return slices.Contains(b.leaving, id) })
	}
	for _, id := range ports {
		ops = append(ops, mutate("Bridge", includes("ports", set([]ovsdb.UUID{id})), "ports", ovsdb.MutateOperationDelete, set([]ovsdb.UUID{id})))
	}
	for _, b := range r.bridges {
		if b.used {
			b.at = at + len(ops)
			ops = append(ops, selectRows("Bridge", append(equal("_uuid", b.id), equal("ports", set(b.local))...), "_uuid"))
		}
	}
	if len(empty) > 0 {
		ops = append(ops, mutate("Open_vSwitch", anyRow(), "bridges", ovsdb.MutateOperationDelete, set(empty)), nextConfig(), configured())
	}
	return ops
}

// look learns from the outcome of the operations which bridges are used, and reports
// whether other operations are needed. refused is the guard that does not hold, nil for none.
func (r *removal) look(results []result, refused *operationError) (again bool) {
	for _, b := range r.bridges {
		switch {
		case !b.used && refused != nil && refused.at == b.at:
			b.used, again = true, true
		case b.used && refused == nil && len(results) > b.at && len(results[b.at].Rows) > 0:
			b.used, b.leaving, again = false, nil, true
		}
	}
	return again
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

// selectUses reads the interfaces that may use the ports' folders: of a sandbox' own folder,
// those of the sandbox, else those with the folder's mark, and all that a former plexus has
// marked.
func selectUses(ports []*port) []ovsdb.Operation {
	read := func(mark, value string) ovsdb.Operation {
		return selectRows("Interface", includes("external_ids", pair(mark, value)), "name", "external_ids")
	}
	ops := []ovsdb.Operation{read(markSandbox, ports[0].Sandbox)}
	var dirs []string
	for _, p := range ports {
		for _, u := range p.files {
			if (u.Own && filepath.Base(u.Dir) == shareddir.OwnName(p.Sandbox)) || slices.Contains(dirs, u.Dir) {
				continue
			}
			if dirs = append(dirs, u.Dir); len(dirs) == 1 {
				ops = append(ops, read(markFormat, formerFormat))
			}
			ops = append(ops, read(markFolder, u.Dir))
		}
	}
	return ops
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
