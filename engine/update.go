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

// Change says what Update did: interfaces with their networks, for people.
type Change struct {
	Sandbox            string
	Attached, Detached []string
}

// String tells of the change.
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

// Update gives a running pod the networks that its annotation asks for now: in
// the same transaction and journal as ADD, what goes before what comes. It
// returns nil when there is nothing to do. What others have attached
// stays.
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
	u := &hotplug{e: e, r: r, rec: rec, tx: tx, pod: pod, did: &Change{Sandbox: sandbox}}
	return u.did, u.run(ctx)
}

// isChanged reports whether the pod asks for other networks than it was given.
func isChanged(tx *journal.Transaction, pod *conf.Pod) bool {
	return tx.Conf != nil && tx.Phase == journal.PhaseAttached && tx.Pod != nil && tx.Pod.UID == pod.UID && tx.Networks != pod.Annotations[conf.NetworksAnnotation]
}

// requestOf is the request that a transaction answers, as far as it matters while the
// pod runs.
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

// hotplug is one Update under way.
type hotplug struct {
	e   *Engine
	r   *Request
	rec *journal.Record
	tx  *journal.Transaction
	pod *conf.Pod
	did *Change
}

func (u *hotplug) run(ctx context.Context) error {
	others := status.Others(u.tx, u.pod)
	if err := u.clear(ctx); err != nil {
		return err
	}
	gone, come, warnings, err := conf.Changes(u.r.Conf, u.pod, journal.Networks(u.tx.Attachments))
	if err != nil {
		return delegates.Coded(delegates.CodeConfig, err)
	}
	for _, w := range warnings {
		u.e.Log.Warn(w)
	}
	kept := slices.Clone(u.tx.Attachments)
	for _, at := range slices.Backward(gone) {
		kept = slices.Delete(kept, at, at+1)
	}
	more, err := u.plan(ctx, come, journal.Networks(kept))
	if err != nil {
		return err
	}
	for _, at := range gone {
		entry := u.tx.Attachments[at]
		entry.Phase = journal.PhaseRemoving
		u.did.Detached = append(u.did.Detached, entry.IfName+" ("+entry.Name+")")
	}
	if len(gone) > 0 {
		u.tx.Networks = unsettled // the pod may ask for them again before this is done
	}
	if err := u.clear(ctx); err != nil {
		return err
	}
	if err := u.attachMore(ctx, more); err != nil {
		if len(gone) > 0 {
			err = errors.Join(err, u.tellWhole(delegates.Undoing(ctx), others))
		}
		return err
	}
	return u.commit(ctx, others)
}

// unsettled is what no pod asks for.
const unsettled = "\x00"

// tellWhole tells of the attachments that are whole.
func (u *hotplug) tellWhole(ctx context.Context, others []json.RawMessage) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	whole := *u.tx
	whole.Attachments = slices.DeleteFunc(slices.Clone(u.tx.Attachments), func(entry *journal.Entry) bool { return entry.Phase != "" })
	results, err := whole.Results()
	if err != nil {
		return err
	}
	return u.tell(ctx, &whole, results, others)
}

func (u *hotplug) tell(ctx context.Context, tx *journal.Transaction, results []*types100.Result, others []json.RawMessage) error {
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

// clear undoes the attachments that are on their way in or out, those that an
// earlier Update has left among them.
func (u *hotplug) clear(ctx context.Context) error {
	return u.e.clearEntries(ctx, u.rec, u.tx, u.r.Netns)
}

func (e *Engine) clearEntries(ctx context.Context, rec *journal.Record, tx *journal.Transaction, live string) error {
	var stay, going []*journal.Entry
	for _, entry := range tx.Attachments {
		if entry.Phase == "" {
			stay = append(stay, entry)
		} else {
			going = append(going, entry)
		}
	}
	if len(going) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := e.Journal.Write(ctx, rec); err != nil {
		return err
	}
	left, err := e.detachEach(ctx, rec.Sandbox, tx, going, live)
	for _, entry := range left {
		entry.Phase = journal.PhaseRemoving
	}
	tx.Attachments = append(stay, left...)
	return errors.Join(err, e.restoreDefault(ctx, live, tx.Attachments), e.Journal.Write(ctx, rec))
}

// plan looks the networks that come up, and names their interfaces.
func (u *hotplug) plan(ctx context.Context, come []conf.Reference, kept []conf.Network) ([]conf.Network, error) {
	come, definitions, err := u.e.lookUp(ctx, u.pod, come, kept)
	if err != nil {
		return nil, err
	}
	names, err := podnet.LinkNames(u.r.Netns)
	if err != nil {
		return nil, fmt.Errorf("interfaces of pod %s: %w", u.pod, err)
	}
	taken := slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(u.tx.Attachments, func(entry *journal.Entry) bool { return entry.IfName == name })
	})
	more, err := conf.ResolveMore(u.r.Conf, come, definitions, kept, taken, u.r.Args)
	return more, delegates.Coded(delegates.CodeConfig, err)
}

// attachMore attaches all of the networks, or none.
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
	if begun, err := u.addMore(ctx, &sub, all, pending); err != nil {
		u.tx.Attachments = slices.Concat(before, sub.Attachments[:begun])
		return errors.Join(err, u.clear(delegates.Undoing(ctx)))
	}
	for _, entry := range sub.Attachments {
		u.did.Attached = append(u.did.Attached, entry.IfName+" ("+entry.Name+")")
	}
	return nil
}

// addMore adds what was prepared. With an error, begun is how many were begun; of the
// others nothing is reserved any more.
func (u *hotplug) addMore(ctx context.Context, sub *journal.Transaction, all []*attachment, pending *journal.Pending) (begun int, err error) {
	results, begun, err := u.e.addEach(ctx, u.r, sub, all, pending)
	if err != nil {
		return begun, errors.Join(err, releaseAll(ctx, all[begun:]))
	}
	if err := sub.SetResults(results); err != nil {
		return begun, err
	}
	if !slices.ContainsFunc(sub.Attachments, func(entry *journal.Entry) bool { return len(entry.DefaultRoute) > 0 }) {
		return begun, nil
	}
	results, err = u.tx.Results()
	if err != nil {
		return begun, err
	}
	err = u.e.routeDefault(ctx, u.r.Netns, u.tx.Attachments, results, func() error { return u.e.Journal.Write(ctx, u.rec) })
	return begun, errors.Join(err, u.tx.SetResults(results))
}

// commit tells of all attachments and ends the change.
func (u *hotplug) commit(ctx context.Context, others []json.RawMessage) error {
	results, err := u.tx.Results()
	if err == nil { // before it is told: what was told and is not known would be somebody else's for ever
		status.Note(u.tx, results)
		err = u.e.Journal.Write(ctx, u.rec)
	}
	if err == nil {
		err = u.tell(ctx, u.tx, results, others)
	}
	if err != nil {
		return errors.Join(err, u.clear(delegates.Undoing(ctx)))
	}
	for _, entry := range u.tx.Attachments {
		entry.Phase = ""
	}
	u.tx.Networks = u.pod.Annotations[conf.NetworksAnnotation]
	return u.e.Journal.Write(ctx, u.rec)
}
