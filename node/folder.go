package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/plexus-cni/plexus/conf"
)

// kind is the kind of a file in the runtime's folder.
type kind int

const (
	broken  kind = iota // the runtime cannot read it either, or it is being written
	own                 // written by this package
	network             // a network that can be adopted
	byHand              // a configuration of plexus that people, or plexusctl migrate, have written
	refused             // a network that cannot be adopted
)

// configFile is a file of the runtime's folder.
type configFile struct {
	name string
	data []byte
	err  error // of reading it
}

// verdict is the classification of a file.
type verdict struct {
	name    string
	kind    kind
	why     string                     // of broken and refused
	list    *conf.List                 // of network and byHand
	folder  bool                       // of network: it may have plugins in the subfolder of its name
	keys    map[string]json.RawMessage // of byHand: the plugin's
	adopted string                     // of own: name of the file that it adopted
	data    []byte                     // of own
}

// isConfig reports whether a runtime takes a file for a configuration by its
// name (libcni.ConfFiles with go-cni's and ocicni's extensions).
func isConfig(name string) bool {
	return slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
}

// readFolder reads the configurations of a folder in the order in which the
// runtime takes them, by the bytes of their names.
func readFolder(dir string) ([]configFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("network configurations: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && isConfig(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return readFiles(dir, names), nil
}

// readFiles reads files of a folder. What was removed since it was listed is
// left out; a dangling link is not, as the runtime stumbles over it.
func readFiles(dir string, names []string) []configFile {
	var all []configFile
	for _, name := range names {
		f, path := configFile{name: name}, filepath.Join(dir, name)
		if f.data, f.err = readRegular(path); errors.Is(f.err, fs.ErrNotExist) {
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		all = append(all, f)
	}
	return all
}

// inFolder reads the plugins that a list has in the subfolder of its name, the
// files *.conf (CNI specification 1.1.0, section 1, loadOnlyInlinedPlugins).
func (n *Node) inFolder(l *conf.List) ([]json.RawMessage, error) {
	files, err := readFolder(filepath.Join(n.ConfDir, l.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var plugins []json.RawMessage
	for _, f := range files {
		if filepath.Ext(f.name) == ".conf" {
			plugins, err = append(plugins, f.data), errors.Join(err, f.err)
		}
	}
	return plugins, err
}

// ownNames are the names that our configuration may have, in the order of
// preference. Each sorts before the one in front of it, the last one before
// every name that begins with a letter, a digit, '.', '-' or '+'.
func ownNames() []string {
	return []string{"00-plexus.conflist", "0-plexus.conflist", "+plexus.conflist", "!plexus.conflist"}
}

// chooseName picks a name that sorts before every other one; the one that we
// have stays if it does. others are in order.
func chooseName(have string, others []verdict) (string, error) {
	names := ownNames()
	if have != "" {
		names = append([]string{have}, names...)
	}
	for _, name := range names {
		if len(others) == 0 || name < others[0].name {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q sorts before every name that plexus' configuration may have (the first is %s): rename that file, or the runtime would use it instead of plexus", others[0].name, slices.Min(names))
}

// classify says what a file is. It opens nothing.
func classify(f configFile) verdict {
	r := verdict{name: f.name, kind: broken}
	if f.err != nil {
		r.why = f.err.Error()
		return r
	}
	var head struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
		InlineOnly any   `json:"loadOnlyInlinedPlugins"`
		Mark       *mark `json:"plexus-cni/installed"`
	}
	if err := json.Unmarshal(f.data, &head); err != nil {
		r.why = "it is no network configuration: " + err.Error()
		if slices.Contains(ownNames(), f.name) {
			r.kind, r.data = own, f.data // this name is the installer's
		}
		return r
	}
	var types []string
	for _, p := range head.Plugins {
		types = append(types, p.Type)
	}
	if head.Plugins == nil {
		types = []string{head.Type}
	}
	switch {
	case slices.Contains(ownNames(), f.name) && head.Mark != nil:
		r.kind, r.adopted, r.data = own, head.Mark.Adopted, f.data
		return r
	case len(types) == 0 || slices.Contains(types, ""):
		r.why = "it names no plugin"
		return r
	}
	if i := slices.IndexFunc(types, isRival); i >= 0 {
		r.kind = refused
		r.why = fmt.Sprintf("plugin %.80q runs this node's pods by it", types[i])
		if conf.IsMultus(types[i]) {
			r.why = "it is Multus': pods that run have attachments that only it can undo; `plexusctl migrate` shows what plexus would take over, `plexusctl migrate --apply` does it"
		}
		return r
	}
	if slices.Contains(types, "plexus") {
		return classifyOwnType(r, f.data, len(types))
	}
	d := conf.Definition{Origin: "network configuration", Fallback: fallback(f.name), Config: f.data}
	list, err := d.ParseList("")
	if err != nil {
		r.kind, r.why = refused, err.Error()
		return r
	}
	r.kind, r.list = network, list
	r.folder = head.Plugins != nil && head.InlineOnly != true && head.InlineOnly != "true"
	return r
}

// isRival reports whether a plugin is another meta-plugin: Multus, or a plexus of another name.
func isRival(typ string) bool {
	return typ != "plexus" && conf.IsOwnType(typ)
}

// classifyOwnType reads a configuration of type plexus that is not the
// installer's: its keys are the operator's wish for this node.
func classifyOwnType(r verdict, data []byte, plugins int) verdict {
	r.kind = refused
	d := conf.Definition{Config: data, Fallback: "plexus"}
	text := d.PluginOfType("plexus")
	if plugins != 1 || text == nil {
		r.why = "plexus is one plugin of several in it, it has to be alone"
		return r
	}
	c, err := conf.Parse(text)
	if err == nil && !c.HasClusterNetwork() {
		err = errors.New("plexus configuration: it names no cluster network")
	}
	var keys map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(text, &keys)
	}
	if err == nil {
		keys, err = canonical(keys)
	}
	if err != nil {
		r.why = err.Error()
		return r
	}
	r.kind, r.keys = byHand, keys
	r.list = &conf.List{Name: c.Name, CNIVersion: c.CNIVersion}
	return r
}

// fallback is the name of a network whose file has none.
func fallback(name string) string { return name[:len(name)-len(filepath.Ext(name))] }
