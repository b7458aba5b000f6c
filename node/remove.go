package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/file"
)

// Removal lists what Remove has removed and kept.
type Removal struct {
	Configurations []string // of ours, by name
	Executables    []string // by name
	Next           string   // the runtime's first configuration now; empty: the node has no network
	Sandboxes      []string // they have attachments that the cluster network's plugin will not undo
	Kept           string   // why the executables stay; empty: they are gone
}

// Remove takes plexus off the node: its configuration first, so that the network
// that was adopted is the runtime's again, then its credentials. From then on
// the runtime's DEL goes to the cluster network's plugin alone. attached names
// the sandboxes that the journal still has; while there are any, or when it
// cannot tell, the executables stay, as `plexusctl del` needs them. What cannot
// be removed is reported and the rest is done; a second Remove goes on. The
// Follower has to be stopped before.
func (n *Node) Remove(ctx context.Context, attached func(context.Context) ([]string, error)) (*Removal, error) {
	done := &Removal{}
	var errs []error
	err := n.locked(ctx, func() error {
		byHand, err := n.removeConfigurations(done)
		errs = append(errs, err, n.removeCredentials())
		sandboxes, errJournal := attached(ctx)
		done.Sandboxes = sandboxes
		switch {
		case errJournal != nil:
			errs = append(errs, fmt.Errorf("look for attachments that are left: %w", errJournal))
			done.Kept = "it is not known whether sandboxes still have attachments"
		case len(sandboxes) > 0:
			done.Kept = fmt.Sprintf("%d sandboxes still have attachments: delete their pods, then undo what `plexusctl show --data-dir %[2]s` still lists, each with `plexusctl del POD --sandbox SANDBOX --data-dir %[2]s`", len(sandboxes), n.DataDir)
		case err != nil:
			done.Kept = "the configuration could not be removed"
		case byHand != "":
			done.Kept = byHand + " is a configuration of plexus that people have written: it needs the executables"
		default:
			done.Executables, err = n.removeExecutables()
			errs = append(errs, err)
		}
		return nil
	})
	return done, errors.Join(append(errs, err)...)
}

// removeConfigurations also finds what the runtime takes now, and whether
// another configuration has to do with plexus.
func (n *Node) removeConfigurations(done *Removal) (byOthers string, err error) {
	files, err := readFolder(n.ConfDir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	errs := []error{clearTemps(n.ConfDir)}
	for _, f := range files {
		r := classify(f)
		path := filepath.Join(n.ConfDir, f.name)
		switch {
		case r.kind == own:
			if err := removeFile(path); err != nil {
				errs = append(errs, fmt.Errorf("remove plexus configuration: %w", err))
				continue
			}
			done.Configurations = append(done.Configurations, f.name)
			continue
		case r.kind != broken && done.Next == "":
			done.Next = path
		}
		if byOthers == "" && namesPlexus(f.data) {
			byOthers = path
		}
	}
	return byOthers, errors.Join(append(errs, file.Local{}.SyncFolder(n.ConfDir))...)
}

// namesPlexus reports whether a configuration has plexus as its plugin, or one
// of them, by whatever name of its own.
func namesPlexus(data []byte) bool {
	var c struct {
		Type    string `json:"type"`
		Plugins []struct {
			Type string `json:"type"`
		} `json:"plugins"`
	}
	_ = json.Unmarshal(data, &c) // what cannot be read, the runtime cannot either
	for _, p := range c.Plugins {
		if conf.IsOwnType(p.Type) && !conf.IsMultus(p.Type) {
			return true
		}
	}
	return conf.IsOwnType(c.Type) && !conf.IsMultus(c.Type)
}

// GetDaemonSet asks the API server for the agent's own DaemonSet (kube.API.DaemonSet).
// code is the status of HTTP, 0 when there was no answer; err says why it is no success.
type GetDaemonSet func(ctx context.Context) (code int, deleting bool, err error)

// Removed decides at the end of the agent whether its DaemonSet is removed, or only this
// process ends: by an upgrade, a restart, a drained node. The DaemonSet is removed when it does
// not exist or is being deleted, and when the API server refuses the agent, as its account and
// rights are deleted together with it. In doubt plexus stays, as running pods need it.
func Removed(ctx context.Context, get GetDaemonSet) (removed bool, why string) {
	code, deleting, err := get(ctx)
	switch {
	case code == http.StatusNotFound:
		return true, "the DaemonSet does not exist"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return true, fmt.Sprintf("the DaemonSet's account or its rights are gone (status %d)", code)
	case err != nil:
		return false, "the API server does not answer as it should: " + err.Error()
	case code != http.StatusOK:
		return false, fmt.Sprintf("the API server answers with status %d", code)
	case deleting:
		return true, "the DaemonSet is being deleted"
	}
	return false, "the DaemonSet exists"
}
