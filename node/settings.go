package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/devices"
)

// Settings are keys of the plexus configuration that the operator gives, once
// for all nodes.
type Settings struct {
	keys map[string]json.RawMessage // by the name that conf has for them
}

// devicesKey is read by the agent alone; it is not written into the node's configuration.
const devicesKey = "devices"

// Devices are the resources that the agent offers. Those that are right are returned beside the
// error about the others.
func (s *Settings) Devices() ([]devices.Resource, error) {
	resources, err := devices.Parse(s.keys[devicesKey])
	if err != nil {
		err = fmt.Errorf("settings: %w", err)
	}
	return resources, err
}

// handled are the keys that the installer itself reads or writes; encoding/json
// takes them in any case.
func handled() []string {
	return []string{"type", "name", "cniVersion", "plugins", "clusterNetwork", "delegates", "capabilities", "kubeconfig", "agent", "dataDir", "cniDir"}
}

// canonical gives handled keys their own case. Two that differ in case alone
// are refused: it is not sure which one would count.
func canonical(keys map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	names := map[string]string{}
	for _, name := range handled() {
		names[strings.ToLower(name)] = name
	}
	out := map[string]json.RawMessage{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		name := key
		if known, ok := names[strings.ToLower(key)]; ok {
			name = known
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("key %.80q is there twice, in different case: keep one", name)
		}
		out[name] = keys[key]
	}
	return out, nil
}

// ParseSettings reads a JSON object of keys of the plexus configuration
// (docs/configuration.md). What the installer decides is refused: type,
// kubeconfig, agent, dataDir and cniDir; name and cniVersion are the adopted
// network's, unless the settings name the cluster network themselves, by
// clusterNetwork or delegates. Empty text is no settings.
func ParseSettings(data []byte) (*Settings, error) {
	if len(strings.TrimSpace(string(data))) == 0 {
		return &Settings{}, nil
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil || raw == nil {
		return nil, fmt.Errorf("settings: want a JSON object of keys of the plexus configuration: %w", cmpErr(err))
	}
	keys, err := canonical(raw)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	s := &Settings{keys: keys}
	ours := []string{"type", "plugins", "kubeconfig", "agent", "dataDir", "cniDir"}
	if !s.hasClusterNetwork() {
		ours = append(ours, "name", "cniVersion")
	}
	for _, key := range ours {
		if _, ok := keys[key]; ok {
			return nil, fmt.Errorf("settings: key %q is set by the installer: leave it out", key)
		}
	}
	// Whatever else is wrong with them is wrong on every node.
	plugin := maps.Clone(keys)
	for key, value := range map[string]string{"type": `"plexus"`, "name": `"plexus"`} {
		if plugin[key] == nil {
			plugin[key] = json.RawMessage(value)
		}
	}
	text, err := json.Marshal(plugin)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	parsed, err := conf.Parse(text)
	if err == nil && len(parsed.Warnings) > 0 { // no other program reads these settings
		err = errors.New(parsed.Warnings[0])
	}
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	return s, nil
}

// cmpErr stands in where null was read, which is no error to encoding/json.
func cmpErr(err error) error {
	if err == nil {
		return fmt.Errorf("it is null")
	}
	return err
}

// hasClusterNetwork reports whether there is nothing to adopt.
func (s *Settings) hasClusterNetwork() bool {
	if s == nil {
		return false
	}
	var name string
	var delegates []json.RawMessage
	_ = json.Unmarshal(s.keys["clusterNetwork"], &name) // of another type: conf.Parse refuses it
	_ = json.Unmarshal(s.keys["delegates"], &delegates)
	return name != "" || len(delegates) > 0
}
