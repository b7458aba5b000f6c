package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
)

// survey reads whether the vswitch will do: DPDK is initialised, ovs-vswitchd acts on
// what OVSDB has, the bridge is there and is a netdev bridge, and (with s) nothing of
// the same name or with the same socket is.
func (d *Delegate) survey(ctx context.Context, c *Config, s *state) error {
	ops := []ovsdb.Operation{
		configured("dpdk_initialized"),
		selectRows("Bridge", equal("name", c.Bridge), "datapath_type"),
	}
	if s != nil {
		ops = append(ops,
			selectRows("Interface", equal("name", s.Port), "name", "error"),
			selectRows("Interface", includes("options", socketOption(s.Socket)), "name", "external_ids"),
			selectRows("Interface", includes("external_ids", socketMark(s)), "name", "external_ids"))
	}
	found, err := d.db.transact(ctx, c.OVSDB, ops...)
	if err != nil {
		return err
	}
	if len(found[0].Rows) == 0 || found[0].Rows[0]["dpdk_initialized"] != true {
		return fmt.Errorf("OVS at %s has not initialised DPDK: set other_config:dpdk-init=true in Open_vSwitch and see ovs-vswitchd's log", c.OVSDB)
	}
	if err := d.db.follows(c.OVSDB, found[0].Rows); err != nil {
		return err
	}
	switch rows := found[1].Rows; {
	case len(rows) == 0 && !c.CreateBridge:
		return fmt.Errorf("key %q: OVS at %s has no bridge %s: make it with datapath_type=netdev, or set \"createBridge\": true", c.key("bridge"), c.OVSDB, c.Bridge)
	case len(rows) > 0 && text(rows[0], "datapath_type") != datapath:
		return fmt.Errorf("key %q: bridge %s has datapath_type %q: vhost-user needs a bridge of datapath_type netdev", c.key("bridge"), c.Bridge, text(rows[0], "datapath_type"))
	}
	if s == nil {
		return nil
	}
	if rows := found[2].Rows; len(rows) > 0 {
		return fmt.Errorf("OVS has an interface %s already, and it is not known as this attachment's%s: remove it with ovs-vsctl del-port %s", s.Port, inError(rows[0]), s.Port)
	}
	if rows := append(found[3].Rows, found[4].Rows...); len(rows) > 0 {
		return socketTaken(c, s, rows[0])
	}
	return nil
}

func inError(row ovsdb.Row) string {
	if e := text(row, "error"); e != "" {
		return fmt.Sprintf(" (it is in error: %s)", e)
	}
	return ""
}

func socketTaken(c *Config, s *state, row ovsdb.Row) error {
	whose := ""
	if pod := strMap(row, "external_ids")[markPod]; pod != "" {
		whose = " of pod " + pod
	}
	return fmt.Errorf("socket %s is used by interface %s%s: choose another %q, or none", s.Place(s.File), text(row, "name"), whose, c.key("vhost.socketFile"))
}

// compare holds the rows against what insert made.
func (d *Delegate) compare(ctx context.Context, c *Config, a conf.Attachment, s *state, raw json.RawMessage) error {
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
	iface, row := ifaces[0], ports[0]
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
	want := portRows(&port{a, s, c, raw}, "")[1].Row
	wantTag, wantMode := []int{}, ""
	if tag, ok := want["tag"].(int); ok {
		wantTag = []int{tag}
	}
	if mode, ok := want["vlan_mode"].(string); ok {
		wantMode = mode
	}
	trunks := ints(row, "trunks")
	slices.Sort(trunks)
	differs("vlan tag", joinIDs(ints(row, "tag")), joinIDs(wantTag))
	differs("trunks", joinIDs(trunks), joinIDs(c.Trunk))
	differs("vlan_mode", text(row, "vlan_mode"), wantMode)
	if c.MTU != 0 {
		differs("mtu_request", joinIDs(ints(iface, "mtu_request")), joinIDs([]int{c.MTU}))
	}
	if !(marks{a.Owner, a.Sandbox, a.IfName}).on(iface) {
		errs = append(errs, fmt.Errorf("port %s: its marks of ownership (external_ids plexus-*) were changed", s.Port))
	}
	id := uuids(row, "_uuid")
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
