package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/conf"
)

// counters are those of Interface:statistics that are told; rx is what the
// vswitch receives, the pod's sending.
var counters = [...]string{
	"rx_packets", "rx_bytes", "rx_dropped", "rx_errors", "tx_packets", "tx_bytes", "tx_dropped", "tx_errors",
}

// Inspect tells what the rows have of a port, in the words of
// ovs-vswitchd.conf.db(5). What the vswitch does not say is left out.
func (d *Delegate) Inspect(ctx context.Context, a conf.Attachment, raw json.RawMessage) (map[string]string, error) {
	s, err := decodeState(raw, a.Sandbox)
	if err != nil {
		return nil, err
	}
	found, err := d.db.transact(ctx, s.OVSDB,
		selectRows("Interface", equal("name", s.Port), "type", "external_ids", "ofport", "link_state", "mtu", "status", "statistics", "error"),
		selectRows("Port", equal("name", s.Port), "_uuid", "tag", "trunks", "vlan_mode"),
		selectRows("Bridge", anyRow(), "name", "ports"))
	if err != nil {
		return nil, err
	}
	if len(found[0].Rows) == 0 || len(found[1].Rows) == 0 {
		return nil, fmt.Errorf("port %s is gone from OVS", s.Port)
	}
	iface, row := found[0].Rows[0], found[1].Rows[0]
	if err := (marks{a.Owner, a.Sandbox, a.IfName}).mustBeOn(iface, s.Port); err != nil {
		return nil, err
	}
	return told(s, iface, row, found[2].Rows), nil
}

// told is what the rows say.
func told(s *state, iface, port ovsdb.Row, bridges []ovsdb.Row) map[string]string {
	all := map[string]string{
		"ovsdb": s.OVSDB, "port": s.Port, "socket": s.Socket, "bridge": holder(port, bridges), "mode": text(iface, "type"),
		"vlan": numbers(port, "tag"), "trunks": numbers(port, "trunks"), "vlan_mode": text(port, "vlan_mode"),
		"ofport": numbers(iface, "ofport"), "mtu": numbers(iface, "mtu"), "link_state": text(iface, "link_state"),
		"status": strMap(iface, "status")["status"], "error": text(iface, "error"),
	}
	switch all["mode"] {
	case typeClient:
		all["mode"] = modeClient
	case typeServer:
		all["mode"] = modeServer
	}
	if statistics, ok := iface["statistics"].(ovsdb.OvsMap); ok {
		for _, name := range counters {
			if n, ok := statistics.GoMap[name].(int64); ok {
				all[name] = fmt.Sprint(n)
			}
		}
	}
	for key, value := range all {
		if value == "" {
			delete(all, key)
		}
	}
	return all
}

// holder is the name of the bridge that a port is in.
func holder(port ovsdb.Row, bridges []ovsdb.Row) string {
	id := uuids(port, "_uuid")
	for _, b := range bridges {
		if len(id) == 1 && slices.Contains(uuids(b, "ports"), id[0]) {
			return text(b, "name")
		}
	}
	return ""
}

// numbers writes a set of integers, "" an empty one.
func numbers(row ovsdb.Row, column string) string {
	if ids := ints(row, column); len(ids) > 0 {
		return joinIDs(ids)
	}
	return ""
}
