package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/conf"
)

// Finding is one thing that Reconcile did, or saw and left alone.
type Finding struct {
	Sandbox string    `json:"sandbox"`
	Pod     *conf.Pod `json:"pod,omitempty"`
	IfName  string    `json:"ifName,omitempty"`
	Network string    `json:"network,omitempty"`
	Kind    Kind      `json:"kind"`
	What    string    `json:"what"`
}

// Kind is what a Finding is about.
type Kind string

// The kinds of findings.
const (
	FoundUnfinished Kind = "unfinished" // a request that was cut short; it is undone
	FoundMissing    Kind = "missing"    // of an attachment; it is made again
	FoundDifferent  Kind = "different"  // from what was made; it is left alone
	FoundGone       Kind = "gone"       // the network namespace; Reclaim may undo the sandbox
	FoundFailed     Kind = "failed"     // to look, or to make again
	FoundLocked     Kind = "locked"     // another request works on the sandbox, which was skipped
	FoundDamaged    Kind = "damaged"    // the journal file, behind its last whole record
)

// Reconcile compares a sandbox with the world: what was cut short is undone,
// what a datapath has lost is made again without touching the pod, what differs
// is told. Only the built-ins are asked; plexusctl check asks executables too.
// Where the journal file is damaged behind the record, a request that seems to be cut
// short may have been finished: nothing of a pod that lives is undone for it.
func (e *Engine) Reconcile(ctx context.Context, sandbox string) ([]Finding, error) {
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.Journal.Read(sandbox)
	if err != nil || rec == nil {
		return nil, err
	}
	var all []Finding
	for _, tx := range slices.Clone(rec.Transactions) {
		found, err := e.reconcile(ctx, rec, tx)
		for _, f := range found {
			f.Sandbox, f.Pod = sandbox, tx.Pod
			all = append(all, f)
		}
		if err != nil {
			return all, fmt.Errorf("sandbox %s: %w", sandbox, err)
		}
	}
	return all, nil
}

func (e *Engine) reconcile(ctx context.Context, rec *Record, tx *Transaction) ([]Finding, error) {
	live := tx.liveNetns("")
	var found []Finding
	damaged := rec.Damage != "" && live != ""
	if damaged {
		found = append(found, Finding{Kind: FoundDamaged, What: fmt.Sprintf("%s; recorded is that %s is %s, and its network namespace is alive: nothing is undone before DEL", rec.Damage, tx.IfName, tx.Phase)})
		if tx.Phase != PhaseAttached {
			return found, nil
		}
	}
	if tx.Phase != PhaseAttached {
		phase := tx.Phase
		if err := e.detach(conf.Undoing(ctx), rec, tx, ""); err != nil {
			return nil, err
		}
		return []Finding{{Kind: FoundUnfinished, What: fmt.Sprintf("a request of %s was cut short (%s) and is undone", tx.IfName, phase)}}, nil
	}
	if live == "" {
		return []Finding{{Kind: FoundGone, What: fmt.Sprintf("the network namespace %s is gone", tx.Netns)}}, nil
	}
	for _, entry := range tx.Attachments {
		if entry.Phase != "" && !damaged {
			found = append(found, Finding{IfName: entry.IfName, Network: entry.Name, Kind: FoundUnfinished, What: fmt.Sprintf("a change of the pod's networks was cut short (%s) and is undone", entry.Phase)})
		}
	}
	if !damaged {
		if err := e.clearEntries(conf.Undoing(ctx), rec, tx, live); err != nil {
			return found, err
		}
	}
	for _, entry := range tx.Attachments {
		if damaged && entry.Phase != "" {
			continue // it has no result to compare
		}
		for _, f := range e.compare(ctx, rec.Sandbox, tx, entry, live) {
			f.IfName, f.Network = entry.IfName, entry.Name
			found = append(found, f)
		}
	}
	return found, nil
}

// compare makes again what of an attachment is missing and tells what differs.
func (e *Engine) compare(ctx context.Context, sandbox string, tx *Transaction, entry *Entry, live string) []Finding {
	result, err := entry.ParseResult()
	if err != nil {
		return []Finding{{Kind: FoundFailed, What: err.Error()}}
	}
	var found []Finding
	err = e.eachOfChain(sandbox, tx, entry, live, func(name string, a conf.Attachment, state json.RawMessage) error {
		a.IPAM = result
		d := e.Delegates[name]
		if r, ok := d.(Restorer); ok {
			made, err := r.Restore(ctx, a, state)
			for _, what := range made {
				found = append(found, Finding{Kind: FoundMissing, What: "made again: " + what})
			}
			if err != nil {
				found = append(found, Finding{Kind: FoundFailed, What: fmt.Sprintf("make again: %v", err)})
				return nil // CHECK would say the same
			}
		}
		if err := d.Check(ctx, a, state); err != nil {
			found = append(found, Finding{Kind: FoundDifferent, What: err.Error()})
		}
		return nil
	})
	if err != nil {
		found = append(found, Finding{Kind: FoundFailed, What: err.Error()})
	}
	if err := errors.Join(compareLinks(live, result), compareDefault(live, entry)); err != nil {
		found = append(found, Finding{Kind: FoundDifferent, What: err.Error()})
	}
	return found
}

// Reclaim undoes all that is recorded of a sandbox.
func (e *Engine) Reclaim(ctx context.Context, sandbox string) error {
	if err := checkSandbox(sandbox); err != nil {
		return err
	}
	ctx, unlock, err := e.lock(ctx, sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := e.Journal.Read(sandbox)
	if err != nil || rec == nil {
		return err
	}
	var errs []error
	for _, tx := range slices.Clone(rec.Transactions) {
		errs = append(errs, e.detach(ctx, rec, tx, ""))
	}
	return errors.Join(errs...)
}

// Places are what the recorded attachments of a sandbox attach to, by delegate.
func (e *Engine) Places(rec *Record) map[string][]string {
	places := map[string][]string{}
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			for i, typ := range entry.List.Types() {
				w, ok := e.Delegates[typ].(Watcher)
				if !ok || entry.Executed {
					continue
				}
				if place, err := w.Place(entry.List.Plugins[i]); err == nil && place != "" && !slices.Contains(places[typ], place) {
					places[typ] = append(places[typ], place)
				}
			}
		}
	}
	return places
}

// Alive reports whether the network namespace of a recorded sandbox is still there.
func (rec *Record) Alive() bool {
	return slices.ContainsFunc(rec.Transactions, func(tx *Transaction) bool { return tx.liveNetns("") != "" })
}
