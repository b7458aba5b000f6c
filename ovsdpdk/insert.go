package ovsdpdk

import (
	"context"
	"fmt"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// tries bounds how often a transaction is made anew when a bridge has changed since it
// was read.
const tries = 20

// insert adds the ports, and bridges that are missing and that plexus is to make, in one
// transaction. It fails when a bridge is not as needed or another interface
// has a socket.
func (d *Delegate) insert(ctx context.Context, address string, ports []*port) error {
	tried := false // after a name was taken
	for range tries {
		results, err := d.db.transact(ctx, address, selectRows("Bridge", anyRow(), "name"), configured())
		if err == nil {
			err = d.db.requireProgress(address, results[1].Rows)
		}
		if err != nil {
			return err
		}
		existing := map[string]bool{}
		for _, row := range results[0].Rows {
			existing[text(row, "name")] = true
		}
		ops, guards, err := insertion(ports, existing)
		if err != nil {
			return err
		}
		ops = append(ops, nextConfig(), configured())
		results, err = d.db.transact(ctx, address, ops...)
		failed := refusal(err, answerTimedOut)
		switch {
		case failed != nil && guards[failed.at] != nil:
			return guards[failed.at].socketTaken(ctx)
		case failed != nil && failed.op.Table == "Bridge":
			continue // it went, or changed, between the two transactions
		case refusal(err, answerConstraint) != nil && !tried:
			tried = true // perhaps the bridge was made between them
			continue
		case err != nil:
			return fmt.Errorf("insert ports: %w", err)
		}
		for i, op := range ops {
			if op.Op == ovsdb.OperationMutate && results[i].Count != 1 {
				return fmt.Errorf("insert ports: OVSDB changed %d rows of %s, want 1", results[i].Count, op.Table)
			}
		}
		d.db.standstill(address, results[len(ops)-1].Rows)
		return nil
	}
	return fmt.Errorf("insert ports: the bridges changed %d times meanwhile", tries)
}

// insertion decides on the operations. guards says, by the place of an operation that
// fails when a socket is taken, whose socket it guards.
func insertion(ports []*port, existing map[string]bool) (ops []ovsdb.Operation, guards map[int]*port, err error) {
	guards = map[int]*port{}
	var bridges []string
	members, makers := map[string][]ovsdb.UUID{}, map[string]*port{}
	for i, p := range ports {
		ops = append(ops, portRows(p, fmt.Sprint(i))...)
		if members[p.Bridge] == nil {
			bridges = append(bridges, p.Bridge)
		}
		members[p.Bridge] = append(members[p.Bridge], named(fmt.Sprint("port", i)))
		if p.network.CreateBridge {
			makers[p.Bridge] = p
		}
	}
	for _, p := range ports {
		own := ovsdb.Row{"name": p.Port}
		guards[len(ops)] = p
		ops = append(ops, must("Interface", includes("external_ids", pair(markSocket, p.Place(p.File))), own))
		if p.Mode == modeClient { // an interface that is not of plexus has no mark
			guards[len(ops)] = p
			ops = append(ops, must("Interface", includes("options", pair(optionPath, p.Socket)), own))
		}
	}
	for _, bridge := range bridges {
		switch {
		case existing[bridge]:
			ops = append(ops,
				must("Bridge", equal("name", bridge), ovsdb.Row{"name": bridge, "datapath_type": datapath}),
				mutate("Bridge", equal("name", bridge), "ports", ovsdb.MutateOperationInsert, set(members[bridge])))
		case makers[bridge] != nil:
			ops = append(ops, bridgeRows(bridge, fmt.Sprint(len(ops)), makers[bridge].Owner, members[bridge])...)
		default:
			return nil, nil, fmt.Errorf("OVS has no bridge %s any more", bridge)
		}
	}
	return ops, guards, nil
}

// socketTaken explains why the transaction saw another user of the port's socket.
func (p *port) socketTaken(ctx context.Context) error {
	err := p.network.survey(ctx, p.state)
	if err == nil {
		err = fmt.Errorf("socket %s is asked for twice, or was used by another interface just now", p.Place(p.File))
	}
	return p.errorf("%w", err)
}

// awaitPorts waits until ovs-vswitchd has given every interface an OpenFlow
// port or an error. OVSDB does the waiting.
func (d *Delegate) awaitPorts(ctx context.Context, address string, ports []*port) error {
	var waits, reads []ovsdb.Operation
	for _, p := range ports {
		waits = append(waits, wait("Interface", equal("name", p.Port), openTimeout, ovsdb.WaitConditionNotEqual, ovsdb.Row{"ofport": set[int](nil)}))
		reads = append(reads, selectRows("Interface", equal("name", p.Port), "ofport", "error"))
	}
	results, err := d.db.transactWithin(ctx, openTimeout+openMargin, address, append(waits, reads...)...)
	if late := refusal(err, answerTimedOut); late != nil && late.at < len(ports) {
		p := ports[late.at]
		return p.errorf("%w", vswitchdUnavailable(address, fmt.Errorf("it did not open port %s within %s", p.Port, openTimeout)))
	}
	if err != nil {
		return fmt.Errorf("wait for ovs-vswitchd: %w", err)
	}
	for i, p := range ports {
		switch rows := results[len(ports)+i].Rows; {
		case len(rows) != 1:
			return p.errorf("port %s was removed from OVSDB while it was being attached", p.Port)
		case !isOpen(rows[0]):
			return p.errorf("ovs-vswitchd cannot open port %s: %s", p.Port, reason(rows[0]))
		}
	}
	return nil
}
