package conf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// Definition is the unparsed definition of a network: the config of a NAD, or a file.
type Definition struct {
	Origin       string   // for errors: "NetworkAttachmentDefinition ns/name" or "file /path"
	Name         string   // as network-status calls it, "ns/name" for a NAD; empty for a file
	Fallback     string   // the network's name when its config has none
	Config       []byte   // a CNI configuration or configuration list
	ResourceName string   // annotation k8s.v1.cni.cncf.io/resourceName
	Warnings     []string // about files that were skipped during the search
	DeviceID     string   // the pod's device of this resource, see AssignDevices
	OfNode       bool     // a file of the node defines it, see Bounds
}

// List is a network configuration list (CNI specification 1.1.0, section 1).
// A single configuration is a list of one.
type List struct {
	CNIVersion   string            `json:"cniVersion"`
	Name         string            `json:"name"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	DisableGC    bool              `json:"disableGC,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`
}

// plugin has the keys that plexus reads of every plugin configuration.
type plugin struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	MasterPlugin bool            `json:"masterplugin"`
}

// DefaultCNIVersion is the version of a NAD that names none, and of a network of the node's own
// files where its configuration names none either: the oldest whose result lists interfaces,
// which every plugin knows.
const DefaultCNIVersion = "0.3.1"

// ParseList reads a configuration or a configuration list. cniVersion stands
// in where the network names none.
func (d *Definition) ParseList(cniVersion string) (*List, error) {
	l, err := d.parseList()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Origin, err)
	}
	l.CNIVersion = cmp.Or(l.CNIVersion, cniVersion, DefaultCNIVersion)
	l.Name = cmp.Or(l.Name, d.Fallback)
	if !networkName.MatchString(l.Name) || len(l.Name) > maxName {
		return nil, fmt.Errorf("%s: key %q: %.80q is no network name: 1 to %d letters, digits, '_', '.', '-', the first a letter or digit", d.Origin, "name", l.Name, maxName)
	}
	if !knownVersion(l.CNIVersion) {
		return nil, fmt.Errorf("%s: key %q: unknown version %.20q, known are %s", d.Origin, "cniVersion", l.CNIVersion, strings.Join(version.All.SupportedVersions(), ", "))
	}
	return l, nil
}

func (d *Definition) parseList() (*List, error) {
	if len(d.Config) > maxDocument {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(d.Config), maxDocument)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(d.Config, &keys); err != nil {
		return nil, fmt.Errorf("key %q: %w", "config", ExplainJSON(err, d.Config))
	}
	if keys == nil {
		return nil, errors.New("want a network configuration, an object")
	}
	if err := checkUniqueKeys(keys); err != nil {
		return nil, err
	}
	var list struct {
		CNIVersion string            `json:"cniVersion"`
		Name       string            `json:"name"`
		Plugins    []json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(d.Config, &list); err != nil {
		return nil, ExplainJSON(err, d.Config)
	}
	l := &List{CNIVersion: list.CNIVersion, Name: list.Name, Plugins: list.Plugins}
	if _, ok := keys["plugins"]; !ok {
		l.Plugins = []json.RawMessage{d.Config}
	} else {
		var errCheck, errGC error
		l.DisableCheck, errCheck = parseFlag(keys, "disableCheck")
		l.DisableGC, errGC = parseFlag(keys, "disableGC")
		if err := cmp.Or(errCheck, errGC); err != nil {
			return nil, err
		}
	}
	if len(l.Plugins) == 0 {
		return nil, fmt.Errorf("key %q: the list is empty: name one plugin at least", "plugins")
	}
	for i, raw := range l.Plugins {
		var p plugin
		var keys map[string]json.RawMessage
		if err := cmp.Or(json.Unmarshal(raw, &p), json.Unmarshal(raw, &keys)); err != nil {
			return nil, fmt.Errorf("plugins[%d]: %w", i, ExplainJSON(err, raw))
		}
		if err := checkUniqueKeys(keys); err != nil {
			return nil, fmt.Errorf("plugins[%d]: %w", i, err)
		}
		if err := checkType(p.Type); err != nil {
			return nil, fmt.Errorf("plugins[%d]: %w", i, err)
		}
	}
	return l, nil
}

// parseFlag reads true or false, or a string with the same meaning, as libcni does.
func parseFlag(keys map[string]json.RawMessage, key string) (bool, error) {
	switch string(keys[key]) {
	case "", "null", "false", `"false"`:
		return false, nil
	case "true", `"true"`:
		return true, nil
	}
	return false, fmt.Errorf("key %q: %.40s, want true or false", key, keys[key])
}

// checkUniqueKeys refuses an object with two keys that differ in case alone: JSON readers in
// Go match keys in any case, and differ in which of the two they use.
func checkUniqueKeys(keys map[string]json.RawMessage) error {
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		lower := strings.ToLower(key)
		if other, ok := seen[lower]; ok {
			return fmt.Errorf("keys %.80q and %.80q differ in case alone: keep one", other, key)
		}
		seen[lower] = key
	}
	return nil
}

// checkType refuses a type that cannot be the name of a plugin's executable.
func checkType(t string) error {
	switch {
	case t == "":
		return fmt.Errorf("key %q is missing: it names the plugin", "type")
	case strings.ContainsAny(t, "/\x00") || t == "." || t == ".." || len(t) > maxName:
		return fmt.Errorf("key %q: %.80q is no plugin name", "type", t)
	case IsMultus(t):
		return fmt.Errorf("key %q: %q: plexus takes Multus' place on a node, and cannot be a delegate of itself: name the network's own plugin", "type", t)
	case IsOwnType(t):
		return fmt.Errorf("key %q: %.80q: plexus cannot be a delegate of itself", "type", t)
	}
	return nil
}

// Types are the plugin types of the list, in order.
func (l *List) Types() []string {
	types := make([]string, len(l.Plugins))
	for i, p := range l.parsed() {
		types[i] = p.Type
	}
	return types
}

// parsed are the keys of the list's plugins that plexus reads.
func (l *List) parsed() []plugin {
	all := make([]plugin, len(l.Plugins))
	for i, raw := range l.Plugins {
		_ = json.Unmarshal(raw, &all[i]) // ParseList has parsed it before
	}
	return all
}

// ifName is the interface name that a network's own configuration asks for, by
// the key if0name of sriov-cni's ancestors; empty when it asks for none.
func (l *List) ifName() (string, error) {
	for _, raw := range l.Plugins {
		var p struct {
			Type   string `json:"type"`
			IfName string `json:"if0name"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || p.Type != "sriov" || p.IfName == "" {
			continue
		}
		if err := CheckIfName(p.IfName); err != nil {
			return "", fmt.Errorf("network %s: key %q: %w", l.Name, "if0name", err)
		}
		return p.IfName, nil
	}
	return "", nil
}

// checkCapabilities refuses an argument that no plugin of the list declares
// (NPWG specification 1.3, section 4.1.2.1). ips and mac reach plugins that declare nothing
// too (Network.AddArgs); the engine holds the result against them.
func (l *List) checkCapabilities(args map[string]any) error {
	declared := l.declared()
	for _, name := range slices.Sorted(maps.Keys(args)) {
		if !declared[name] && name != "ips" && name != "mac" {
			return fmt.Errorf("%s asked for, but no plugin of network %q declares it: add \"capabilities\": {%q: true} to its configuration", name, l.Name, name)
		}
	}
	return nil
}

// declared are the capabilities that a plugin of the list has.
func (l *List) declared() map[string]bool {
	declared := map[string]bool{}
	for _, p := range l.parsed() {
		for name, on := range p.Capabilities {
			declared[name] = declared[name] || on
		}
	}
	return declared
}

// inject sets top-level keys in every plugin configuration of the list: the
// device under both names that Multus writes, in place of every other spelling
// of them, and cni-args, each of which is merged into the object args.cni (CNI
// CONVENTIONS, "args in network config").
func (l *List) inject(cniArgs map[string]json.RawMessage, deviceID string) error {
	if deviceID == "" && len(cniArgs) == 0 {
		return nil
	}
	for i, raw := range l.Plugins {
		var keys map[string]json.RawMessage
		if err := json.Unmarshal(raw, &keys); err != nil {
			return err
		}
		if deviceID != "" {
			maps.DeleteFunc(keys, func(key string, _ json.RawMessage) bool { return namesDevice(key) })
			keys["deviceID"], _ = json.Marshal(deviceID)
			keys["pciBusID"] = keys["deviceID"]
		}
		if len(cniArgs) > 0 {
			args, err := object("args", keys["args"])
			if err != nil {
				return err
			}
			cni, err := object("args.cni", args["cni"])
			if err != nil {
				return err
			}
			maps.Copy(cni, cniArgs)
			args["cni"], _ = json.Marshal(cni)
			keys["args"], _ = json.Marshal(args)
		}
		out, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		l.Plugins[i] = out
	}
	return nil
}

// object reads the value of a key that may be missing or null, an empty object then.
func object(key string, raw json.RawMessage) (keys map[string]json.RawMessage, err error) {
	if len(raw) > 0 && json.Unmarshal(raw, &keys) != nil {
		return nil, fmt.Errorf("key %q: want an object", key)
	}
	if keys == nil {
		keys = map[string]json.RawMessage{}
	}
	return keys, nil
}

// PluginOfType finds the first plugin configuration of a type, as a runtime
// would pass it: with the name and the version of its list. It is nil when
// there is none, or the text is no network configuration.
func (d *Definition) PluginOfType(typ string) []byte {
	isOfType := func(raw json.RawMessage) bool {
		var p struct{ Type string }
		return json.Unmarshal(raw, &p) == nil && p.Type == typ
	}
	var c struct {
		Name, CNIVersion json.RawMessage
		Plugins          []json.RawMessage
	}
	switch {
	case isOfType(d.Config):
		return d.Config
	case json.Unmarshal(d.Config, &c) != nil:
		return nil
	}
	at := slices.IndexFunc(c.Plugins, isOfType)
	if at < 0 {
		return nil
	}
	var p map[string]json.RawMessage
	_ = json.Unmarshal(c.Plugins[at], &p) // isOfType has parsed it before
	for key, value := range map[string]json.RawMessage{"name": c.Name, "cniVersion": c.CNIVersion} {
		if value != nil {
			p[key] = value
		}
	}
	data, _ := json.Marshal(p)
	return data
}
