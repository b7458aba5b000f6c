package ovsdpdk

import (
	"maps"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Columns of ovs-vswitchd.conf.db(5) and their values.
const (
	typeClient = "dpdkvhostuserclient"
	typeServer = "dpdkvhostuser"
	datapath   = "netdev"            // the userspace datapath
	optionPath = "vhost-server-path" // of an interface of typeClient: the socket
	noDPDK     = "none"              // dpdk_version of an ovs-vswitchd without DPDK (lib/dpdk-stub.c)
)

// Marks of ownership in external_ids (ovs-vswitchd.conf.db(5)).
const (
	markOwner   = "plexus-owner"   // data folder of the plexus that made the row
	markFormat  = "plexus-format"  // version of these marks, on every interface of any plexus
	markFolder  = "plexus-folder"  // of the socket, without links; not in the former format
	markSandbox = "plexus-sandbox" // container ID
	markIfName  = "plexus-ifname"
	markPod     = "plexus-pod"     // namespace/name, for people
	markNetwork = "plexus-network" // for people
	markSocket  = "plexus-socket"  // path of the socket without links; one interface has it
	markState   = "plexus-state"   // state, for when the journal is lost
)

// Values of markFormat.
const (
	format       = "2"
	formerFormat = "1"
)

func named(name string) ovsdb.UUID { return ovsdb.UUID{GoUUID: name} }

// portRows are the operations that insert interface and port, as named-uuids
// iface and port with a suffix.
func portRows(p *port, suffix string) []ovsdb.Operation {
	c, ids := p.network, map[string]string{markOwner: p.Owner, markSandbox: p.Sandbox, markIfName: p.IfName, markNetwork: p.Name}
	if p.Pod != nil {
		ids[markPod] = p.Pod.String()
	}
	own := maps.Clone(ids)
	own[markFormat], own[markFolder], own[markSocket], own[markState] = format, p.Dir, p.Place(p.File), string(p.State)
	if mac := c.mac(); mac != "" {
		own["attached-mac"] = mac // OVS Integration Guide
	}
	row := ovsdb.Row{"name": p.Port, "interfaces": named("iface" + suffix), "external_ids": stringMap(ids)}
	if c.VLAN != nil {
		row["vlan_mode"], row["tag"] = "access", *c.VLAN
	}
	if c.Trunk != nil {
		row["vlan_mode"], row["trunks"] = "trunk", set(c.Trunk)
	}
	if c.VLAN != nil && c.Trunk != nil {
		row["vlan_mode"] = "native-untagged"
	}
	iface := ovsdb.Row{"name": p.Port, "type": typeServer, "external_ids": stringMap(own)}
	if p.Mode == modeClient {
		iface["type"], iface["options"] = typeClient, pair(optionPath, p.Socket)
	}
	if c.MTU != 0 {
		iface["mtu_request"] = c.MTU
	}
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: "iface" + suffix, Row: iface},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: "port" + suffix, Row: row},
	}
}

// bridgeRows are the operations that make a bridge of plexus around ports.
func bridgeRows(bridge, suffix, owner string, members []ovsdb.UUID) []ovsdb.Operation {
	mark := pair(markOwner, owner)
	iface, local, id := named("localiface"+suffix), named("localport"+suffix), named("bridge"+suffix)
	return []ovsdb.Operation{
		{Op: ovsdb.OperationInsert, Table: "Interface", UUIDName: iface.GoUUID, Row: ovsdb.Row{"name": bridge, "type": "internal", "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Port", UUIDName: local.GoUUID, Row: ovsdb.Row{"name": bridge, "interfaces": iface, "external_ids": mark}},
		{Op: ovsdb.OperationInsert, Table: "Bridge", UUIDName: id.GoUUID, Row: ovsdb.Row{
			"name": bridge, "datapath_type": datapath, "external_ids": mark, "ports": set(append(members, local))}},
		mutate("Open_vSwitch", anyRow(), "bridges", ovsdb.MutateOperationInsert, set([]ovsdb.UUID{id})),
	}
}
