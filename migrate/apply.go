package migrate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// Apply makes the node plexus': first it can undo every pod, then it is the
// runtime's first configuration.
func (m *Migration) Apply(ctx context.Context) error {
	if len(m.Left) > 0 {
		return fmt.Errorf("%d sandboxes cannot be moved: delete their pods, or the files that are named, first", len(m.Left))
	}
	j := delegates.OpenJournal(m.settings.DataDir)
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
		if err := writeNew(filepath.Join(m.settings.DataDir, "results", name), data); err != nil {
			return err
		}
	}
	dir := filepath.Dir(m.From)
	if err := writeNew(filepath.Join(dir, plexusConf), m.Conf); err != nil {
		return err
	}
	if err := os.Rename(m.From, m.From+aside); err != nil {
		return err
	}
	for _, file := range m.moved {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func writeNew(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Return is the way back to Multus.
type Return struct {
	From    string            // plexus' configuration
	To      string            // Multus', as it was
	Caches  map[string][]byte // Multus' cache, by sandbox
	Results map[string][]byte
	Left    []string

	multus   string
	cache    string
	settings *conf.Conf
}

// ToMultus reads a node that was moved to plexus. What plexus itself has
// attached no executable can undo: those pods have to go first.
func ToMultus(n Node) (*Return, error) {
	moved, err := filepath.Glob(filepath.Join(n.ConfDir, "*"+aside))
	if err != nil {
		return nil, err
	}
	if len(moved) != 1 {
		return nil, fmt.Errorf("%s has %d files *%s, want the one that plexus took the place of", n.ConfDir, len(moved), aside)
	}
	b := &Return{From: filepath.Join(n.ConfDir, plexusConf), To: moved[0][:len(moved[0])-len(aside)], Caches: map[string][]byte{}, Results: map[string][]byte{}, multus: n.Multus}
	data, err := os.ReadFile(b.From)
	if err != nil {
		return nil, err
	}
	if b.settings, err = conf.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", b.From, err)
	}
	if b.multus == "" {
		b.multus = defaultMultus
		if b.settings.CNIDir != "" {
			b.multus = b.settings.CNIDir
		}
	}
	b.cache = cmp.Or(n.CacheDir, b.multus)
	j := delegates.OpenJournal(b.settings.DataDir)
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
			err = b.convert(rec)
		}
		if err != nil {
			b.Left = append(b.Left, fmt.Sprintf("sandbox %s: %v", sandbox, err))
		}
	}
	return b, nil
}

// multusDelegate is an element of Multus' cache.
type multusDelegate struct {
	Conf     types.NetConf
	ConfList struct {
		CNIVersion string            `json:"cniVersion,omitempty"`
		Name       string            `json:"name,omitempty"`
		Plugins    []json.RawMessage `json:"plugins,omitempty"`
	}
	Name   string
	IfName string `json:"ifnameRequest,omitempty"`
	Bytes  []byte
}

// toDelegate is an attachment as Multus records it.
func toDelegate(e *delegates.Entry) (any, error) {
	if e.Origin != nil {
		return e.Origin, nil
	}
	text, err := json.Marshal(&e.List)
	d := multusDelegate{Name: e.Name, IfName: e.IfName, Bytes: text}
	d.ConfList.CNIVersion, d.ConfList.Name, d.ConfList.Plugins = e.List.CNIVersion, e.List.Name, e.List.Plugins
	return d, err
}

func (b *Return) convert(rec *delegates.Record) error {
	builtin := delegates.Builtin(nil)
	var all []any
	for _, tx := range rec.Transactions {
		if tx.Phase != delegates.PhaseAttached {
			return errors.New("a request was cut short: DEL it first")
		}
		for _, e := range tx.Attachments {
			for _, typ := range e.List.Types() {
				if builtin[typ] != nil && !e.Executed {
					return fmt.Errorf("pod %s: plexus itself attached %s (network %s, %s): delete the pod first", tx.Pod, e.IfName, e.Name, typ)
				}
			}
			d, err := toDelegate(e)
			if err != nil {
				return err
			}
			all = append(all, d)
			name := fmt.Sprintf("%s-%s-%s", e.List.Name, rec.Sandbox, e.IfName)
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

// Apply gives the node back to Multus.
func (b *Return) Apply(ctx context.Context) error {
	if len(b.Left) > 0 {
		return fmt.Errorf("%d sandboxes cannot be moved: see above", len(b.Left))
	}
	for sandbox, data := range b.Caches {
		if err := writeNew(filepath.Join(b.multus, sandbox), data); err != nil {
			return err
		}
	}
	for name, data := range b.Results {
		if err := writeNew(filepath.Join(b.cache, "results", name), data); err != nil {
			return err
		}
	}
	if err := os.Rename(b.To+aside, b.To); err != nil {
		return err
	}
	if err := os.Remove(b.From); err != nil {
		return err
	}
	j := delegates.OpenJournal(b.settings.DataDir)
	for sandbox := range b.Caches {
		if err := j.Remove(ctx, sandbox); err != nil {
			return err
		}
	}
	for name := range b.Results {
		if b.settings.DataDir == b.cache {
			break // it is where it was
		}
		if err := os.Remove(filepath.Join(b.settings.DataDir, "results", name)); err != nil {
			return err
		}
	}
	return nil
}
