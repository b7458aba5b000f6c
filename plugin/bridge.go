package plugin

import (
	"encoding/json"

	"github.com/vishvananda/netlink"
)

// withBridges is the configuration of a plugin's CHECK whose prevResult has the MAC that each
// bridge of the node has now. A bridge takes another MAC as ports join and leave it, unless it
// has been given one (Linux' net/bridge/br_stp_if.c, br_stp_recalculate_bridge_id), and the
// reference plugin bridge compares it with that of the pod's ADD: it would call every earlier
// pod different. A configuration without such a bridge is returned as it is.
func withBridges(config []byte) []byte {
	var keys, result map[string]json.RawMessage
	var interfaces []map[string]json.RawMessage
	if json.Unmarshal(config, &keys) != nil || json.Unmarshal(keys["prevResult"], &result) != nil || json.Unmarshal(result["interfaces"], &interfaces) != nil {
		return config
	}
	changed := false
	for _, i := range interfaces {
		var name, mac, sandbox string
		_, _ = json.Unmarshal(i["name"], &name), json.Unmarshal(i["sandbox"], &sandbox) // libcni has written them
		if json.Unmarshal(i["mac"], &mac) != nil || mac == "" || sandbox != "" {
			continue
		}
		link, err := netlink.LinkByName(name)
		if err != nil || link.Type() != "bridge" {
			continue
		}
		if now := link.Attrs().HardwareAddr.String(); now != mac {
			i["mac"], changed = json.RawMessage(`"`+now+`"`), true
		}
	}
	if !changed {
		return config
	}
	if set(result, "interfaces", interfaces) != nil || set(keys, "prevResult", result) != nil {
		return config
	}
	with, err := json.Marshal(keys)
	if err != nil {
		return config
	}
	return with
}

func set(keys map[string]json.RawMessage, key string, value any) (err error) {
	keys[key], err = json.Marshal(value)
	return err
}
