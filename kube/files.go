package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
)

// networkFile finds the network of that name in confDir, in whatever file. A
// file that cannot be parsed hides none of the others.
func (m *Manifests) networkFile(name string) (*conf.Definition, error) {
	files, err := networkFiles(m.ConfDir)
	if err != nil {
		return nil, err
	}
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
	data, err := readRegular(file)
	if err != nil {
		return nil, fmt.Errorf("network file: %w", err)
	}
	base := filepath.Base(file)
	return &conf.Definition{Origin: "file " + file, Fallback: strings.TrimSuffix(base, filepath.Ext(base)), Config: data}, nil
}
