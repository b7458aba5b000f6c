package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
)

// State is the runtime's folder after a pass.
type State struct {
	File    string     // our configuration, the runtime's first; empty: there is none
	Adopted string     // file of the cluster network; empty: the settings name it
	Conf    *conf.Conf // what File says; its DataDir may be that of a configuration by hand
	Changed bool       // something was written or removed
	Notes   []string   // for the log, each once
}

// Configure makes our configuration the runtime's first one: it adopts the
// network that would be first without it, and writes the settings of plexus.
// Nothing is written when nothing has changed. Without a network to adopt there
// is no configuration of ours, as the cluster network's may come later. A
// configuration that plexus cannot replace is a RefusedError. Executables and credentials
// have to be there before.
func (n *Node) Configure(ctx context.Context) (State, error) {
	var s State
	err := n.locked(ctx, func() error {
		if err := os.MkdirAll(n.ConfDir, 0o755); err != nil {
			return fmt.Errorf("folder of configurations: %w", err)
		}
		if err := clearTemps(n.ConfDir); err != nil {
			return err
		}
		files, err := readFolder(n.ConfDir)
		if err != nil {
			return err
		}
		d, refusal := n.decide(files, n.inFolder)
		s.Notes = d.notes
		if d.name == "" && refusal == nil {
			s.Notes = append(s.Notes, fmt.Sprintf("%s has no network to adopt yet: waiting for the cluster network's configuration", n.ConfDir))
		}
		if d.name != "" {
			if s.Changed, err = write(n.ConfDir, d.name, 0o600, d.data); err != nil {
				return fmt.Errorf("plexus configuration: %w", err)
			}
			s.File, s.Conf = filepath.Join(n.ConfDir, d.name), d.conf
			if d.adopted != "" {
				s.Adopted = filepath.Join(n.ConfDir, d.adopted)
			}
			if s.Conf.DataDir != n.DataDir {
				s.Notes = append(s.Notes, fmt.Sprintf("%s keeps the journal in %s, the agent looks into %s: give the agent that folder", s.Adopted, s.Conf.DataDir, n.DataDir))
			}
		}
		for _, r := range d.remove {
			if err := removeFile(filepath.Join(n.ConfDir, r.name)); err != nil {
				return fmt.Errorf("plexus configuration: %w", err)
			}
			s.Changed = true
		}
		return refusal
	})
	return s, err
}
