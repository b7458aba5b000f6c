package ovsdpdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/shareddir"
)

// Marks of ownership in external_ids (ovs-vswitchd.conf.db(5)).
const (
	markOwner   = "plexus-owner"   // data folder of the plexus that made it
	markFormat  = "plexus-format"  // version of these marks, on every interface of any plexus
	markSandbox = "plexus-sandbox" // container ID
	markIfName  = "plexus-ifname"
	markPod     = "plexus-pod"     // namespace/name, for people
	markNetwork = "plexus-network" // for people
	markSocket  = "plexus-socket"  // where the socket really is; nobody else may have it
	markState   = "plexus-state"   // state, for when the journal is lost
)

// marks say whose a row is.
type marks struct{ owner, sandbox, ifName string }

func (m marks) ids() map[string]string {
	return map[string]string{markOwner: m.owner, markSandbox: m.sandbox, markIfName: m.ifName}
}

func (m marks) on(row ovsdb.Row) bool {
	ids := strMap(row, "external_ids")
	return ids[markOwner] == m.owner && ids[markSandbox] == m.sandbox && ids[markIfName] == m.ifName
}

const (
	typeClient = "dpdkvhostuserclient"
	typeServer = "dpdkvhostuser"
	datapath   = "netdev" // the userspace datapath
)

// tries bounds how often a transaction is made anew when somebody changed the
// bridge in between.
const tries = 20

// insert adds the ports, and bridges that are missing and wanted, in one
// transaction that fails when a bridge is not as needed or another interface
// has a socket.
func (d *Delegate) insert(ctx context.Context, address string, ports []*port) error {
	var refused error // a name was taken
	for range tries {
		found, err := d.db.transact(ctx, address, selectRows("Bridge", anyRow(), "name"), configured())
		if err == nil {
			err = d.db.follows(address, found[1].Rows)
		}
		if err != nil {
			return err
		}
		there := map[string]bool{}
		for _, row := range found[0].Rows {
			there[text(row, "name")] = true
		}
		ops, sockets, err := insertion(ports, there)
		if err != nil {
			return err
		}
		ops = append(ops, nextConfig(), configured())
		results, err := d.db.transact(ctx, address, ops...)
		missed := refusedWith(err, answerTimedOut)
		switch {
		case missed != nil && missed.op.Table == "Bridge":
			continue // it went, or changed, between the two transactions
		case missed != nil:
			return d.whoHasSocket(ctx, sockets[missed.at])
		case refusedWith(err, answerConstraint) != nil && refused == nil:
			refused = err // somebody has made a bridge meanwhile, perhaps
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

func bridgesOf(ports []*port) []string {
	var names []string
	for _, p := range ports {
		if !slices.Contains(names, p.Bridge) {
			names = append(names, p.Bridge)
		}
	}
	return names
}

// insertion decides on the operations. sockets says, by the place of an
// operation that fails when a socket is taken, whose port it guards.
func insertion(ports []*port, there map[string]bool) (ops []ovsdb.Operation, sockets map[int]*port, err error) {
	sockets = map[int]*port{}
	for i, p := range ports {
		ops = append(ops, portRows(p, fmt.Sprint(i))...)
	}
	for i, p := range ports {
		own := ovsdb.Row{"name": p.Port}
		sockets[len(ops)] = ports[i]
		ops = append(ops, must("Interface", includes("external_ids", socketMark(p.state)), own))
		if p.Mode == modeClient { // one that is not of plexus has no mark
			sockets[len(ops)] = ports[i]
			ops = append(ops, must("Interface", includes("options", socketOption(p.Socket)), own))
		}
	}
	for _, bridge := range bridgesOf(ports) {
		var members []ovsdb.UUID
		var maker *port
		for i, p := range ports {
			if p.Bridge != bridge {
				continue
			}
			members = append(members, named(fmt.Sprint("port", i)))
			if p.config.CreateBridge {
				maker = p
			}
		}
		switch {
		case there[bridge]:
			ops = append(ops,
				must("Bridge", equal("name", bridge), ovsdb.Row{"name": bridge, "datapath_type": datapath}),
				ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: equal("name", bridge),
					Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationInsert, uuidSet(members...))}})
		case maker != nil:
			ops = append(ops, bridgeRows(bridge, fmt.Sprint(len(ops)), maker.Owner, members)...)
		default:
			return nil, nil, fmt.Errorf("OVS has no bridge %s any more", bridge)
		}
	}
	return ops, sockets, nil
}

// whoHasSocket explains why the transaction found another user of a socket.
func (d *Delegate) whoHasSocket(ctx context.Context, p *port) error {
	if p == nil {
		return errors.New("insert ports: a socket is used by another interface")
	}
	found, err := d.db.transact(ctx, p.OVSDB,
		selectRows("Interface", includes("options", socketOption(p.Socket)), "name", "external_ids"),
		selectRows("Interface", includes("external_ids", socketMark(p.state)), "name", "external_ids"))
	if err != nil {
		return err
	}
	rows := append(found[0].Rows, found[1].Rows...)
	if len(rows) == 0 {
		return fmt.Errorf("%s (network %s): socket %s is asked for twice, or was used by another interface just now", p.IfName, p.Network, p.Place(p.File))
	}
	return fmt.Errorf("%s (network %s): %w", p.IfName, p.Network, socketTaken(p.config, p.state, rows[0]))
}

func named(name string) ovsdb.UUID { return ovsdb.UUID{GoUUID: name} }

// anyPlexus is the mark of every attachment, whichever plexus made it.
func anyPlexus() ovsdb.OvsMap { return stringMap(map[string]string{markFormat: "1"}) }

// socketMark is the mark of the socket's real place, ownerMark that of the
// plexus whose rows they are.
func socketMark(s *state) ovsdb.OvsMap {
	return stringMap(map[string]string{markSocket: s.Place(s.File)})
}

func ownerMark(owner string) ovsdb.OvsMap { return stringMap(map[string]string{markOwner: owner}) }

func socketOption(path string) ovsdb.OvsMap {
	return stringMap(map[string]string{"vhost-server-path": path})
}

// portRows are the operations that insert interface and port, as named-uuids
// iface and port with a suffix.
func portRows(p *port, suffix string) []ovsdb.Operation {
	c, m := p.config, marks{p.Owner, p.Sandbox, p.IfName}
	ids, own := m.ids(), m.ids()
	for _, all := range []map[string]string{ids, own} {
		all[markNetwork] = p.Network
		if p.Pod != nil {
			all[markPod] = p.Pod.String()
		}
	}
	own[markFormat], own[markSocket], own[markState] = "1", p.Place(p.File), string(p.raw)
	if mac := c.mac(); mac != "" {
		own["attached-mac"] = mac // OVS Integration Guide
	}
	row := ovsdb.Row{"name": p.Port, "interfaces": named("iface" + suffix), "external_ids": stringMap(ids)}
	switch {
	case c.VLAN != nil && c.Trunk != nil:
		row["vlan_mode"], row["tag"], row["trunks"] = "native-untagged", *c.VLAN, intSet(c.Trunk)
	case c.VLAN != nil:
		row["vlan_mode"], row["tag"] = "access", *c.VLAN
	case c.Trunk != nil:
		row["vlan_mode"], row["trunks"] = "trunk", intSet(c.Trunk)
	}
	iface := ovsdb.Row{"name": p.Port, "type": typeServer, "external_ids": stringMap(own)}
	if p.Mode == modeClient {
		iface["type"], iface["options"] = typeClient, socketOption(p.Socket)
	}
	if c.MTU != 0 {
		iface["mtu_request"] = c.MTU
	}
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: "iface" + suffix, Row: iface},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: "port" + suffix, Row: row},
	}
}

// bridgeRows are the operations that make a bridge of ours around ports.
func bridgeRows(bridge, suffix, owner string, members []ovsdb.UUID) []ovsdb.Operation {
	mark := ownerMark(owner)
	iface, local, id := named("localiface"+suffix), named("localport"+suffix), named("bridge"+suffix)
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: iface.GoUUID, Row: ovsdb.Row{"name": bridge, "type": "internal", "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: local.GoUUID, Row: ovsdb.Row{"name": bridge, "interfaces": iface, "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Bridge", UUIDName: id.GoUUID, Row: ovsdb.Row{
			"name": bridge, "datapath_type": datapath, "external_ids": mark, "ports": uuidSet(append(members, local)...)}},
		{Op: ovsdb.OperationMutate, Table: "Open_vSwitch", Where: anyRow(),
			Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("bridges", ovsdb.MutateOperationInsert, uuidSet(id))}},
	}
}

// awaitPorts waits until ovs-vswitchd has given every interface an OpenFlow
// port or an error. OVSDB does the waiting.
func (d *Delegate) awaitPorts(ctx context.Context, address string, ports []*port) error {
	limit := int(settleTimeout / time.Millisecond)
	var ops []ovsdb.Operation
	for _, p := range ports {
		ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationWait, Table: "Interface", Where: equal("name", p.Port), Columns: []string{"ofport"},
			Until: string(ovsdb.WaitConditionNotEqual), Rows: []ovsdb.Row{{"ofport": intSet(nil)}}, Timeout: &limit})
	}
	for _, p := range ports {
		ops = append(ops, selectRows("Interface", equal("name", p.Port), "ofport", "error"))
	}
	found, err := d.db.transactWithin(ctx, settleTimeout+settleMargin, address, ops...)
	if late := refusedWith(err, answerTimedOut); late != nil && late.at < len(ports) {
		p := ports[late.at]
		return fmt.Errorf("%s (network %s): %w", p.IfName, p.Network, stopped(address, fmt.Errorf("it did not open port %s within %s", p.Port, settleTimeout)))
	}
	if err != nil {
		return fmt.Errorf("wait for ovs-vswitchd: %w", err)
	}
	for i, p := range ports {
		rows := found[len(ports)+i].Rows
		if len(rows) != 1 {
			return fmt.Errorf("%s (network %s): port %s was removed from OVSDB while it was being attached", p.IfName, p.Network, p.Port)
		}
		if of := ints(rows[0], "ofport"); len(of) != 1 || of[0] < 1 {
			return fmt.Errorf("%s (network %s): ovs-vswitchd cannot open port %s: %s", p.IfName, p.Network, p.Port, orUnknown(text(rows[0], "error")))
		}
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "it gives no reason; see its log"
	}
	return s
}

// serverSocket opens the socket at which the vswitch listens in server mode. It is in
// the vswitch's run folder, or below that in other_config:vhost-sock-dir, under the name
// of the port. What OVSDB says of the folder leads to nothing outside of the run folder.
func (d *Delegate) serverSocket(ctx context.Context, s *state) (*os.File, error) {
	run, below, err := d.runFolder(ctx, s)
	if err != nil {
		return nil, err
	}
	socket, err := shareddir.OpenSocket(run, filepath.Join(below, s.Port))
	if err != nil {
		return nil, fmt.Errorf("the vswitch does not listen for port %s (in OVSDB, other_config:vhost-sock-dir is %.200q): %w", s.Port, below, err)
	}
	return socket, nil
}

// runFolder is the vswitch's run folder, and the place of its sockets below that.
func (d *Delegate) runFolder(ctx context.Context, s *state) (run, below string, err error) {
	path, ok := strings.CutPrefix(s.OVSDB, "unix:")
	if !ok {
		return "", "", errors.New(`key "vhost.mode": server needs "ovsdb" to be unix:PATH, as the sockets are beside it`)
	}
	found, err := d.db.transact(ctx, s.OVSDB, selectRows("Open_vSwitch", anyRow(), "other_config"))
	if err != nil {
		return "", "", err
	}
	if len(found[0].Rows) > 0 {
		// A slash at its beginning has no meaning for ovs-vswitchd.
		below = strings.TrimLeft(strMap(found[0].Rows[0], "other_config")["vhost-sock-dir"], "/")
	}
	return filepath.Dir(path), below, nil
}

// linkedSocket opens the vswitch's socket whose link in a volume is about to be removed:
// the vswitch listens at it until it has acted on the removal of the port, and only by
// it the link can be told from a socket of somebody else. It is nil where there is none.
func (d *Delegate) linkedSocket(ctx context.Context, s *state) (*os.File, error) {
	if s.Mode != modeServer || s.Own || !strings.HasPrefix(s.OVSDB, "unix:") {
		return nil, nil
	}
	run, below, err := d.runFolder(ctx, s)
	if err != nil {
		return nil, err
	}
	socket, err := shareddir.OpenSocket(run, filepath.Join(below, s.Port))
	if err != nil {
		return nil, nil // it does not listen any more
	}
	return socket, nil
}

// link makes the vswitch's socket visible to the pod, in server mode.
func (d *Delegate) link(ctx context.Context, p *port) error {
	origin, err := d.serverSocket(ctx, p.state)
	if err != nil {
		return err
	}
	defer origin.Close()
	return p.LinkSocket(origin, p.File, p.config.key("vhost.socketFile"))
}
