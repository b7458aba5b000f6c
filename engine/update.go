package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

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
// there is nothing to do. Attachments that plexus has not made stay.
func (e *Engine) Update(ctx context.Context, sandbox string, pod *conf.Pod) (*Change, error) {
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.Journal.Read(sandbox)
	if err != nil || rec == nil {
		return nil, err
	}
	at := slices.IndexFunc(rec.Transactions, func(tx *journal.Transaction) bool { return isChanged(tx, pod) })
	if at < 0 {
		return nil, nil
	}
	if rec.Damage != "" {
		return nil, fmt.Errorf("sandbox %s: %s; its networks are not changed before the pod is made anew", sandbox, rec.Damage)
	}
	tx := rec.Transactions[at]
	r, err := requestOf(tx, sandbox)
	if err != nil {
		return nil, err
	}
	u := &hotplug{e: e, r: r, rec: rec, tx: tx, pod: pod, change: &Change{Sandbox: sandbox}}
	return u.change, u.run(ctx)
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
	change *Change
}

func (u *hotplug) run(ctx context.Context) error {
	others := status.Others(u.tx, u.pod)
	if err := u.detachUnfinished(ctx); err != nil {
		return err
	}
	removed, added, warnings, err := conf.Changes(u.r.Conf, u.pod, journal.Networks(u.tx.Attachments))
	if err != nil {
		return delegates.Coded(delegates.CodeConfig, err)
	}
	for _, w := range warnings {
		u.e.Log.Warn(w)
	}
	kept := slices.Clone(u.tx.Attachments)
	for _, at := range slices.Backward(removed) {
		kept = slices.Delete(kept, at, at+1)
	}
	more, err := u.plan(ctx, added, journal.Networks(kept))
	if err != nil {
		return err
	}
	for _, at := range removed {
		entry := u.tx.Attachments[at]
		entry.Phase = journal.PhaseRemoving
		u.change.Detached = append(u.change.Detached, entry.IfName+" ("+entry.Name+")")
	}
	if len(removed) > 0 {
		u.tx.Networks = noNetworks // the next Update compares again, should this one be interrupted
	}
	if err := u.detachUnfinished(ctx); err != nil {
		return err
	}
	if err := u.attachMore(ctx, more); err != nil {
		if len(removed) > 0 {
			err = errors.Join(err, u.publishAttached(delegates.Undoing(ctx), others))
		}
		return err
	}
	return u.commit(ctx, others)
}

// noNetworks is a value that no pod's annotation has, so that the pod counts as changed.
const noNetworks = "\x00"

// publishAttached publishes the attachments that are neither being attached nor detached.
func (u *hotplug) publishAttached(ctx context.Context, others []json.RawMessage) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	whole := *u.tx
	whole.Attachments = slices.DeleteFunc(slices.Clone(u.tx.Attachments), func(entry *journal.Entry) bool { return entry.Phase != "" })
	results, err := whole.Results()
	if err != nil {
		return err
	}
	return u.publish(ctx, &whole, results, others)
}

func (u *hotplug) publish(ctx context.Context, tx *journal.Transaction, results []*types100.Result, others []json.RawMessage) error {
	all, err := u.e.openAll(u.r.Sandbox, tx, tx.Attachments, u.r.Netns)
	if err != nil {
		return err
	}
	annotations, err := u.e.describe(ctx, u.r, tx, all, results, others)
	if err != nil {
		return err
	}
	return u.e.publish(ctx, u.r, tx, annotations)
}

// detachUnfinished undoes the attachments that are being attached or detached, also those of
// an earlier Update that did not finish.
func (u *hotplug) detachUnfinished(ctx context.Context) error {
	return u.e.detachUnfinished(ctx, u.rec, u.tx, u.r.Netns)
}

func (e *Engine) detachUnfinished(ctx context.Context, rec *journal.Record, tx *journal.Transaction, live string) error {
	var attached, unfinished []*journal.Entry
	for _, entry := range tx.Attachments {
		if entry.Phase == "" {
			attached = append(attached, entry)
		} else {
			unfinished = append(unfinished, entry)
		}
	}
	if len(unfinished) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := e.Journal.Write(ctx, rec); err != nil {
		return err
	}
	remaining, err := e.detachEach(ctx, rec.Sandbox, tx, unfinished, live)
	for _, entry := range remaining {
		entry.Phase = journal.PhaseRemoving
	}
	tx.Attachments = append(attached, remaining...)
	return errors.Join(err, e.restoreDefault(ctx, live, tx.Attachments), e.Journal.Write(ctx, rec))
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

// attachMore attaches all of the added networks, or none.
func (u *hotplug) attachMore(ctx context.Context, more []conf.Network) error {
	if len(more) == 0 {
		return nil
	}
	sub := *u.tx
	named := u.e.namedByNode(append(journal.Networks(u.tx.Attachments), more...))
	all, err := u.e.prepareEach(ctx, u.r, &sub, more, named)
	if err != nil {
		return errors.Join(err, releaseAll(ctx, all))
	}
	sub.Attachments = entriesOf(all)
	before := u.tx.Attachments
	for _, entry := range sub.Attachments {
		entry.Phase = journal.PhaseAdding
	}
	u.tx.Attachments = slices.Concat(before, sub.Attachments)
	pending, err := u.e.Journal.Begin(ctx, u.rec, true)
	if err != nil {
		err = errors.Join(err, releaseAll(ctx, all))
		u.tx.Attachments = before
		return err
	}
	if attempted, err := u.addMore(ctx, &sub, all, pending); err != nil {
		u.tx.Attachments = slices.Concat(before, sub.Attachments[:attempted])
		return errors.Join(err, u.detachUnfinished(delegates.Undoing(ctx)))
	}
	for _, entry := range sub.Attachments {
		u.change.Attached = append(u.change.Attached, entry.IfName+" ("+entry.Name+")")
	}
	return nil
}

// addMore adds the prepared attachments. attempted is the number of attachments whose plugins
// have run; after an error the reservations of the others are released.
func (u *hotplug) addMore(ctx context.Context, sub *journal.Transaction, all []*attachment, pending *journal.Pending) (attempted int, err error) {
	results, attempted, err := u.e.addEach(ctx, u.r, sub, all, pending)
	if err != nil {
		return attempted, errors.Join(err, releaseAll(ctx, all[attempted:]))
	}
	if err := sub.SetResults(results); err != nil {
		return attempted, err
	}
	if !slices.ContainsFunc(sub.Attachments, func(entry *journal.Entry) bool { return len(entry.DefaultRoute) > 0 }) {
		return attempted, nil
	}
	results, err = u.tx.Results()
	if err != nil {
		return attempted, err
	}
	err = u.e.routeDefault(ctx, u.r.Netns, u.tx.Attachments, results, func() error { return u.e.Journal.Write(ctx, u.rec) })
	return attempted, errors.Join(err, u.tx.SetResults(results))
}

// commit publishes all attachments and commits the change.
func (u *hotplug) commit(ctx context.Context, others []json.RawMessage) error {
	results, err := u.tx.Results()
	if err == nil { // before it is published: an element of network-status whose name is not recorded counts as foreign
		status.Note(u.tx, results)
		err = u.e.Journal.Write(ctx, u.rec)
	}
	if err == nil {
		err = u.publish(ctx, u.tx, results, others)
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
