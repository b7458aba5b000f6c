package engine

import (
	"context"
	"errors"
	"fmt"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// attachment is one attachment of a request: its record, and its parsed plugin list.
type attachment struct {
	*journal.Entry
	chain  *plugin.Chain
	unread error // why there is no chain
}

// single is the built-in of an attachment that has no other plugin, else nil.
func (a *attachment) single() *plugin.Builtin {
	if a.chain == nil {
		return nil
	}
	return a.chain.Single()
}

// errorf names the attachment in an error.
func (a *attachment) errorf(what string, err error) error {
	return fmt.Errorf("%s %s (network %s): %w", what, a.IfName, a.Name, err)
}

// runner runs plugin lists with the engine's settings.
func (e *Engine) runner() *plugin.Runner {
	return &plugin.Runner{Delegates: e.Delegates, DataDir: e.Journal.DataDir(), Bounds: e.Bounds, Stderr: e.Stderr, Timeout: e.PluginTimeout}
}

// open parses the plugin list of a recorded attachment. live is the path of the pod's network
// namespace, "" when it is gone.
func (e *Engine) open(sandbox string, tx *journal.Transaction, entry *journal.Entry, live string, endpoints ...string) (*attachment, error) {
	var result *types100.Result // nil when it is missing or unreadable: DEL goes on
	if r, err := entry.ParseResult(); err == nil {
		result = r
	}
	chain, err := e.runner().Chain(plugin.Request{
		Network: entry.Network, Sandbox: sandbox, Netns: live, NetnsID: tx.NetnsID, Pod: tx.Pod, Path: tx.Path,
		Endpoints: endpoints, Executed: entry.Executed, State: entry.State, Result: result,
	})
	if err != nil {
		return nil, err
	}
	return &attachment{Entry: entry, chain: chain}, nil
}

// openAll parses the plugin lists of recorded attachments.
func (e *Engine) openAll(sandbox string, tx *journal.Transaction, entries []*journal.Entry, live string) ([]*attachment, error) {
	all := make([]*attachment, len(entries))
	for i, entry := range entries {
		var err error
		if all[i], err = e.open(sandbox, tx, entry, live); err != nil {
			return nil, fmt.Errorf("%s (network %s): %w", entry.IfName, entry.Name, err)
		}
	}
	return all, nil
}

// network parses the plugin list of a network, without an attachment.
func (e *Engine) network(n conf.Network, path []string) (*plugin.Chain, error) {
	return e.runner().Chain(plugin.Request{Network: n, Path: path})
}

func entriesOf(all []*attachment) []*journal.Entry {
	entries := make([]*journal.Entry, len(all))
	for i, a := range all {
		entries[i] = a.Entry
	}
	return entries
}

// neighbours returns the end of the group that begins at the index at. A group is attached
// or detached together: the list of each member is a single built-in. An attachment with
// more plugins is a group of its own.
func neighbours(all []*attachment, at int) (end int) {
	for end = at; end < len(all) && all[end].single() != nil; end++ {
	}
	return max(end, at+1)
}

// batch is a set of attachments of one backend.
type batch struct {
	delegate delegates.Delegate
	builtins []*plugin.Builtin
}

func (b *batch) attachments() []*delegates.Attachment {
	all := make([]*delegates.Attachment, len(b.builtins))
	for i, one := range b.builtins {
		all[i] = one.Attachment
	}
	return all
}

// batches sorts neighbours by backend. An attachment whose configuration names no backend
// is left out.
func batches(all []*attachment) []*batch {
	var list []*batch
	of := map[string]*batch{}
	for _, a := range all {
		one := a.single()
		if one == nil || one.Delegate == nil {
			continue
		}
		if of[one.Name] == nil {
			of[one.Name] = &batch{delegate: one.Delegate}
			list = append(list, of[one.Name])
		}
		of[one.Name].builtins = append(of[one.Name].builtins, one)
	}
	return list
}

// liveNetns is the path of the transaction's network namespace: the path that the request
// names, or the recorded one; "" when the namespace is gone.
func liveNetns(tx *journal.Transaction, named string) string {
	return podnet.Live(tx.NetnsID, named, tx.Netns)
}

// Alive reports whether the network namespace of a recorded sandbox is still there.
func Alive(rec *journal.Record) bool {
	for _, tx := range rec.Transactions {
		if liveNetns(tx, "") != "" {
			return true
		}
	}
	return false
}

// releaseAll gives back the reservations of attachments whose plugins have not run.
func releaseAll(ctx context.Context, all []*attachment) error {
	var errs []error
	for _, a := range all {
		if err := a.chain.Release(ctx); err != nil {
			errs = append(errs, a.errorf("release", err))
		}
	}
	return errors.Join(errs...)
}
