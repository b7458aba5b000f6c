package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
)

// Marks of ownership in external_ids (ovs-vswitchd.conf.db(5)).
const (
	markOwner   = "plexus-owner"   // data folder of the plexus that made it
	markSandbox = "plexus-sandbox" // container ID
	markIfName  = "plexus-ifname"
	markPod     = "plexus-pod"     // namespace/name, for people
	markNetwork = "plexus-network" // for people
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

// survey reads whether the vswitch will do: DPDK is initialised, the bridge is
// there and is a netdev bridge, and (with s) nothing of the same name is.
func (d *Delegate) survey(ctx context.Context, c *Config, s *state) error {
	ops := []ovsdb.Operation{
		selectRows("Open_vSwitch", anyRow(), "dpdk_initialized"),
		selectRows("Bridge", equal("name", c.Bridge), "datapath_type"),
	}
	if s != nil {
		ops = append(ops,
			selectRows("Interface", equal("name", s.Port), "name", "error"),
			selectRows("Interface", includes("options", stringMap(map[string]string{"vhost-server-path": s.Socket})), "name", "external_ids"))
	}
	found, err := d.db.transact(ctx, c.OVSDB, ops...)
	if err != nil {
		return err
	}
	if len(found[0].Rows) == 0 || found[0].Rows[0]["dpdk_initialized"] != true {
		return fmt.Errorf("OVS at %s has not initialised DPDK: set other_config:dpdk-init=true in Open_vSwitch and see ovs-vswitchd's log", c.OVSDB)
	}
	switch rows := found[1].Rows; {
	case len(rows) == 0 && !c.CreateBridge:
		return fmt.Errorf("key %q: OVS at %s has no bridge %s: make it with datapath_type=netdev, or set \"createBridge\": true", "bridge", c.OVSDB, c.Bridge)
	case len(rows) > 0 && text(rows[0], "datapath_type") != datapath:
		return fmt.Errorf("key %q: bridge %s has datapath_type %q: vhost-user needs a bridge of datapath_type netdev", "bridge", c.Bridge, text(rows[0], "datapath_type"))
	}
	if s == nil {
		return nil
	}
	if rows := found[2].Rows; len(rows) > 0 {
		return fmt.Errorf("OVS has an interface %s already, and it is not known as this attachment's%s: remove it with ovs-vsctl del-port %s", s.Port, inError(rows[0]), s.Port)
	}
	if rows := found[3].Rows; len(rows) > 0 {
		return socketTaken(s, rows[0])
	}
	return nil
}

func inError(row ovsdb.Row) string {
	if e := text(row, "error"); e != "" {
		return fmt.Sprintf(" (it is in error: %s)", e)
	}
	return ""
}

func socketTaken(s *state, row ovsdb.Row) error {
	whose := ""
	if pod := strMap(row, "external_ids")[markPod]; pod != "" {
		whose = " of pod " + pod
	}
	return fmt.Errorf("socket %s is used by interface %s%s: choose another \"socketFile\", or none", s.Socket, text(row, "name"), whose)
}

// insert adds interface and port, and the bridge when it is missing and wanted,
// in one transaction that fails when the bridge is not as needed or another
// interface has the socket.
func (d *Delegate) insert(ctx context.Context, c *Config, a conf.Attachment, s *state, raw json.RawMessage) error {
	ids := marks{a.Owner, a.Sandbox, a.IfName}.ids()
	ids[markNetwork] = a.Network
	if a.Pod != nil {
		ids[markPod] = a.Pod.String()
	}
	for range tries {
		found, err := d.db.transact(ctx, s.OVSDB,
			selectRows("Bridge", equal("name", s.Bridge), "_uuid"),
			selectRows("Open_vSwitch", anyRow(), "_uuid"))
		if err != nil {
			return err
		}
		ops := portRows(c, s, ids, raw)
		switch {
		case len(found[0].Rows) > 0:
			ops = append(ops,
				must("Bridge", equal("name", s.Bridge), ovsdb.Row{"name": s.Bridge, "datapath_type": datapath}),
				ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: equal("name", s.Bridge),
					Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationInsert, uuidSet(named("port")))}})
		case c.CreateBridge:
			ops = append(ops, bridgeRows(s.Bridge, a.Owner, found[1].Rows)...)
		default:
			return fmt.Errorf("OVS at %s has no bridge %s", s.OVSDB, s.Bridge)
		}
		results, err := d.db.transact(ctx, s.OVSDB, ops...)
		switch op := refusedBy(err, answerTimedOut); {
		case op != nil && op.Table == "Bridge":
			continue // it went, or changed, between the two transactions
		case op != nil:
			return d.whoHasSocket(ctx, s)
		case refusedBy(err, answerConstraint) != nil && len(found[0].Rows) == 0:
			continue // somebody made the bridge meanwhile
		case err != nil:
			return fmt.Errorf("insert port %s into bridge %s: %w", s.Port, s.Bridge, err)
		}
		for i, op := range ops {
			if op.Op == ovsdb.OperationMutate && results[i].Count != 1 {
				return fmt.Errorf("insert port %s into bridge %s: OVSDB changed %d rows of %s, want 1", s.Port, s.Bridge, results[i].Count, op.Table)
			}
		}
		return nil
	}
	return fmt.Errorf("insert port %s into bridge %s: the bridge changed %d times meanwhile", s.Port, s.Bridge, tries)
}

// whoHasSocket explains why the transaction found another user of the socket.
func (d *Delegate) whoHasSocket(ctx context.Context, s *state) error {
	found, err := d.db.transact(ctx, s.OVSDB,
		selectRows("Interface", includes("options", stringMap(map[string]string{"vhost-server-path": s.Socket})), "name", "external_ids"))
	if err != nil {
		return err
	}
	if len(found[0].Rows) == 0 {
		return fmt.Errorf("socket %s was used by another interface just now: try again", s.Socket)
	}
	return socketTaken(s, found[0].Rows[0])
}

func named(name string) ovsdb.UUID { return ovsdb.UUID{GoUUID: name} }

// portRows are the operations that insert interface and port.
func portRows(c *Config, s *state, ids map[string]string, raw json.RawMessage) []ovsdb.Operation {
	port := ovsdb.Row{"name": s.Port, "interfaces": named("iface"), "external_ids": stringMap(ids)}
	switch {
	case c.VLAN != nil && c.Trunk != nil:
		port["vlan_mode"], port["tag"], port["trunks"] = "native-untagged", *c.VLAN, intSet(c.Trunk)
	case c.VLAN != nil:
		port["vlan_mode"], port["tag"] = "access", *c.VLAN
	case c.Trunk != nil:
		port["vlan_mode"], port["trunks"] = "trunk", intSet(c.Trunk)
	}
	own := map[string]string{markState: string(raw)}
	for k, v := range ids {
		own[k] = v
	}
	if mac := c.mac(); mac != "" {
		own["attached-mac"] = mac // OVS Integration Guide
	}
	iface := ovsdb.Row{"name": s.Port, "type": typeServer, "external_ids": stringMap(own)}
	if c.MTU != 0 {
		iface["mtu_request"] = c.MTU
	}
	if s.Mode == modeClient {
		iface["type"], iface["options"] = typeClient, stringMap(map[string]string{"vhost-server-path": s.Socket})
	}
	ops := []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: "iface", Row: iface},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: "port", Row: port},
	}
	if s.Mode == modeClient { // nobody else may have the socket
		ops = append(ops, must("Interface", includes("options", iface["options"]), ovsdb.Row{"name": s.Port}))
	}
	return ops
}

// bridgeRows are the operations that make a bridge of ours around the port.
func bridgeRows(bridge, owner string, switches []ovsdb.Row) []ovsdb.Operation {
	if len(switches) == 0 {
		return nil
	}
	mark := stringMap(map[string]string{markOwner: owner})
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: "localiface", Row: ovsdb.Row{"name": bridge, "type": "internal", "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: "localport", Row: ovsdb.Row{"name": bridge, "interfaces": named("localiface"), "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Bridge", UUIDName: "bridge", Row: ovsdb.Row{
			"name": bridge, "datapath_type": datapath, "external_ids": mark, "ports": uuidSet(named("localport"), named("port"))}},
		{Op: ovsdb.OperationMutate, Table: "Open_vSwitch", Where: anyRow(),
			Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("bridges", ovsdb.MutateOperationInsert, uuidSet(named("bridge")))}},
	}
}

// awaitPort waits until ovs-vswitchd has given the interface an OpenFlow port
// or an error. OVSDB does the waiting.
func (d *Delegate) awaitPort(ctx context.Context, s *state) error {
	limit := int(settleTimeout / time.Millisecond)
	found, err := d.db.transactWithin(ctx, settleTimeout+transactTimeout, s.OVSDB,
		ovsdb.Operation{Op: ovsdb.OperationWait, Table: "Interface", Where: equal("name", s.Port), Columns: []string{"ofport"},
			Until: string(ovsdb.WaitConditionNotEqual), Rows: []ovsdb.Row{{"ofport": intSet(nil)}}, Timeout: &limit},
		selectRows("Interface", equal("name", s.Port), "ofport", "error"))
	if refusedBy(err, answerTimedOut) != nil {
		return fmt.Errorf("ovs-vswitchd did not open port %s within %s: is it running, or busy? (the rows are in OVSDB at %s)", s.Port, settleTimeout, s.OVSDB)
	}
	if err != nil {
		return fmt.Errorf("wait for port %s: %w", s.Port, err)
	}
	rows := found[1].Rows
	if len(rows) != 1 {
		return fmt.Errorf("port %s was removed from OVSDB while it was being attached", s.Port)
	}
	if port := ints(rows[0], "ofport"); len(port) != 1 || port[0] < 1 {
		return fmt.Errorf("ovs-vswitchd cannot open port %s: %s", s.Port, orUnknown(text(rows[0], "error")))
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "it gives no reason; see its log"
	}
	return s
}

// serverSocket is where the vswitch listens in server mode: its run folder, in
// other_config:vhost-sock-dir, under the name of the port.
func (d *Delegate) serverSocket(ctx context.Context, s *state) (string, error) {
	path, ok := strings.CutPrefix(s.OVSDB, "unix:")
	if !ok {
		return "", errors.New(`key "vhost.mode": server needs "ovsdb" to be unix:PATH, as the sockets are beside it`)
	}
	found, err := d.db.transact(ctx, s.OVSDB, selectRows("Open_vSwitch", anyRow(), "other_config"))
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	if len(found[0].Rows) > 0 {
		dir = filepath.Join(dir, strMap(found[0].Rows[0], "other_config")["vhost-sock-dir"])
	}
	return filepath.Join(dir, s.Port), nil
}

// compare holds the rows against what insert made.
func (d *Delegate) compare(ctx context.Context, c *Config, a conf.Attachment, s *state) error {
	found, err := d.db.transact(ctx, s.OVSDB,
		selectRows("Interface", equal("name", s.Port), "_uuid", "type", "options", "external_ids", "ofport", "error", "mtu_request"),
		selectRows("Port", equal("name", s.Port), "_uuid", "tag", "trunks", "vlan_mode", "interfaces"),
		selectRows("Bridge", equal("name", s.Bridge), "ports", "datapath_type"))
	if err != nil {
		return err
	}
	ifaces, ports, bridges := found[0].Rows, found[1].Rows, found[2].Rows
	switch {
	case len(ifaces) == 0 || len(ports) == 0:
		return fmt.Errorf("port %s is gone from OVS", s.Port)
	case len(bridges) == 0:
		return fmt.Errorf("bridge %s is gone from OVS", s.Bridge)
	}
	iface, port := ifaces[0], ports[0]
	var errs []error
	differs := func(what string, have, want any) {
		if h, w := fmt.Sprint(have), fmt.Sprint(want); h != w {
			errs = append(errs, fmt.Errorf("port %s: %s is %s, was %s", s.Port, what, orNone(h), orNone(w)))
		}
	}
	wantType, wantPath := typeServer, ""
	if s.Mode == modeClient {
		wantType, wantPath = typeClient, s.Socket
	}
	differs("type", text(iface, "type"), wantType)
	differs("options:vhost-server-path", strMap(iface, "options")["vhost-server-path"], wantPath)
	want := portRows(c, s, nil, nil)[1].Row
	wantTag, wantMode := []int{}, ""
	if tag, ok := want["tag"].(int); ok {
		wantTag = []int{tag}
	}
	if mode, ok := want["vlan_mode"].(string); ok {
		wantMode = mode
	}
	trunks := ints(port, "trunks")
	slices.Sort(trunks)
	differs("vlan tag", joinIDs(ints(port, "tag")), joinIDs(wantTag))
	differs("trunks", joinIDs(trunks), joinIDs(c.Trunk))
	differs("vlan_mode", text(port, "vlan_mode"), wantMode)
	if c.MTU != 0 {
		differs("mtu_request", joinIDs(ints(iface, "mtu_request")), joinIDs([]int{c.MTU}))
	}
	if !(marks{a.Owner, a.Sandbox, a.IfName}).on(iface) {
		errs = append(errs, fmt.Errorf("port %s: its marks of ownership (external_ids plexus-*) were changed", s.Port))
	}
	id := uuids(port, "_uuid")
	if len(id) != 1 || !slices.Contains(uuids(bridges[0], "ports"), id[0]) {
		errs = append(errs, fmt.Errorf("port %s is no longer in bridge %s", s.Port, s.Bridge))
	}
	if of := ints(iface, "ofport"); len(of) != 1 || of[0] < 1 {
		errs = append(errs, fmt.Errorf("port %s is not open in ovs-vswitchd: %s", s.Port, orUnknown(text(iface, "error"))))
	}
	return errors.Join(errs...)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// delete removes the port, and with it its bridge when that is ours and has no
// other. It returns the socket paths of the sandbox's ports that remain.
func (d *Delegate) delete(ctx context.Context, m marks, s *state) (others []string, err error) {
	for range tries {
		found, err := d.db.transact(ctx, s.OVSDB,
			selectRows("Interface", equal("name", s.Port), "external_ids"),
			selectRows("Port", equal("name", s.Port), "_uuid"),
			selectRows("Bridge", anyRow(), "_uuid", "name", "ports", "external_ids"),
			selectRows("Interface", includes("external_ids", stringMap(map[string]string{markOwner: m.owner, markSandbox: m.sandbox})), "name", "external_ids"))
		if err != nil {
			return nil, err
		}
		others = nil
		for _, row := range found[3].Rows {
			var other state
			if text(row, "name") != s.Port && json.Unmarshal([]byte(strMap(row, "external_ids")[markState]), &other) == nil {
				others = append(others, filepath.Join(other.Dir, other.File))
			}
		}
		ours := len(found[0].Rows) > 0 && m.on(found[0].Rows[0])
		if len(found[0].Rows) > 0 && !ours {
			d.log.Warn("an interface of that name is not ours; it is left alone", "interface", s.Port, "sandbox", m.sandbox)
		}
		ops := removal(s, m.owner, ours, found[1].Rows, found[2].Rows)
		if len(ops) == 0 {
			return others, nil
		}
		results, err := d.db.transact(ctx, s.OVSDB, ops...)
		if refusedBy(err, answerTimedOut) != nil {
			continue // the bridge changed between the two transactions
		}
		if err != nil {
			return nil, fmt.Errorf("delete port %s: %w", s.Port, err)
		}
		if last := results[len(ops)-1]; ops[len(ops)-1].Op == ovsdb.OperationSelect && len(last.Rows) > 0 {
			d.awaitConfig(ctx, s.OVSDB, last.Rows[0])
		}
		return others, nil
	}
	return nil, fmt.Errorf("delete port %s: its bridge changed %d times meanwhile", s.Port, tries)
}

// removal decides which operations take the port away, if it is ours, and the
// bridge, if that is ours and would be left with its local port alone. OVSDB
// collects the rows that nothing refers to any more.
func removal(s *state, owner string, ours bool, ports, bridges []ovsdb.Row) []ovsdb.Operation {
	var port []ovsdb.UUID
	if ours && len(ports) > 0 {
		port = uuids(ports[0], "_uuid")
	}
	var ops []ovsdb.Operation
	for _, b := range bridges {
		id, members := uuids(b, "_uuid"), uuids(b, "ports")
		holds := len(port) == 1 && slices.Contains(members, port[0])
		left := len(members)
		if holds {
			left--
		}
		switch {
		case len(id) != 1:
		case left <= 1 && strMap(b, "external_ids")[markOwner] == owner && (holds || text(b, "name") == s.Bridge):
			ops = append(ops,
				must("Bridge", equal("_uuid", id[0]), ovsdb.Row{"ports": uuidSet(members...)}),
				ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Open_vSwitch", Where: anyRow(),
					Mutations: []ovsdb.Mutation{
						*ovsdb.NewMutation("bridges", ovsdb.MutateOperationDelete, uuidSet(id[0])),
						*ovsdb.NewMutation("next_cfg", ovsdb.MutateOperationAdd, 1)}},
				selectRows("Open_vSwitch", anyRow(), "next_cfg", "cur_cfg"))
		case holds:
			ops = append(ops, ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: equal("_uuid", id[0]),
				Mutations: []ovsdb.Mutation{*ovsdb.NewMutation("ports", ovsdb.MutateOperationDelete, uuidSet(port[0]))}})
		}
	}
	return ops
}

// awaitConfig waits until ovs-vswitchd has acted on the transaction that gave
// Open_vSwitch its next_cfg, so that the bridge's own link is gone as well
// (ovs-vswitchd.conf.db(5), next_cfg and cur_cfg). A vswitchd that is not there
// keeps no DEL waiting.
func (d *Delegate) awaitConfig(ctx context.Context, address string, row ovsdb.Row) {
	next, cur := ints(row, "next_cfg"), ints(row, "cur_cfg")
	limit := int(goneTimeout / time.Millisecond)
	for len(next) == 1 && len(cur) == 1 && cur[0] < next[0] {
		found, err := d.db.transact(ctx, address,
			ovsdb.Operation{Op: ovsdb.OperationWait, Table: "Open_vSwitch", Where: anyRow(), Columns: []string{"cur_cfg"},
				Until: string(ovsdb.WaitConditionNotEqual), Rows: []ovsdb.Row{{"cur_cfg": cur[0]}}, Timeout: &limit},
			selectRows("Open_vSwitch", anyRow(), "cur_cfg"))
		if err != nil || len(found[1].Rows) == 0 {
			d.log.Warn("ovs-vswitchd has not removed the bridge's link yet", "why", err)
			return
		}
		cur = ints(found[1].Rows[0], "cur_cfg")
	}
}

// Sweep removes what carries owner's mark and is not to be kept, at the default
// OVSDB and at those that the configurations name. An OVSDB whose socket does
// not exist has nothing.
func (d *Delegate) Sweep(ctx context.Context, owner string, configs []json.RawMessage, keep func(sandbox, ifName string) bool) error {
	addresses := []string{defaultOVSDB}
	for _, raw := range configs {
		if c, _, err := d.parse("", raw); err == nil && !slices.Contains(addresses, c.OVSDB) {
			addresses = append(addresses, c.OVSDB)
		}
	}
	var errs []error
	for _, address := range addresses {
		if path, ok := strings.CutPrefix(address, "unix:"); ok {
			if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		errs = append(errs, d.sweepAt(ctx, address, owner, keep))
	}
	return errors.Join(errs...)
}

func (d *Delegate) sweepAt(ctx context.Context, address, owner string, keep func(sandbox, ifName string) bool) error {
	found, err := d.db.transact(ctx, address,
		selectRows("Interface", includes("external_ids", stringMap(map[string]string{markOwner: owner})), "name", "external_ids"))
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
		s, err := decodeState(json.RawMessage(ids[markState]))
		if err == nil && s.Port != text(row, "name") {
			err = fmt.Errorf("its state is about %s", s.Port)
		}
		if err == nil {
			s.OVSDB = address
			err = d.remove(ctx, m, s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", text(row, "name"), err))
		}
	}
	return errors.Join(errs...)
}
