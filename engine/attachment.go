package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	tx        *journal.Transaction
	netns     string // path; "" when it is gone
	chain     *plugin.Chain
	errChain  error            // why there is no chain
	result    *types100.Result // as recorded; nil when it is missing or unreadable: DEL goes on
	errResult error            // why there is no result
}

// single is the built-in of an attachment that has no other plugin, else nil.
func (a *attachment) single() *plugin.Builtin {
	if a.chain == nil {
		return nil
	}
	return a.chain.Single()
}

// errorf names step and attachment in an error; nil stays nil. An error that names the
// attachment or its network already, as those of backends do, gets what it lacks.
func (a *attachment) errorf(step string, err error) error {
	if err == nil {
		return nil
	}
	text, network := err.Error(), "network "+a.Name
	switch {
	case strings.Contains(text, a.IfName+" ("+network+")"):
		return fmt.Errorf("%s: %w", step, err)
	case strings.HasPrefix(text, network+":"):
		return fmt.Errorf("%s %s: %w", step, a.IfName, err)
	}
	return fmt.Errorf("%s %s (%s): %w", step, a.IfName, network, err)
}

// unusable is why an attachment cannot be compared with its record; nil when it can.
func (a *attachment) unusable() error { return cmp.Or(a.errResult, a.errChain) }

// compareLinks compares the pod's links, addresses and default routes with the record.
func (a *attachment) compareLinks() error {
	return errors.Join(podnet.CompareLinks(a.netns, a.result), podnet.CompareDefault(a.netns, a.IfName, a.DefaultRoute))
}

// runner runs plugin lists with the engine's settings.
func (e *Engine) runner() *plugin.Runner {
	return &plugin.Runner{Delegates: e.Delegates, DataDir: e.Journal.DataDir(), Bounds: e.Bounds, Stderr: e.Stderr, Timeout: e.PluginTimeout}
}

// open parses the plugin lists of attachments, those of the node's own files first: the
// others may name the endpoints of these too. live is the path of the pod's network namespace,
// "" when it is gone.
func (e *Engine) open(sandbox string, tx *journal.Transaction, entries []*journal.Entry, live string) []*attachment {
	all := make([]*attachment, len(entries))
	var endpoints []string
	for _, ofNode := range []bool{true, false} {
		for i, entry := range entries {
			if entry.OfNode != ofNode {
				continue
			}
			a := &attachment{Entry: entry, tx: tx, netns: live}
			a.result, a.errResult = entry.ParseResult()
			a.chain, a.errChain = e.runner().Chain(plugin.Request{
				Network: entry.Network, Sandbox: sandbox, Netns: live, NetnsID: tx.NetnsID, Pod: tx.Pod, Path: tx.Path,
				Endpoints: endpoints, Executed: entry.Executed, State: entry.State, Result: a.result,
			})
			if ofNode && a.errChain == nil {
				endpoints = append(endpoints, a.chain.EndpointsOf()...)
			}
			all[i] = a
		}
	}
	return all
}

// network parses the plugin list of a network, without an attachment.
func (e *Engine) network(n conf.Network, path []string) (*plugin.Chain, error) {
	return e.runner().Chain(plugin.Request{Network: conf.Network{Name: n.Name, List: n.List, OfNode: n.OfNode}, Path: path})
}

func entriesOf(all []*attachment) []*journal.Entry {
	entries := make([]*journal.Entry, len(all))
	for i, a := range all {
		entries[i] = a.Entry
	}
	return entries
}

// namesOf names attachments, for people.
func namesOf(entries []*journal.Entry) []string {
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.IfName + " (" + entry.Name + ")"
	}
	return names
}

// groupsOf divides attachments, in order, into groups that are attached or detached together:
// the list of each member is a single built-in. An attachment with more plugins is a group of
// its own.
func groupsOf(all []*attachment) (groups [][]*attachment) {
	for len(all) > 0 {
		end := 0
		for end < len(all) && all[end].single() != nil {
			end++
		}
		end = max(end, 1)
		groups, all = append(groups, all[:end]), all[end:]
	}
	return groups
}

// batch has built-ins of a group that are one backend.
type batch []*plugin.Builtin

func (b batch) attachments() []*delegates.Attachment {
	all := make([]*delegates.Attachment, len(b))
	for i, one := range b {
		all[i] = one.Attachment
	}
	return all
}

// batches sorts a group by backend. An attachment whose configuration names no backend is
// left out.
func batches(group []*attachment) (list []batch) {
	for _, a := range group {
		one := a.single()
		if one == nil || one.Delegate == nil {
			continue
		}
		at := slices.IndexFunc(list, func(b batch) bool { return b[0].Name == one.Name })
		if at < 0 {
			at, list = len(list), append(list, nil)
		}
		list[at] = append(list[at], one)
	}
	return list
}

// liveNetns is the path of the transaction's network namespace: the path that the request
// names, or the recorded one; "" when the namespace is gone.
func liveNetns(tx *journal.Transaction, named string) string {
	return podnet.Live(tx.NetnsID, named, tx.Netns)
}

// releaseAll gives back the reservations of attachments whose plugins have not run.
func releaseAll(ctx context.Context, all []*attachment) error {
	var errs []error
	for _, a := range all {
		errs = append(errs, a.errorf("release", a.chain.Release(ctx)))
	}
	return errors.Join(errs...)
}
