package plugin

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containernetworking/cni/libcni"

	"github.com/plexus-cni/plexus/conf"
)

// dropped refuses what the runtime asks of a built-in, by a capability that its configuration
// declares, and that no built-in does (CNI CONVENTIONS, "Dynamic Plugin specific fields"): limits of bandwidth and
// port mappings. An executable of the list that declares the capability too does it instead. A
// rate of 0 is no limit.
func (c *Chain) dropped(typ string, config []byte) error {
	var asked struct {
		RuntimeConfig struct {
			Bandwidth    struct{ IngressRate, EgressRate json.Number }
			PortMappings []json.RawMessage
		}
	}
	if err := json.Unmarshal(config, &asked); err != nil {
		return conf.Refuse(fmt.Errorf("network %s: %s: key %q: %w", c.Network.Name, typ, "runtimeConfig", err))
	}
	is := func(rate json.Number) bool { return rate != "" && rate != "0" }
	r := &asked.RuntimeConfig
	for _, one := range []struct {
		capability string
		asked      bool
	}{
		{"bandwidth", is(r.Bandwidth.IngressRate) || is(r.Bandwidth.EgressRate)},
		{"portMappings", len(r.PortMappings) > 0},
	} {
		if !one.asked || c.isDoneByExecutable(one.capability) {
			continue
		}
		return conf.Refuse(fmt.Errorf("network %s: %s: key %q: it is asked for, and type %s cannot do it: leave it out of the pod's annotation, or take the capability from the network",
			c.Network.Name, typ, "runtimeConfig."+one.capability, typ))
	}
	return nil
}

// isDoneByExecutable reports whether an executable of the list declares a capability.
func (c *Chain) isDoneByExecutable(capability string) bool {
	return slices.ContainsFunc(c.list.Plugins, func(p *libcni.PluginConfig) bool {
		return !c.isBuiltin(p.Network.Type) && p.Network.Capabilities[capability]
	})
}
