package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/shareddir"
)

// delete removes the port, and with it its bridge when that is ours and has no
// other. It returns the other attachments at this OVSDB,
// whichever plexus made them: they may share the folder.
func (d *Delegate) delete(ctx context.Context, m marks, s *state) (others []shareddir.Use, err error) {
	for range tries {
		found, err := d.db.transact(ctx, s.OVSDB,
			selectRows("Interface", equal("name", s.Port), "external_ids"),
			selectRows("Port", equal("name", s.Port), "_uuid"),
			selectRows("Bridge", anyRow(), "_uuid", "name", "ports", "external_ids"),
			selectRows("Port", includes("external_ids", ownerMark(m.owner)), "_uuid", "name"),
			selectRows("Interface", includes("external_ids", anyPlexus()), "name", "external_ids"))
		if err != nil {
			return nil, err
		}
		others = uses(slices.DeleteFunc(states(found[4].Rows), func(other *state) bool { return other.Port == s.Port }))
		ours := len(found[0].Rows) > 0 && m.on(found[0].Rows[0])
		if len(found[0].Rows) > 0 && !ours {
			d.log.Warn("an interface of that name is not ours; it is left alone", "interface", s.Port, "sandbox", m.sandbox)
		}
		ops := removal(s, m.owner, ours, found[1].Rows, found[2].Rows, localPorts(found[2].Rows, found[3].Rows))
		if len(ops) == 0 {
			return others, nil
		}
		results, err := d.db.transact(ctx, s.OVSDB, ops...)
		if err != nil && refusedWith(err, answerTimedOut) == nil {
			return nil, fmt.Errorf("delete port %s: %w", s.Port, err)
		}
		for i, op := range ops {
			if err == nil && op.Op == ovsdb.OperationSelect && len(results[i].Rows) > 0 {
				d.awaitConfig(ctx, s.OVSDB, results[i].Rows)
			}
		}
		// Once more: the bridge may have changed between the two transactions,
		// or its other port may have left at the same time as this one.
	}
	return nil, fmt.Errorf("delete port %s: its bridge changed %d times meanwhile", s.Port, tries)
}

// states are those recorded in rows of interfaces, readable ones. They may say that a
// folder or a socket is used, and so keep it; they are no reason to remove anything.
func states(rows []ovsdb.Row) []*state {
	var all []*state
	for _, row := range rows {
		ids := strMap(row, "external_ids")
		if s, err := decodeState(json.RawMessage(ids[markState]), ids[markSandbox]); err == nil {
			all = append(all, s)
		}
	}
	return all
}

// uses are the uses of folders by attachments.
func uses(all []*state) []shareddir.Use {
	list := make([]shareddir.Use, len(all))
	for i, s := range all {
		list[i] = s.Use
	}
	return list
}

// localPorts are the ports that plexus made for bridges themselves.
func localPorts(bridges, ports []ovsdb.Row) []ovsdb.UUID {
	var all []ovsdb.UUID
	for _, p := range ports {
		if slices.ContainsFunc(bridges, func(b ovsdb.Row) bool { return text(b, "name") == text(p, "name") }) {
			all = append(all, uuids(p, "_uuid")...)
		}
	}
	return all
}

// removal decides which operations take the port away, if it is ours, and the
// bridge, if that is ours and would be left with its local port alone, or with
// none. OVSDB collects the rows that nothing refers to any more.
func removal(s *state, owner string, ours bool, ports, bridges []ovsdb.Row, locals []ovsdb.UUID) []ovsdb.Operation {
	var port []ovsdb.UUID
	if ours && len(ports) > 0 {
		port = uuids(ports[0], "_uuid")
	}
	var ops []ovsdb.Operation
	for _, b := range bridges {
		id, members := uuids(b, "_uuid"), uuids(b, "ports")
		holds := len(port) == 1 && slices.Contains(members, port[0])
		used := slices.ContainsFunc(members, func(m ovsdb.UUID) bool {
			return !slices.Contains(locals, m) && !(holds && m == port[0])
		})
		switch {
		case len(id) != 1:
		case !used && strMap(b, "external_ids")[markOwner] == owner && (holds || text(b, "name") == s.Bridge):
			ops = append(ops,
				must("Bridge", equal("_uuid", id[0]), ovsdb.Row{"ports": uuidSet(members...)}),
				ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Open_vSwitch", Where: anyRow(),
					Mutations: []ovsdb.Mutation{
						*ovsdb.NewMutation("bridges", ovsdb.MutateOperationDelete, uuidSet(id[0])),
						*ovsdb.NewMutation("next_cfg", ovsdb.MutateOperationAdd, 1)}},
				configured())
		case holds:
			ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: equal("_uuid", id[0]),
				Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationDelete, uuidSet(port[0]))}})
		}
	}
	return ops
}

// awaitConfig waits until ovs-vswitchd has acted on the transaction that gave
// Open_vSwitch its next_cfg, so that the bridge's own link is gone as well. DEL is right
// without it: a vswitchd that stands still keeps the first DEL waiting for goneTimeout,
// and no other.
func (d *Delegate) awaitConfig(ctx context.Context, address string, rows []ovsdb.Row) {
	next := ints(rows[0], "next_cfg")
	for {
		cur, still := ints(rows[0], "cur_cfg"), d.db.standstill(address, rows)
		if len(next) != 1 || len(cur) != 1 || cur[0] >= next[0] {
			return
		}
		if still >= goneTimeout {
			d.log.Warn("ovs-vswitchd has not removed the bridge's link yet", "ovsdb", address)
			return
		}
		limit := int((goneTimeout - still) / time.Millisecond)
		found, err := d.db.transact(ctx, address,
			ovsdb.Operation{Op: ovsdb.OperationWait, Table: "Open_vSwitch", Where: anyRow(), Columns: []string{"cur_cfg"},
				Until: string(ovsdb.WaitConditionNotEqual), Rows: []ovsdb.Row{{"cur_cfg": cur[0]}}, Timeout: &limit},
			configured())
		if err != nil || len(found[1].Rows) == 0 {
			d.log.Warn("ovs-vswitchd has not removed the bridge's link yet", "ovsdb", address, "why", err)
			return
		}
		rows = found[1].Rows
	}
}

// Sweep removes what carries owner's mark and is not to be kept, at the default
// OVSDB and at those of the endpoints that are OVSDB's, all at once. An OVSDB whose
// socket does not exist has nothing.
func (d *Delegate) Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	addresses := []string{defaultOVSDB}
	for _, e := range endpoints {
		if checkAddress(e) == nil && !slices.Contains(addresses, e) {
			addresses = append(addresses, e)
		}
	}
	bases := append(slices.Clone(defaultSocketDirs), bounds.SocketDirs...)
	errs := make([]error, len(addresses))
	var group sync.WaitGroup
	for i, address := range addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		group.Go(func() { errs[i] = d.sweepAt(ctx, address, owner, bases, keep) })
	}
	group.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// sweepAt goes by the rows alone. They say what is to be removed of OVSDB; of files
// only those are removed that the attachment's names lead to, below the bases.
func (d *Delegate) sweepAt(ctx context.Context, address, owner string, bases []string, keep func(sandbox, ifName string) bool) error {
	found, err := d.db.transact(ctx, address,
		selectRows("Interface", includes("external_ids", ownerMark(owner)), "name", "external_ids"))
	if err != nil {
		return err
	}
	var errs []error
	for _, row := range found[0].Rows {
		ids := strMap(row, "external_ids")
		m := marks{owner, ids[markSandbox], ids[markIfName]}
		if m.sandbox == "" || keep(m.sandbox, m.ifName) {
			continue
		}
		err := d.removeMarked(ctx, address, m, row, bases)
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", text(row, "name"), err))
		}
	}
	return errors.Join(errs...)
}

// removeMarked undoes the attachment that a row is about.
func (d *Delegate) removeMarked(ctx context.Context, address string, m marks, row ovsdb.Row, bases []string) error {
	s := state{}
	_ = json.Unmarshal([]byte(strMap(row, "external_ids")[markState]), &s) // for the bridge; it may be damaged
	s = state{OVSDB: address, Bridge: s.Bridge, Port: portName(conf.Attachment{Owner: m.owner, Sandbox: m.sandbox, IfName: m.ifName})}
	if s.Port != text(row, "name") {
		return fmt.Errorf("its marks of ownership (external_ids plexus-*) are those of port %s: remove it with ovs-vsctl del-port", s.Port)
	}
	if err := conf.Step(ctx, "%s: delete port %s", m.ifName, s.Port); err != nil {
		return err
	}
	others, err := d.delete(ctx, m, &s)
	if err != nil {
		return err
	}
	for _, base := range bases {
		files, ok := shareddir.Marked(base, m.sandbox, m.ifName, socketName(m.sandbox, m.ifName), s.Port)
		if !ok {
			continue
		}
		if err := conf.Step(ctx, "%s: remove files from %s", m.ifName, files.Dir); err != nil {
			return err
		}
		if err := files.Clear(shareddir.Clearing{Log: d.log, Others: others}); err != nil {
			return err
		}
	}
	return nil
}
