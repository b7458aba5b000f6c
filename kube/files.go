package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/plexus-cni/plexus/conf"
)

// find finds a network: a NAD, or for the networks of the configuration also a
// network of confDir by name, a folder, a file. It returns nil for a chain
// without files. nads completes the error about a missing NAD; definition finds a NAD, and
// returns nil when there is none, with the errors of files that may have it.
func find(w conf.Reference, confDir, nads string, definition func(namespace, name string) (*conf.Definition, error)) (*conf.Definition, error) {
	if w.ChainDir != "" {
		return chainAt(w.ChainDir, w.Name)
	}
	if w.AnyForm && filepath.IsAbs(w.Name) {
		return networkAt(w.Name)
	}
	d, broken := definition(w.Namespace, w.Name)
	if d != nil && len(bytes.TrimSpace(d.Config)) > 0 {
		return d, nil
	}
	var file *conf.Definition
	var err error
	if d != nil || w.AnyForm {
		file, err = networkFile(confDir, w.Name)
	}
	var away interface{ Temporary() bool }
	switch {
	case d != nil && file != nil: // NPWG specification 1.3, section 3.2.2
		both := *d
		both.Config, both.OfNode = file.Config, true
		both.Origin += " (" + file.Origin + ")"
		return &both, nil
	case d != nil:
		return nil, errors.Join(fmt.Errorf("%s has no config, and %s has no network named %q", d.Origin, confDir, w.Name), err)
	case file != nil:
		return file, nil
	case errors.As(broken, &away) && away.Temporary():
		return nil, broken
	case w.AnyForm:
		return nil, errors.Join(fmt.Errorf("network %q is neither a NetworkAttachmentDefinition in namespace %s nor a network of %s, nor an absolute path", w.Name, w.Namespace, confDir), broken, err)
	}
	return nil, errors.Join(fmt.Errorf("NetworkAttachmentDefinition %s/%s does not exist%s", w.Namespace, w.Name, nads), broken)
}

// networkFile finds the network of that name in the files of confDir, lists before single
// configurations (NPWG specification 1.3, section 3.4.1). It skips files that cannot be
// parsed.
func networkFile(confDir, name string) (*conf.Definition, error) {
	lists, err := networkFiles(confDir, ".conflist")
	if err != nil {
		return nil, err
	}
	others, err := networkFiles(confDir, ".conf", ".json")
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, file := range append(lists, others...) {
		d, err := loadNetwork(file)
		var named struct {
			Name string `json:"name"`
		}
		if err == nil {
			if err = json.Unmarshal(d.Config, &named); err != nil {
				err = fmt.Errorf("%s: %w", d.Origin, err)
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if named.Name == name {
			for _, err := range errs {
				d.Warnings = append(d.Warnings, err.Error())
			}
			return d, nil
		}
	}
	return nil, errors.Join(errs...)
}

// networkAt is the network of a file, or the first one of a folder in the
// order of names.
func networkAt(path string) (*conf.Definition, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	if !st.IsDir() {
		return loadNetwork(path)
	}
	files, err := networkFiles(path, ".conf", ".conflist", ".json")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("folder %s has no network file (*.conf, *.conflist, *.json)", path)
	}
	return loadNetwork(files[0])
}

// networkFiles are the files of a folder with one of the extensions, in the order of names.
func networkFiles(dir string, extensions ...string) ([]string, error) {
	files, err := libcni.ConfFiles(dir, extensions)
	if err != nil {
		return nil, fmt.Errorf("network files: %w", err)
	}
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasPrefix(filepath.Base(file), ".") }), nil
}

func loadNetwork(file string) (*conf.Definition, error) {
	data, err := readRegular(file, maxFile)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	base := filepath.Base(file)
	d := &conf.Definition{Origin: "file " + file, Fallback: strings.TrimSuffix(base, filepath.Ext(base)), Config: data, OfNode: true}
	return d, addSubfolder(d, filepath.Dir(file), func(err error) error { return err })
}

// chainAt is the chain of a subfolder's files, behind a plugin that does nothing;
// nil without files. A broken file is a warning: the chain is beside the pod's networks.
func chainAt(dir, name string) (*conf.Definition, error) {
	config, err := json.Marshal(map[string]any{"name": name, "plugins": []any{map[string]string{"type": "passthru"}}})
	if err != nil {
		return nil, err
	}
	d := &conf.Definition{Origin: "chain " + filepath.Join(dir, name), Fallback: name, Config: config, OfNode: true}
	warn := func(err error) error {
		d.Warnings = append(d.Warnings, fmt.Sprintf("%v: the chain runs without it: mend or remove the file", err))
		return nil
	}
	if err := addSubfolder(d, dir, warn); err != nil || len(d.Config) == len(config) && len(d.Warnings) == 0 {
		return nil, err
	}
	return d, nil
}

// addSubfolder appends the plugins of the subfolder that has a list's name: its files
// *.conf, in the order of their names (CNI specification 1.1.0, section 1,
// loadOnlyInlinedPlugins). A list without plugins of its own has all of them there. The check of
// the list reports what is wrong with its keys. broken judges a file that is no plugin.
func addSubfolder(d *conf.Definition, dir string, broken func(error) error) error {
	var list struct {
		Type       string            `json:"type"`
		Name       string            `json:"name"`
		Plugins    []json.RawMessage `json:"plugins"`
		InlineOnly any               `json:"loadOnlyInlinedPlugins"`
	}
	if json.Unmarshal(d.Config, &list) != nil || list.Plugins == nil && list.Type != "" || list.InlineOnly == true || list.InlineOnly == "true" ||
		list.Name == "" || !filepath.IsLocal(list.Name) || filepath.Base(list.Name) != list.Name {
		return nil
	}
	folder := filepath.Join(dir, list.Name)
	files, err := networkFiles(folder, ".conf")
	if err == nil && len(files) == 0 && list.Plugins == nil {
		return fmt.Errorf("%s: it has neither the key %q nor %q, and the folder %s has no file *.conf", d.Origin, "type", "plugins", folder)
	}
	if err != nil || len(files) == 0 {
		return err
	}
	for _, file := range files {
		data, err := readRegular(file, maxFile)
		if err == nil {
			err = checkPlugin(list.Name, data)
		}
		if err == nil {
			list.Plugins = append(list.Plugins, data)
		} else if err = broken(fmt.Errorf("%s: plugin file %s: %w", d.Origin, file, err)); err != nil {
			return err
		}
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(d.Config, &keys); err != nil {
		return err
	}
	if keys["plugins"], err = json.Marshal(list.Plugins); err != nil {
		return err
	}
	d.Config, err = json.Marshal(keys)
	return err
}

// checkPlugin refuses a text that is no configuration of one plugin.
func checkPlugin(network string, data []byte) error {
	l, err := (&conf.Definition{Origin: "it is no plugin", Fallback: network, Config: data}).ParseList("")
	if err == nil && !bytes.Equal(l.Plugins[0], data) {
		return errors.New("it is a list, and no plugin")
	}
	return err
}
