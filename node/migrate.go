package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/journal"
)

// Multus has the paths of Multus on a node.
type Multus struct {
	ConfDir   string   // the runtime's network configurations
	Delegates string   // Multus' cache, a file for each sandbox; empty: as its configuration says
	CacheDir  string   // libcni's cache, with the folder results; empty: Multus' (since 3.8)
	BinDirs   []string // executables

	disk file.Disk // nil is file.Local
}

// Defaults of Multus (docs/configuration.md, cniDir), and names of files.
const (
	defaultMultus = "/var/lib/cni/multus"
	aside         = ".before-plexus" // ends the name of a configuration that plexus has taken the place of
	plexusConf    = "00-plexus.conf"
)

// Migration is the plan of moving a node from Multus to plexus. plexus executes the plugins of
// existing attachments for DEL, also of types that it has built in, as the plugins have their
// own state.
type Migration struct {
	From    string            // file that is replaced
	Conf    []byte            // what replaces it
	Dropped []string          // keys that plexus has no use for
	Records []*journal.Record // pods that are running
	Results map[string][]byte // libcni's cached results, by file name
	Left    []string          // attachments that cannot be moved, and why
	Missing []string          // what DEL will do without

	settings *conf.Conf
	moved    []string // files whose content is the journal's from then on
	disk     file.Disk
}

// FromMultus reads a node that Multus runs. Nothing is changed.
func FromMultus(n Multus) (*Migration, error) {
	m := &Migration{Results: map[string][]byte{}, disk: n.disk}
	if m.disk == nil {
		m.disk = file.Local{}
	}
	if err := m.readConf(n.ConfDir); err != nil {
		return nil, err
	}
	dir := cmp.Or(n.Delegates, m.settings.CNIDir, defaultMultus)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cache of Multus: %w", err)
	}
	resultsDir := filepath.Join(cmp.Or(n.CacheDir, dir), "results")
	results, err := readResults(resultsDir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		rec, err := m.convertSandbox(e.Name(), path, results, n.BinDirs)
		if err != nil {
			m.Left = append(m.Left, fmt.Sprintf("sandbox %s: %v", e.Name(), err))
			continue
		}
		m.Records = append(m.Records, rec)
		m.moved = append(m.moved, path)
	}
	for name := range m.Results {
		if path := filepath.Join(resultsDir, name); path != filepath.Join(m.settings.DataDir, "results", name) {
			m.moved = append(m.moved, path)
		}
	}
	return m, nil
}

// readConf finds Multus' configuration and makes plexus' of it. It has to be the folder's
// first, but for plexus' own, made of the same, of an Apply that was cut short.
func (m *Migration) readConf(dir string) error {
	files, err := readFolder(dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s has no network configuration", dir)
	}
	f, own := files[0], []byte(nil)
	if f.name == plexusConf && len(files) > 1 && isMultus(files[1].data) {
		f, own = files[1], f.data
	}
	if f.err != nil {
		return f.err
	}
	m.From = filepath.Join(dir, f.name)
	if !isMultus(f.data) {
		return notMultus(dir, f)
	}
	err = m.convertConf(f.data)
	switch {
	case own != nil && (err != nil || !bytes.Equal(own, m.Conf)):
		return notMultus(dir, files[0])
	case err != nil:
		return fmt.Errorf("%s: %w", m.From, err)
	}
	return nil
}

func isMultus(data []byte) bool { return conf.IsMultus(typeOf(data)) }

func notMultus(dir string, f configFile) error {
	return fmt.Errorf("%s comes first in %s, and is not Multus' (type %q): Multus does not run this node", filepath.Join(dir, f.name), dir, typeOf(f.data))
}

// Apply makes the node plexus': first the journal can undo every pod, then plexus'
// configuration is the runtime's first. Cut short before that, it is done again from the
// start; cut short after it, files are left that were Multus' and that nobody reads.
func (m *Migration) Apply(ctx context.Context) error {
	if len(m.Left) > 0 {
		return fmt.Errorf("%d sandboxes cannot be moved: delete their pods, or the files that are named, first", len(m.Left))
	}
	j := journal.Open(m.settings.DataDir)
	for _, rec := range m.Records {
		have, err := j.Read(rec.Sandbox)
		if err != nil {
			return err
		}
		if have != nil {
			continue // moved before, by a run that was cut short
		}
		if err := j.Write(ctx, rec); err != nil {
			return err
		}
	}
	for name, data := range m.Results {
		if err := writePrivate(m.disk, filepath.Join(m.settings.DataDir, "results", name), data); err != nil {
			return err
		}
	}
	dir := filepath.Dir(m.From)
	if err := writePrivate(m.disk, filepath.Join(dir, plexusConf), m.Conf); err != nil {
		return err
	}
	if err := m.disk.Rename(m.From, m.From+aside); err != nil {
		return err
	}
	if err := m.disk.SyncFolder(dir); err != nil {
		return err
	}
	for _, path := range m.moved {
		if err := m.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writePrivate writes a file for root alone, and its folder if that is missing.
func writePrivate(disk file.Disk, path string, data []byte) error {
	if err := file.MakeFolder(disk, filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return file.Replacement{Path: path, Mode: 0o600, Disk: disk}.Write(bytes.NewReader(data))
}
