package kube

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

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
	var away interface{ Temporary() bool }
	unknown := errors.As(broken, &away) && away.Temporary()
	if d == nil && w.AnyForm {
		d, err := networkFile(confDir, w.Name)
		if d != nil {
			return d, nil
		}
		if unknown {
			return nil, broken
		}
		return nil, errors.Join(fmt.Errorf("network %q is neither a NetworkAttachmentDefinition in namespace %s nor a network of %s, nor an absolute path", w.Name, w.Namespace, confDir), broken, err)
	}
	if d == nil && unknown {
		return nil, broken
	}
	if d == nil {
		return nil, errors.Join(fmt.Errorf("NetworkAttachmentDefinition %s/%s does not exist%s", w.Namespace, w.Name, nads), broken)
	}
	if len(bytes.TrimSpace(d.Config)) > 0 {
		return d, nil
	}
	file, err := networkFile(confDir, w.Name) // NPWG specification 1.3, section 3.2.2
	if file == nil {
		return nil, errors.Join(fmt.Errorf("%s has no config, and %s has no network named %q", d.Origin, confDir, w.Name), err)
	}
	found := *d
	found.Config, found.OfNode = file.Config, true
	found.Origin += " (" + file.Origin + ")"
	return &found, nil
}

// networkFile finds the network of that name in the files of confDir. It skips files that
// cannot be parsed.
func networkFile(confDir, name string) (*conf.Definition, error) {
	files, err := networkFiles(confDir)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(files, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	var errs []error
	for _, file := range files {
		d, err := loadNetwork(file)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		var named struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(d.Config, &named); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", d.Origin, err))
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

// rank puts lists before single configurations (NPWG specification 1.3, section
// 3.4.1).
func rank(file string) int {
	if filepath.Ext(file) == ".conflist" {
		return 0
	}
	return 1
}

// networkAt is the network of a file, or the first one of a folder in the
// order of names.
func networkAt(path string) (*conf.Definition, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	if !st.IsDir() {
		return loadAs(path, st)
	}
	files, err := networkFiles(path)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("folder %s has no network file (*.conf, *.conflist, *.json)", path)
	}
	return loadNetwork(files[0])
}

func networkFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network files: %w", err)
	}
	var files []string
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

func loadNetwork(file string) (*conf.Definition, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	return loadAs(file, st)
}

// loadAs loads a network file, whose status is st.
func loadAs(file string, st os.FileInfo) (*conf.Definition, error) {
	if d := cachedDefinition(file, st); d != nil {
		return d, nil
	}
	data, err := readRegular(file)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	base := filepath.Base(file)
	d := &conf.Definition{Origin: "file " + file, Fallback: strings.TrimSuffix(base, filepath.Ext(base)), Config: data, OfNode: true}
	if err := addSubfolder(d, filepath.Dir(file)); err != nil {
		return d, err
	}
	cacheNetwork(file, st, d)
	return d, nil
}

// networkCache has unchanged network files by path: the cluster network is looked up for every
// pod, and its file changes once a month.
var networkCache sync.Map

type cachedNetwork struct {
	file       os.FileInfo
	subfolder  string // that may have plugins; "" for none
	definition conf.Definition
}

// minFileAge is the age of a file's last change before the file is cached: the next change
// then certainly has another time.
const minFileAge = time.Second

func cacheNetwork(path string, st os.FileInfo, d *conf.Definition) {
	subfolder := subfolderOf(d, filepath.Dir(path))
	if changed := time.Unix(st.Sys().(*syscall.Stat_t).Ctim.Unix()); time.Since(changed) > minFileAge && !exists(subfolder) {
		networkCache.Store(path, &cachedNetwork{st, subfolder, *d})
	}
}

// cachedDefinition is the cached network of a file, nil when the file may have changed.
func cachedDefinition(path string, st os.FileInfo) *conf.Definition {
	found, ok := networkCache.Load(path)
	if !ok {
		return nil
	}
	r := found.(*cachedNetwork)
	was, is := r.file.Sys().(*syscall.Stat_t), st.Sys().(*syscall.Stat_t)
	if !os.SameFile(r.file, st) || was.Size != is.Size || was.Ctim != is.Ctim || was.Mtim != is.Mtim || exists(r.subfolder) {
		networkCache.Delete(path)
		return nil
	}
	d := r.definition
	return &d
}

func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Lstat(path)
	return err == nil
}

// chainAt is the chain of a subfolder's files, behind a plugin that does nothing;
// nil without files.
func chainAt(dir, name string) (*conf.Definition, error) {
	const nothing = `{"type": "passthru"}`
	config, err := json.Marshal(map[string]any{"name": name, "plugins": []json.RawMessage{json.RawMessage(nothing)}})
	if err != nil {
		return nil, err
	}
	d := &conf.Definition{Origin: "chain " + filepath.Join(dir, name), Fallback: name, Config: config, OfNode: true}
	if err := addSubfolder(d, dir); err != nil || len(d.Config) == len(config) {
		return nil, err
	}
	return d, nil
}

// subfolderOf is the subfolder that has a list's name (CNI specification 1.1.0,
// section 1, loadOnlyInlinedPlugins), whether it is there or not; "" when none counts.
func subfolderOf(d *conf.Definition, dir string) string {
	var list struct {
		Name       string          `json:"name"`
		Plugins    json.RawMessage `json:"plugins"`
		InlineOnly any             `json:"loadOnlyInlinedPlugins"`
	}
	if json.Unmarshal(d.Config, &list) != nil || list.Plugins == nil || list.InlineOnly == true || list.InlineOnly == "true" ||
		list.Name == "" || !filepath.IsLocal(list.Name) || filepath.Base(list.Name) != list.Name {
		return "" // the check of the list reports the error
	}
	return filepath.Join(dir, list.Name)
}

// addSubfolder appends the plugins of a list's subfolder: its files *.conf, in the
// order of their names.
func addSubfolder(d *conf.Definition, dir string) error {
	subfolder := subfolderOf(d, dir)
	if subfolder == "" {
		return nil
	}
	files, err := networkFiles(subfolder)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(file string) bool { return filepath.Ext(file) != ".conf" })
	if len(files) == 0 {
		return nil
	}
	var keys map[string]json.RawMessage
	var plugins []json.RawMessage
	if err := json.Unmarshal(d.Config, &keys); err != nil {
		return err
	}
	if json.Unmarshal(keys["plugins"], &plugins) != nil {
		return nil // the check of the list reports the error
	}
	for _, file := range files {
		data, err := readRegular(file)
		if err == nil && !json.Valid(data) {
			err = errors.New("it is no JSON")
		}
		if err != nil {
			return fmt.Errorf("%s: plugin file %s: %w", d.Origin, file, err)
		}
		plugins = append(plugins, data)
	}
	if keys["plugins"], err = json.Marshal(plugins); err != nil {
		return err
	}
	d.Config, err = json.Marshal(keys)
	return err
}
