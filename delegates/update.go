package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/netns"
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
	at := slices.IndexFunc(rec.Transactions, func(tx *Transaction) bool { return tx.changed(pod) })
	if at < 0 {
		return nil, nil
	}
	if rec.Damage != "" {
		return nil, fmt.Errorf("sandbox %s: %s; its networks are not changed before the pod is made anew", sandbox, rec.Damage)
	}
	tx := rec.Transactions[at]
	r, err := tx.request(sandbox)
	if err != nil {
		return nil, err
	}
	u := &hotplug{Engine: e, r: r, rec: rec, tx: tx, pod: pod, did: &Change{Sandbox: sandbox}}
	return u.did, u.run(ctx)
}

// changed reports whether the pod asks for other networks than it was given.
func (tx *Transaction) changed(pod *conf.Pod) bool {
	return tx.Conf != nil && tx.Phase == PhaseAttached && tx.Pod != nil && tx.Pod.UID == pod.UID && tx.Networks != pod.Annotations[conf.NetworksAnnotation]
}

// request is the request that the transaction answers, as far as it matters while
// the pod runs.
func (tx *Transaction) request(sandbox string) (*Request, error) {
	c, err := conf.Parse(tx.Conf)
	if err != nil {
		return nil, fmt.Errorf("recorded configuration: %w", err)
	}
	r := &Request{Conf: c, Network: tx.Network, Stdin: tx.Conf, Sandbox: sandbox, Netns: tx.liveNetns(""), IfName: tx.IfName, Path: tx.Path, ID: tx.Request}
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
	*Engine
	r   *Request
	rec *Record
	tx  *Transaction
	pod *conf.Pod
	did *Change
}

func (u *hotplug) run(ctx context.Context) error {
	others := u.tx.others(u.pod)
	if err := u.clear(ctx); err != nil {
		return err
	}
	gone, come, warnings, err := conf.Changes(u.r.Conf, u.pod, networks(u.tx.Attachments))
	if err != nil {
		return coded(codeConfig, err)
	}
	for _, w := range warnings {
		u.Log.Warn(w)
	}
	kept := slices.Clone(u.tx.Attachments)
	for _, at := range slices.Backward(gone) {
		kept = slices.Delete(kept, at, at+1)
	}
	more, err := u.plan(ctx, come, networks(kept))
	if err != nil {
		return err
	}
	for _, at := range gone {
		entry := u.tx.Attachments[at]
		entry.Phase = PhaseRemoving
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
			err = errors.Join(err, u.tellWhole(conf.Undoing(ctx), others))
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
	whole.Attachments = slices.DeleteFunc(slices.Clone(u.tx.Attachments), func(entry *Entry) bool { return entry.Phase != "" })
	results, err := whole.results()
	if err != nil {
		return err
	}
	return u.tell(ctx, &whole, results, others)
}

func (u *hotplug) tell(ctx context.Context, tx *Transaction, results []*types100.Result, others []json.RawMessage) error {
	annotations, err := u.status(ctx, u.r, tx, results, others)
	if err != nil {
		return err
	}
	return u.publish(ctx, u.r, tx, annotations)
}

// clear undoes the attachments that are on their way in or out, those that an
// earlier Update has left among them.
func (u *hotplug) clear(ctx context.Context) error {
	return u.clearEntries(ctx, u.rec, u.tx, u.r.Netns)
}

func (e *Engine) clearEntries(ctx context.Context, rec *Record, tx *Transaction, live string) error {
	var stay, going []*Entry
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
		entry.Phase = PhaseRemoving
	}
	tx.Attachments = append(stay, left...)
	return errors.Join(err, e.restoreDefault(ctx, live, tx.Attachments), e.Journal.Write(ctx, rec))
}

// plan looks the networks that come up, and names their interfaces.
func (u *hotplug) plan(ctx context.Context, come []conf.Wanted, kept []conf.Network) ([]conf.Network, error) {
	come, definitions, err := u.lookUp(ctx, u.pod, come, kept)
	if err != nil {
		return nil, err
	}
	var taken []string
	err = inNetns(u.r.Netns, func(h *netlink.Handle) error {
		links, err := netns.Dump(h.LinkList)
		for _, link := range links {
			name := link.Attrs().Name
			if !slices.ContainsFunc(u.tx.Attachments, func(entry *Entry) bool { return entry.IfName == name }) {
				taken = append(taken, name)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("interfaces of pod %s: %w", u.pod, err)
	}
	more, err := conf.ResolveMore(u.r.Conf, come, definitions, kept, taken, u.r.Args)
	return more, coded(codeConfig, err)
}

// attachMore attaches all of the networks, or none.
func (u *hotplug) attachMore(ctx context.Context, more []conf.Network) error {
	if len(more) == 0 {
		return nil
	}
	sub := *u.tx
	sub.Attachments = nil
	named := u.namedByNode(append(networks(u.tx.Attachments), more...))
	for _, n := range more {
		if err := u.prepareOne(ctx, u.r, &sub, n, named); err != nil {
			return errors.Join(err, u.release(ctx, u.r, &sub))
		}
	}
	before := u.tx.Attachments
	for _, entry := range sub.Attachments {
		entry.Phase = PhaseAdding
	}
	u.tx.Attachments = slices.Concat(before, sub.Attachments)
	onDisk, err := u.Journal.Begin(ctx, u.rec, true)
	if err != nil {
		err = errors.Join(err, u.release(ctx, u.r, &sub))
		u.tx.Attachments = before
		return err
	}
	err = u.addMore(ctx, &sub, onDisk)
	if err != nil {
		u.tx.Attachments = slices.Concat(before, sub.Attachments) // those that were begun
		return errors.Join(err, u.clear(conf.Undoing(ctx)))
	}
	for _, entry := range sub.Attachments {
		u.did.Attached = append(u.did.Attached, entry.IfName+" ("+entry.Name+")")
	}
	return nil
}

func (u *hotplug) addMore(ctx context.Context, sub *Transaction, onDisk func() error) error {
	results, err := u.addEach(ctx, u.r, sub, onDisk)
	if err != nil {
		return err
	}
	if err := u.settle(ctx, u.r, sub, results); err != nil {
		return err
	}
	if err := sub.setResults(results); err != nil {
		return err
	}
	if !slices.ContainsFunc(sub.Attachments, func(entry *Entry) bool { return len(entry.DefaultRoute) > 0 }) {
		return nil
	}
	all, err := u.tx.results()
	if err != nil {
		return err
	}
	err = u.routeDefault(ctx, u.r.Netns, u.tx.Attachments, all, func() error { return u.Journal.Write(ctx, u.rec) })
	return errors.Join(err, u.tx.setResults(all))
}

// commit tells of all attachments and ends the change.
func (u *hotplug) commit(ctx context.Context, others []json.RawMessage) error {
	results, err := u.tx.results()
	if err == nil { // before it is told: what was told and is not known would be somebody else's for ever
		u.tx.willPublish(results)
		err = u.Journal.Write(ctx, u.rec)
	}
	if err == nil {
		err = u.tell(ctx, u.tx, results, others)
	}
	if err != nil {
		return errors.Join(err, u.clear(conf.Undoing(ctx)))
	}
	for _, entry := range u.tx.Attachments {
		entry.Phase = ""
	}
	u.tx.Networks = u.pod.Annotations[conf.NetworksAnnotation]
	return u.Journal.Write(ctx, u.rec)
}

func networks(entries []*Entry) []conf.Network {
	all := make([]conf.Network, len(entries))
	for i, entry := range entries {
		all[i] = entry.Network
	}
	return all
}
