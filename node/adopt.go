package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/plexus-cni/plexus/conf"
)

// mark is in every configuration that this package writes, beside the plugins,
// where neither the runtime nor the plugin looks.
type mark struct {
	Adopted string `json:"adopted"` // name of the adopted file, empty: the settings name the cluster network
}

// RefusedError names the configuration because of which plexus is not the runtime's first
// one.
type RefusedError struct {
	File string
	Why  string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s comes first: %s", e.File, e.Why) }

// decision is the wanted state of our configurations in the runtime's folder.
type decision struct {
	name    string // of our configuration; empty: none, there is nothing to adopt yet
	data    []byte
	conf    *conf.Conf
	adopted string    // name of the adopted file
	remove  []verdict // configurations of ours that go, after the other is written
	notes   []string
}

// decide chooses the adopted network and composes our configuration. With an
// error, remove and notes count all the same. more reads the plugins that a
// list has in a folder of its own.
func (n *Node) decide(files []configFile, more func(*conf.List) ([]json.RawMessage, error)) (*decision, error) {
	d := &decision{}
	var have verdict // of ours, the one that the runtime takes
	var others, ours []verdict
	for _, f := range files {
		r := classify(f)
		if r.kind != own {
			others = append(others, r)
			continue
		}
		if have.name == "" {
			have = r
		}
		ours = append(ours, r)
	}
	if n.Settings.hasClusterNetwork() {
		return d, n.compose(d, have, ours, others, nil)
	}
	chosen, refusal := n.choose(d, have, others)
	switch {
	case chosen == nil:
		d.remove = ours // or a removed network would stay the runtime's first
		return d, refusal
	case chosen.kind == broken:
		d.data, d.adopted = have.data, have.adopted
		return d, d.place(have, ours, others)
	case chosen.kind == network && chosen.folder:
		plugins, err := more(chosen.list)
		if err != nil {
			return d, fmt.Errorf("%s: plugins in the folder %s: %w", filepath.Join(n.ConfDir, chosen.name), chosen.list.Name, err)
		}
		chosen.list.Plugins = append(chosen.list.Plugins, plugins...)
	}
	return d, n.compose(d, have, ours, others, chosen)
}

// choose picks the first file that can be adopted. The one that was adopted
// before stays while it is being rewritten, and when the files that sort before it cannot be
// adopted. A refusal is returned when nothing is chosen because of it.
func (n *Node) choose(d *decision, have verdict, others []verdict) (chosen *verdict, refusal error) {
	for i := range others {
		r := &others[i]
		path := filepath.Join(n.ConfDir, r.name)
		was := have.name != "" && r.name == have.adopted
		switch {
		case r.kind == broken && was:
			if _, err := ownConf(have.data); err == nil {
				d.notes = append(d.notes, fmt.Sprintf("%s, the cluster network's, cannot be read, what it said before stays: %s", path, r.why))
				return r, nil
			}
			fallthrough
		case r.kind == broken:
			d.notes = append(d.notes, fmt.Sprintf("%s is passed over: %s", path, r.why))
		case r.kind == refused:
			d.notes = append(d.notes, fmt.Sprintf("%s is not adopted: %s", path, r.why))
			if refusal == nil {
				refusal = &RefusedError{File: path, Why: r.why}
			}
		case refusal == nil || was:
			return r, nil
		}
	}
	return nil, refusal
}

// compose makes our configuration: the adopted network's name and version, the
// operator's settings, and what the installer decides.
func (n *Node) compose(d *decision, have verdict, ours, others []verdict, chosen *verdict) error {
	keys := map[string]json.RawMessage{}
	name, version := "plexus", "1.0.0"
	capabilities := map[string]bool{}
	if chosen != nil {
		name, version, d.adopted = chosen.list.Name, cmp.Or(chosen.list.CNIVersion, conf.DefaultCNIVersion), chosen.name
		maps.Copy(keys, chosen.keys)
		if err := addCapabilities(capabilities, chosen.list.Plugins, chosen.keys["capabilities"]); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(n.ConfDir, chosen.name), err)
		}
	}
	if n.Settings != nil {
		maps.Copy(keys, n.Settings.keys)
		delete(keys, devicesKey)
		if err := addCapabilities(capabilities, nil, n.Settings.keys["capabilities"]); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	text := func(key string, into *string) {
		var s string
		if json.Unmarshal(keys[key], &s) == nil && s != "" {
			*into = s
		}
		delete(keys, key)
	}
	text("name", &name)
	text("cniVersion", &version)
	set := map[string]any{"type": "plexus", "agent": map[string]string{"socket": n.Socket}}
	if chosen != nil && chosen.kind == network {
		set["clusterNetwork"] = filepath.Join(n.ConfDir, chosen.name)
	}
	if keys["dataDir"] == nil && keys["cniDir"] == nil { // the journal of a node that was migrated is there
		set["dataDir"] = n.DataDir
	}
	if n.Account != nil {
		set["kubeconfig"] = n.Kubeconfig()
	}
	if len(capabilities) > 0 {
		set["capabilities"] = capabilities
	}
	for key, value := range set {
		raw, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("plexus configuration: key %q: %w", key, err)
		}
		keys[key] = raw
	}
	var err error
	if d.data, err = marshal(ownFile{CNIVersion: version, Name: name, InlineOnly: true, Mark: mark{d.adopted}, Plugins: []map[string]json.RawMessage{keys}}); err != nil {
		return fmt.Errorf("plexus configuration: %w", err)
	}
	return d.place(have, ours, others)
}

// place checks our configuration and gives it a name; ours of other names go.
func (d *decision) place(have verdict, ours, others []verdict) error {
	c, err := ownConf(d.data)
	if err != nil {
		return err
	}
	name, err := chooseName(have.name, others)
	if err != nil {
		return err
	}
	d.name, d.conf = name, c
	d.remove = slices.DeleteFunc(ours, func(r verdict) bool { return r.name == name })
	return nil
}

// ownFile is our configuration as the runtime reads it. Plugins of a subfolder
// that has the network's name are the adopted network's, not ours.
type ownFile struct {
	CNIVersion string                       `json:"cniVersion"`
	Name       string                       `json:"name"`
	InlineOnly bool                         `json:"loadOnlyInlinedPlugins"`
	Mark       mark                         `json:"plexus-cni/installed"`
	Plugins    []map[string]json.RawMessage `json:"plugins"`
}

// ownConf is our configuration as plexus gets it from the runtime.
func ownConf(data []byte) (*conf.Conf, error) {
	d := conf.Definition{Config: data}
	return conf.Parse(d.PluginOfType("plexus"))
}

// addCapabilities adds the capabilities that plugins, or a configuration of plexus itself,
// declare. The runtime passes arguments for no others.
func addCapabilities(to map[string]bool, plugins []json.RawMessage, declared json.RawMessage) error {
	all := []json.RawMessage{}
	for _, p := range plugins {
		var keys struct {
			Capabilities json.RawMessage `json:"capabilities"`
		}
		if err := json.Unmarshal(p, &keys); err != nil {
			return fmt.Errorf("plugin: %w", err)
		}
		all = append(all, keys.Capabilities)
	}
	for _, raw := range append(all, declared) {
		if len(raw) == 0 {
			continue
		}
		var on map[string]bool
		if err := json.Unmarshal(raw, &on); err != nil {
			return fmt.Errorf("key %q: want an object of true and false", "capabilities")
		}
		for name, yes := range on {
			if yes {
				to[name] = true
			}
		}
	}
	return nil
}
