package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/status"
)

// Change is the outcome of Update: interfaces with their networks, for people.
type Change struct {
	Sandbox            string
	Attached, Detached []string
}

// String describes the change in one line.
func (c *Change) String() string {
	var parts []string
	if len(c.Detached) > 0 {
		parts = append(parts, "detached "+strings.Join(c.Detached, ", "))
	}
	if len(c.Attached) > 0 {
		parts = append(parts, "attached "+strings.Join(c.Attached, ", "))
	}
	return strings.Join(parts, "; ")
}

// Update gives a running pod the networks that its annotation asks for now, in the
// transaction and journal of its ADD. It detaches before it attaches. It returns nil when
// there is nothing to do. Attachments that plexus has not made stay. With an error the Change
// has what is in force all the same.
func (e *Engine) Update(ctx context.Context, sandbox string, pod *conf.Pod) (change *Change, err error) {
	err = e.withRecord(ctx, sandbox, func(ctx context.Context, rec *journal.Record) error {
		at := slices.IndexFunc(rec.Transactions, func(tx *journal.Transaction) bool { return isChanged(tx, pod) })
		if at < 0 {
			return nil
		}
		if rec.Damage != "" {
			return fmt.Errorf("sandbox %s: %s; its networks are not changed before the pod is made anew", sandbox, rec.Damage)
		}
		tx := rec.Transactions[at]
		r, err := requestOf(tx, sandbox)
		if err != nil {
			return err
		}
		tx.Pod = pod // a record does not have its containers
		u := &hotplug{e: e, r: r, rec: rec, tx: tx, pod: pod, others: status.Others(tx, pod)}
		if err := u.detachUnfinished(ctx); err != nil {
			return err
		}
		before := slices.Clone(tx.Attachments)
		err = u.run(ctx)
		change = &Change{Sandbox: sandbox, Detached: namesOf(without(before, tx.Attachments))}
		if err == nil { // else they are undone again
			change.Attached = namesOf(without(tx.Attachments, before))
		}
		return err
	})
	return change, err
}

// without are the entries that are not among others.
func without(entries, others []*journal.Entry) []*journal.Entry {
	return slices.DeleteFunc(slices.Clone(entries), func(entry *journal.Entry) bool { return slices.Contains(others, entry) })
}

// isChanged reports whether the pod asks for other networks than it was given.
func isChanged(tx *journal.Transaction, pod *conf.Pod) bool {
	return tx.Conf != nil && tx.Phase == journal.PhaseAttached && tx.Pod != nil && tx.Pod.UID == pod.UID && tx.Networks != pod.Annotations[conf.NetworksAnnotation]
}

// requestOf is the request of a transaction, with the fields that hot-plug and publication
// need.
func requestOf(tx *journal.Transaction, sandbox string) (*Request, error) {
	c, err := conf.Parse(tx.Conf)
	if err != nil {
		return nil, fmt.Errorf("recorded configuration: %w", err)
	}
	r := &Request{Conf: c, Network: tx.Network, Stdin: tx.Conf, Sandbox: sandbox, Netns: liveNetns(tx, ""), IfName: tx.IfName, Path: tx.Path, ID: tx.Request}
	if r.Netns == "" {
		return nil, fmt.Errorf("sandbox %s: its network namespace %s is gone", sandbox, tx.Netns)
	}
	for _, entry := range tx.Attachments {
		if entry.Default {
			r.Args = entry.Args
		}
	}
	return r, nil
}

// hotplug is one run of Update.
type hotplug struct {
	e      *Engine
	r      *Request
	rec    *journal.Record
	tx     *journal.Transaction
	pod    *conf.Pod
	others []json.RawMessage // elements of network-status that plexus has not written
}

func (u *hotplug) run(ctx context.Context) error {
	removed, added, warnings, err := conf.Changes(u.r.Conf, u.pod, journal.Networks(u.tx.Attachments))
	if err != nil {
		return delegates.Coded(delegates.CodeConfig, err)
	}
	u.e.warn(warnings)
	kept := slices.Clone(u.tx.Attachments)
	for _, at := range slices.Backward(removed) {
		kept = slices.Delete(kept, at, at+1)
	}
	more, err := u.plan(ctx, added, journal.Networks(kept))
	if err != nil {
		return err
	}
	for _, at := range removed {
		u.tx.Attachments[at].Phase = journal.PhaseRemoving
	}
	if len(removed) > 0 {
		u.tx.Networks = noNetworks // the next Update compares again, should this one be interrupted
	}
	if err := u.detachUnfinished(ctx); err != nil {
		return err
	}
	all, err := u.attach(ctx, more)
	if err != nil {
		if len(removed) > 0 {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(delegates.Undoing(ctx)), undoTimeout)
			defer cancel()
			err = errors.Join(err, u.publish(ctx, all[:len(kept)]))
		}
		return err
	}
	return u.commit(ctx, all)
}

// noNetworks is a value that no pod's annotation has, so that the pod counts as changed.
const noNetworks = "\x00"

// publish publishes attachments of the pod.
func (u *hotplug) publish(ctx context.Context, all []*attachment) error {
	tx := *u.tx
	tx.Attachments = entriesOf(all)
	annotations, err := u.e.describeRecorded(ctx, u.r, &tx, all, u.others)
	if err != nil {
		return err
	}
	return u.e.publish(ctx, u.r.Sandbox, u.tx.Pod, annotations)
}

// detachUnfinished undoes the attachments that are being attached or detached, also those of
// an earlier Update that did not finish.
func (u *hotplug) detachUnfinished(ctx context.Context) error {
	return u.e.detachUnfinished(ctx, u.rec, u.tx, u.r.Netns)
}

// plan resolves the added networks and names their interfaces.
func (u *hotplug) plan(ctx context.Context, added []conf.Reference, kept []conf.Network) ([]conf.Network, error) {
	added, definitions, err := u.e.lookUp(ctx, u.pod, added, kept)
	if err != nil {
		return nil, err
	}
	names, err := podnet.LinkNames(u.r.Netns)
	if err != nil {
		return nil, fmt.Errorf("interfaces of pod %s: %w", u.pod, err)
	}
	usedNames := slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(u.tx.Attachments, func(entry *journal.Entry) bool { return entry.IfName == name })
	})
	more, err := conf.ResolveMore(u.r.Conf, added, definitions, kept, usedNames, u.r.Args)
	return more, delegates.Coded(delegates.CodeConfig, err)
}

// attach attaches all of the added networks, or none. It returns the pod's attachments: those
// that were there, and the added ones.
func (u *hotplug) attach(ctx context.Context, more []conf.Network) (all []*attachment, err error) {
	before, added := u.tx.Attachments, newEntries(u.r, more)
	all = u.e.open(u.r.Sandbox, u.tx, slices.Concat(before, added), u.r.Netns)
	if len(added) == 0 {
		return all, nil
	}
	if err := u.e.prepareEach(ctx, all[len(before):]); err != nil {
		return all, err
	}
	for _, entry := range added {
		entry.Phase = journal.PhaseAdding
	}
	u.tx.Attachments = slices.Concat(before, added)
	results, attempted, err := u.e.addEach(ctx, u.r, u.rec, u.tx, all[len(before):])
	if err == nil {
		err = journal.SetResults(added, results)
	}
	if err == nil && slices.ContainsFunc(added, asksDefault) {
		err = u.giveDefault(ctx)
	}
	if err != nil {
		u.tx.Attachments = slices.Concat(before, added[:attempted])
		return all, errors.Join(err, u.detachUnfinished(delegates.Undoing(ctx)))
	}
	return all, nil
}

// giveDefault gives the default routes to the added attachment that asks for them. The record
// has it before the kernel's routes change.
func (u *hotplug) giveDefault(ctx context.Context) error {
	results, err := u.tx.Results()
	if err != nil {
		return err
	}
	entry := giveDefault(u.tx.Attachments, results)
	if err := u.e.Journal.Write(ctx, u.rec); err != nil {
		return err
	}
	return errors.Join(moveDefault(ctx, u.r.Netns, entry), journal.SetResults(u.tx.Attachments, results))
}

// commit publishes all attachments and commits the change.
func (u *hotplug) commit(ctx context.Context, all []*attachment) error {
	results, err := u.tx.Results()
	if err == nil { // before it is published: an element of network-status whose name is not recorded counts as foreign
		status.Note(u.tx, results)
		err = u.e.Journal.Write(ctx, u.rec)
	}
	if err == nil {
		err = u.publish(ctx, all)
	}
	if err != nil {
		return errors.Join(err, u.detachUnfinished(delegates.Undoing(ctx)))
	}
	for _, entry := range u.tx.Attachments {
		entry.Phase = ""
	}
	u.tx.Networks = u.pod.Annotations[conf.NetworksAnnotation]
	return u.e.Journal.Write(ctx, u.rec)
}
