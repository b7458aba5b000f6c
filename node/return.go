package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
	"github.com/plexus-cni/plexus/journal"
)

// Return is the plan of moving a node back to Multus.
type Return struct {
	From    string            // plexus' configuration
	To      string            // Multus', as it was
	Caches  map[string][]byte // Multus' cache, by sandbox
	Results map[string][]byte // libcni's cached results, by file name
	Left    []string          // attachments that cannot be moved, and why

	delegates string // folder of Multus' cache
	cache     string // folder of libcni's
	restored  bool   // To has its name already
	settings  *conf.Conf
	disk      file.Disk
}

// ToMultus reads a node that was moved to plexus. Nothing is changed. builtin reports
// whether plexus itself attaches networks of a type: no executable can undo those, so
// their pods have to go first.
func ToMultus(n Multus, builtin func(typ string) bool) (*Return, error) {
	b := &Return{From: filepath.Join(n.ConfDir, plexusConf), Caches: map[string][]byte{}, Results: map[string][]byte{}, disk: n.disk}
	if b.disk == nil {
		b.disk = file.Local{}
	}
	if err := b.findConf(n.ConfDir); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(b.From)
	if err != nil {
		return nil, err
	}
	if b.settings, err = conf.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", b.From, err)
	}
	b.delegates = cmp.Or(n.Delegates, b.settings.CNIDir, defaultMultus)
	b.cache = cmp.Or(n.CacheDir, b.delegates)
	j := journal.Open(b.settings.DataDir)
	sandboxes, err := j.Sandboxes()
	if err != nil {
		return nil, err
	}
	for _, sandbox := range sandboxes {
		rec, err := j.Read(sandbox)
		switch {
		case err != nil || rec == nil:
		case rec.Damage != "":
			err = errors.New(rec.Damage)
		default:
			err = b.convert(rec, builtin)
		}
		if err != nil {
			b.Left = append(b.Left, fmt.Sprintf("sandbox %s: %v", sandbox, err))
		}
	}
	return b, nil
}

// findConf finds the configuration that plexus has taken the place of. Where an Apply was
// cut short, of this way or of the other, it may have its own name.
func (b *Return) findConf(dir string) error {
	moved, err := filepath.Glob(filepath.Join(dir, "*"+aside))
	if err != nil {
		return err
	}
	if len(moved) == 1 {
		b.To = strings.TrimSuffix(moved[0], aside)
		return nil
	}
	var m Migration
	if len(moved) == 0 && m.readConf(dir) == nil {
		if own, err := os.ReadFile(b.From); err == nil && bytes.Equal(own, m.Conf) {
			b.To, b.restored = m.From, true
			return nil
		}
	}
	return fmt.Errorf("%s has %d files *%s, want the one that plexus took the place of", dir, len(moved), aside)
}

// convert makes Multus' and libcni's files of the record of a sandbox.
func (b *Return) convert(rec *journal.Record, builtin func(typ string) bool) error {
	var all []any
	for _, tx := range rec.Transactions {
		if tx.Phase != journal.PhaseAttached {
			return errors.New("a request was cut short: DEL it first")
		}
		for _, e := range tx.Attachments {
			for _, typ := range e.List.Types() {
				if builtin(typ) && !e.Executed {
					return fmt.Errorf("pod %s: plexus itself attached %s (network %s, %s): delete the pod first", tx.Pod, e.IfName, e.Name, typ)
				}
			}
			d, err := toDelegate(e)
			if err != nil {
				return err
			}
			all = append(all, d)
			name := resultName(e.List.Name, rec.Sandbox, e.IfName)
			data, err := os.ReadFile(filepath.Join(b.settings.DataDir, "results", name))
			if err == nil {
				b.Results[name] = data
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	data, err := json.Marshal(all)
	b.Caches[rec.Sandbox] = data
	return err
}

// toDelegate is an attachment as Multus records it: as it did itself, or as it would
// have (DelegateNetConf in pkg/types/types.go).
func toDelegate(e *journal.Entry) (any, error) {
	if e.Origin != nil {
		return e.Origin, nil
	}
	text, err := json.Marshal(&e.List)
	d := struct {
		Conf     types.NetConf
		ConfList struct {
			CNIVersion string            `json:"cniVersion,omitempty"`
			Name       string            `json:"name,omitempty"`
			Plugins    []json.RawMessage `json:"plugins,omitempty"`
		}
		Name   string
		IfName string `json:"ifnameRequest,omitempty"`
		Bytes  []byte
	}{Name: e.Name, IfName: e.IfName, Bytes: text}
	d.ConfList.CNIVersion, d.ConfList.Name, d.ConfList.Plugins = e.List.CNIVersion, e.List.Name, e.List.Plugins
	return d, err
}

// Apply gives the node back to Multus: first Multus can undo every pod, then its
// configuration is the runtime's, and the journal is removed last. Cut short before plexus'
// configuration is gone, it is done again from the start; cut short after it, files are
// left that were plexus' and that nobody reads.
func (b *Return) Apply(ctx context.Context) error {
	if len(b.Left) > 0 {
		return fmt.Errorf("%d sandboxes cannot be moved: see above", len(b.Left))
	}
	for sandbox, data := range b.Caches {
		if err := writePrivate(b.disk, filepath.Join(b.delegates, sandbox), data); err != nil {
			return err
		}
	}
	for name, data := range b.Results {
		if err := writePrivate(b.disk, filepath.Join(b.cache, "results", name), data); err != nil {
			return err
		}
	}
	if !b.restored {
		if err := b.disk.Rename(b.To+aside, b.To); err != nil {
			return err
		}
	}
	if err := b.disk.Remove(b.From); err != nil {
		return err
	}
	if err := b.disk.SyncFolder(filepath.Dir(b.From)); err != nil {
		return err
	}
	j := journal.Open(b.settings.DataDir)
	for sandbox := range b.Caches {
		if err := j.Remove(ctx, sandbox); err != nil {
			return err
		}
	}
	for name := range b.Results {
		if b.settings.DataDir == b.cache {
			break // it is where it was
		}
		if err := b.disk.Remove(filepath.Join(b.settings.DataDir, "results", name)); err != nil {
			return err
		}
	}
	return nil
}
