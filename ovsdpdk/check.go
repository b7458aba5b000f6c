package ovsdpdk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// survey reads whether the vswitch will do: DPDK is initialised, ovs-vswitchd acts on
// what OVSDB has, the bridge is there and is a netdev bridge, and (with s) no interface
// has the port's name or its socket.
func (n *network) survey(ctx context.Context, s *state) error {
	ops := []ovsdb.Operation{
		configured("dpdk_initialized", "dpdk_version"),
		selectRows("Bridge", equal("name", n.Bridge), "datapath_type"),
	}
	if s != nil {
		ops = append(ops,
			selectRows("Interface", equal("name", s.Port), "name", "error"),
			selectRows("Interface", includes("options", pair(optionPath, s.Socket)), "name", "external_ids"),
			selectRows("Interface", includes("external_ids", pair(markSocket, s.Place(s.File))), "name", "external_ids"))
	}
	if s == nil {
		if err := n.d.alive(ctx, n.OVSDB); err != nil {
			return err
		}
	}
	results, err := n.d.db.transact(ctx, n.OVSDB, ops...)
	if err != nil {
		return err
	}
	switch rows := results[0].Rows; {
	case len(rows) == 1 && text(rows[0], "dpdk_version") == noDPDK:
		return fmt.Errorf("OVS at %s was built without DPDK: run an ovs-vswitchd that has it (Debian: package openvswitch-switch-dpdk)", n.OVSDB)
	case len(rows) == 0 || rows[0]["dpdk_initialized"] != true:
		return vswitchdUnavailable(n.OVSDB, errNoDPDK)
	}
	if err := n.d.db.requireProgress(n.OVSDB, results[0].Rows); err != nil {
		return err
	}
	switch rows := results[1].Rows; {
	case len(rows) == 0 && !n.CreateBridge:
		return conf.Refuse(fmt.Errorf("key %q: OVS at %s has no bridge %s: make it with datapath_type=netdev, or set \"createBridge\": true", n.dialect.Key("bridge"), n.OVSDB, n.Bridge))
	case len(rows) > 0 && text(rows[0], "datapath_type") != datapath:
		return conf.Refuse(fmt.Errorf("key %q: bridge %s has datapath_type %q: vhost-user needs a bridge of datapath_type netdev", n.dialect.Key("bridge"), n.Bridge, text(rows[0], "datapath_type")))
	}
	if s == nil {
		return nil
	}
	if rows := results[2].Rows; len(rows) > 0 {
		problem := ""
		if e := text(rows[0], "error"); e != "" {
			problem = fmt.Sprintf(" (it is in error: %s)", e)
		}
		return fmt.Errorf("OVS has an interface %s already, and it is not known as this attachment's%s: remove it with ovs-vsctl del-port %s", s.Port, problem, s.Port)
	}
	if rows := append(results[3].Rows, results[4].Rows...); len(rows) > 0 {
		pod := strMap(rows[0], "external_ids")[markPod]
		if pod != "" {
			pod = " of pod " + pod
		}
		return conf.Refuse(fmt.Errorf("socket %s is used by interface %s%s: choose another %q, or none", s.Place(s.File), text(rows[0], "name"), pod, n.dialect.Key("vhost.socketFile")))
	}
	return nil
}

// Check compares the rows and the folder with what Attach made.
func (n *network) Check(ctx context.Context, a *delegates.Attachment) error {
	p, err := portOf(a)
	if err != nil {
		return err
	}
	if err := n.d.alive(ctx, p.OVSDB); err != nil {
		return err
	}
	return errors.Join(n.compare(ctx, p), p.Folder.Check(p.Mode == modeServer, p.File), n.d.checkSocket(ctx, p))
}

// compare compares the rows with those that insert made.
func (n *network) compare(ctx context.Context, p *port) error {
	results, err := n.d.db.transact(ctx, p.OVSDB,
		selectRows("Interface", equal("name", p.Port), "_uuid", "type", "options", "external_ids", "ofport", "error", "mtu_request"),
		selectRows("Port", equal("name", p.Port), "_uuid", "tag", "trunks", "vlan_mode", "interfaces"),
		selectRows("Bridge", equal("name", p.Bridge), "name"))
	if err != nil {
		return err
	}
	ifaces, ports, bridges := results[0].Rows, results[1].Rows, results[2].Rows
	switch {
	case len(ifaces) == 0 || len(ports) == 0:
		return fmt.Errorf("port %s is gone from OVS", p.Port)
	case len(bridges) == 0:
		return fmt.Errorf("bridge %s is gone from OVS", p.Bridge)
	}
	if results, err = n.d.db.transact(ctx, p.OVSDB, selectBridgeOf(ports[0], "name")); err != nil {
		return err
	}
	inserted := portRows(p, "")
	iface, row, ifaceBefore, rowBefore := ifaces[0], ports[0], inserted[0].Row, inserted[1].Row
	var errs []error
	differs := func(what, have, before string) {
		if have != before {
			errs = append(errs, fmt.Errorf("port %s: %s is %s, was %s", p.Port, what, cmp.Or(have, "none"), cmp.Or(before, "none")))
		}
	}
	trunks := ints(row, "trunks")
	slices.Sort(trunks)
	differs("type", text(iface, "type"), text(ifaceBefore, "type"))
	differs("options:"+optionPath, strMap(iface, "options")[optionPath], strMap(ifaceBefore, "options")[optionPath])
	differs("vlan tag", join(ints(row, "tag")), join(ints(rowBefore, "tag")))
	differs("trunks", join(trunks), join(n.Trunk))
	differs("vlan_mode", text(row, "vlan_mode"), text(rowBefore, "vlan_mode"))
	if n.MTU != 0 {
		differs("mtu_request", join(ints(iface, "mtu_request")), join([]int{n.MTU}))
	}
	if !p.owns(iface) {
		errs = append(errs, fmt.Errorf("port %s: its marks of ownership (external_ids plexus-*) were changed", p.Port))
	}
	if in := results[0].Rows; len(in) == 0 || text(in[0], "name") != p.Bridge {
		errs = append(errs, fmt.Errorf("port %s is no longer in bridge %s", p.Port, p.Bridge))
	}
	if !isOpen(iface) {
		errs = append(errs, fmt.Errorf("port %s is not open in ovs-vswitchd: %s", p.Port, reason(iface)))
	}
	return errors.Join(errs...)
}

// selectBridgeOf selects the bridge that a row of table Port is in.
func selectBridgeOf(port ovsdb.Row, columns ...string) ovsdb.Operation {
	return selectRows("Bridge", includes("ports", set(uuids(port, "_uuid"))), columns...)
}

// isOpen reports whether ovs-vswitchd has opened an interface.
func isOpen(iface ovsdb.Row) bool {
	of := ints(iface, "ofport")
	return len(of) == 1 && of[0] > 0
}

// reason is why ovs-vswitchd has not opened an interface.
func reason(iface ovsdb.Row) string {
	return cmp.Or(text(iface, "error"), "it gives no reason; see its log")
}
