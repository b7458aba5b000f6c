package plugin

import (
	"encoding/json"
	"slices"

	"github.com/vishvananda/netlink"
)

// Reference plugins (containernetworking/plugins 1.9) whose CHECK calls a healthy pod different.
var (
	// A list with one of them has the routes of its link in another table than the main one, where
	// every main plugin's CHECK looks for those of its result.
	routeMovers = []string{"sbr", "vrf"}
	// Their CHECK executes "ipam.type", and fails where a network has no addresses.
	ipamCheckers = []string{"bridge", "vlan"}
)

// forCheck is the configuration of an executed plugin's CHECK, changed where the plugin would
// call a healthy pod different; nil where it cannot be executed. What is left out of prevResult,
// addresses, is compared by podnet.CompareLinks.
func (c *Chain) forCheck(typ string, config []byte) []byte {
	var keys, result map[string]json.RawMessage
	if json.Unmarshal(config, &keys) != nil || json.Unmarshal(keys["prevResult"], &result) != nil {
		return config
	}
	changed := refreshBridges(result)
	if !slices.Contains(routeMovers, typ) && slices.ContainsFunc(c.types(), func(t string) bool { return slices.Contains(routeMovers, t) }) {
		delete(result, "ips")
		delete(result, "routes")
		changed = true
	}
	if slices.Contains(ipamCheckers, typ) && !namesIPAM(keys["ipam"]) {
		if _, err := c.Runner.FindInPath(typeStatic, c.Path); err != nil {
			return nil
		}
		keys["ipam"], changed = json.RawMessage(`{"type": "`+typeStatic+`"}`), true // it finds the addresses that it names: none
	}
	if !changed || set(keys, "prevResult", result) != nil {
		return config
	}
	with, err := json.Marshal(keys)
	if err != nil {
		return config
	}
	return with
}

// types are the plugins of the list.
func (c *Chain) types() (all []string) {
	for _, p := range c.list.Plugins {
		all = append(all, p.Network.Type)
	}
	return all
}

func namesIPAM(ipam json.RawMessage) bool {
	var keys struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(ipam, &keys) == nil && keys.Type != ""
}

// refreshBridges gives the bridges of the node in a result the MAC that they have now. A bridge
// takes another MAC as ports join and leave it, unless it has been given one (Linux'
// net/bridge/br_stp_if.c, br_stp_recalculate_bridge_id), and the plugin bridge compares it with
// that of the pod's ADD.
func refreshBridges(result map[string]json.RawMessage) (changed bool) {
	var interfaces []map[string]json.RawMessage
	if json.Unmarshal(result["interfaces"], &interfaces) != nil {
		return false
	}
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
	return changed && set(result, "interfaces", interfaces) == nil
}

func set(keys map[string]json.RawMessage, key string, value any) (err error) {
	keys[key], err = json.Marshal(value)
	return err
}
