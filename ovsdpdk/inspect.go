package ovsdpdk

import (
	"context"
	"fmt"
	"maps"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
)

// counters are those of Interface:statistics that Inspect returns; rx is what the
// vswitch receives, the pod's sending.
var counters = [...]string{
	"rx_packets", "rx_bytes", "rx_dropped", "rx_errors", "tx_packets", "tx_bytes", "tx_dropped", "tx_errors",
}

// Inspect returns columns of a port's rows, under the names of
// ovs-vswitchd.conf.db(5). Empty columns are left out.
func (n *network) Inspect(ctx context.Context, a *delegates.Attachment) (map[string]string, error) {
	p, err := portOf(a)
	if err != nil {
		return nil, err
	}
	results, err := n.d.db.transact(ctx, p.OVSDB,
		selectRows("Interface", equal("name", p.Port), "type", "external_ids", "ofport", "link_state", "mtu", "status", "statistics", "error"),
		selectRows("Port", equal("name", p.Port), "_uuid", "tag", "trunks", "vlan_mode"))
	if err != nil {
		return nil, err
	}
	if len(results[0].Rows) == 0 || len(results[1].Rows) == 0 {
		return nil, fmt.Errorf("port %s is gone from OVS", p.Port)
	}
	iface, row := results[0].Rows[0], results[1].Rows[0]
	if err := p.mustOwn(iface); err != nil {
		return nil, err
	}
	results, err = n.d.db.transact(ctx, p.OVSDB, selectBridgeOf(row, "name"))
	if err != nil {
		return nil, err
	}
	return columns(p.state, iface, row, results[0].Rows), nil
}

// columns are those that Inspect returns.
func columns(s *state, iface, port ovsdb.Row, bridges []ovsdb.Row) map[string]string {
	bridge := ""
	if len(bridges) > 0 {
		bridge = text(bridges[0], "name")
	}
	all := map[string]string{
		"ovsdb": s.OVSDB, "port": s.Port, "socket": s.Socket, "bridge": bridge, "mode": text(iface, "type"),
		"vlan": join(ints(port, "tag")), "trunks": join(ints(port, "trunks")), "vlan_mode": text(port, "vlan_mode"),
		"ofport": join(ints(iface, "ofport")), "mtu": join(ints(iface, "mtu")), "link_state": text(iface, "link_state"),
		"status": strMap(iface, "status")["status"], "error": text(iface, "error"),
	}
	if mode := map[string]string{typeClient: modeClient, typeServer: modeServer}[all["mode"]]; mode != "" {
		all["mode"] = mode
	}
	if statistics, ok := iface["statistics"].(ovsdb.OvsMap); ok {
		for _, name := range counters {
			if n, ok := statistics.GoMap[name].(int64); ok {
				all[name] = fmt.Sprint(n)
			}
		}
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}
