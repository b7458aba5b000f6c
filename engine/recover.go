package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// Finding is one deviation from the record that Reconcile repaired or reports.
type Finding struct {
	Sandbox string    `json:"sandbox"`
	Pod     *conf.Pod `json:"pod,omitempty"`
	IfName  string    `json:"ifName,omitempty"`
	Network string    `json:"network,omitempty"`
	Kind    Kind      `json:"kind"`
	What    string    `json:"what"`
}

// Kind is the kind of a Finding.
type Kind string

// The kinds of findings.
const (
	KindUnfinished Kind = "unfinished" // a request did not finish; it is undone
	KindMissing    Kind = "missing"    // the datapath has lost a part of an attachment; it is made again
	KindDifferent  Kind = "different"  // an attachment differs from its record; it is left alone
	KindGone       Kind = "gone"       // the network namespace is gone; Reclaim may undo the sandbox
	KindFailed     Kind = "failed"     // comparing or repairing failed
	KindLocked     Kind = "locked"     // another request has the sandbox locked; it was skipped
	KindDamaged    Kind = "damaged"    // the journal file is damaged behind its last whole record
)

// Reconcile compares a sandbox with its record: it undoes unfinished requests, makes again
// what a datapath has lost without touching the pod, and reports differences. Only the
// built-ins are compared; plexusctl check executes CHECK of all plugins. Where the journal
// file is damaged behind the record, a request that seems unfinished may have finished: a
// live pod keeps its attachments.
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
		findings, err := e.reconcile(ctx, rec, tx)
		for _, f := range findings {
			f.Sandbox, f.Pod = sandbox, tx.Pod
			all = append(all, f)
		}
		if err != nil {
			return all, fmt.Errorf("sandbox %s: %w", sandbox, err)
		}
	}
	return all, nil
}

func (e *Engine) reconcile(ctx context.Context, rec *journal.Record, tx *journal.Transaction) ([]Finding, error) {
	live := liveNetns(tx, "")
	var findings []Finding
	damaged := rec.Damage != "" && live != ""
	if damaged {
		findings = append(findings, Finding{Kind: KindDamaged, What: fmt.Sprintf("%s; recorded is that %s is %s, and its network namespace is alive: nothing is undone before DEL", rec.Damage, tx.IfName, tx.Phase)})
		if tx.Phase != journal.PhaseAttached {
			return findings, nil
		}
	}
	if tx.Phase != journal.PhaseAttached {
		phase := tx.Phase
		if err := e.detach(delegates.Undoing(ctx), rec, tx, ""); err != nil {
			return nil, err
		}
		return []Finding{{Kind: KindUnfinished, What: fmt.Sprintf("a request of %s was cut short (%s) and is undone", tx.IfName, phase)}}, nil
	}
	if live == "" {
		return []Finding{{Kind: KindGone, What: fmt.Sprintf("the network namespace %s is gone", tx.Netns)}}, nil
	}
	for _, entry := range tx.Attachments {
		if entry.Phase != "" && !damaged {
			findings = append(findings, Finding{IfName: entry.IfName, Network: entry.Name, Kind: KindUnfinished, What: fmt.Sprintf("a change of the pod's networks was cut short (%s) and is undone", entry.Phase)})
		}
	}
	if !damaged {
		if err := e.detachUnfinished(delegates.Undoing(ctx), rec, tx, live); err != nil {
			return findings, err
		}
	}
	for _, entry := range tx.Attachments {
		if damaged && entry.Phase != "" {
			continue // it has no result to compare
		}
		for _, f := range e.compare(ctx, rec.Sandbox, tx, entry, live) {
			f.IfName, f.Network = entry.IfName, entry.Name
			findings = append(findings, f)
		}
	}
	return findings, nil
}

// compare makes the missing parts of an attachment again and reports differences.
func (e *Engine) compare(ctx context.Context, sandbox string, tx *journal.Transaction, entry *journal.Entry, live string) []Finding {
	result, err := entry.ParseResult()
	var a *attachment
	if err == nil {
		a, err = e.open(sandbox, tx, entry, live)
	}
	if err != nil {
		return []Finding{{Kind: KindFailed, What: err.Error()}}
	}
	var all []Finding
	for _, b := range a.chain.Builtins() {
		all = append(all, compareBuiltin(ctx, b)...)
	}
	if err := errors.Join(podnet.CompareLinks(live, result), podnet.CompareDefault(live, entry.IfName, entry.DefaultRoute)); err != nil {
		all = append(all, Finding{Kind: KindDifferent, What: err.Error()})
	}
	return all
}

func compareBuiltin(ctx context.Context, b *plugin.Builtin) []Finding {
	if b.Refused != nil {
		return []Finding{{Kind: KindFailed, What: b.Refused.Error()}}
	}
	var all []Finding
	restored, err := b.Network.Restore(ctx, b.Attachment)
	for _, what := range restored {
		all = append(all, Finding{Kind: KindMissing, What: "made again: " + what})
	}
	if err != nil { // CHECK would report the same
		return append(all, Finding{Kind: KindFailed, What: fmt.Sprintf("make again: %v", err)})
	}
	if err := b.Network.Check(ctx, b.Attachment); err != nil {
		all = append(all, Finding{Kind: KindDifferent, What: err.Error()})
	}
	return all
}

// Reclaim undoes all that is recorded of a sandbox.
func (e *Engine) Reclaim(ctx context.Context, sandbox string) error {
	if err := journal.CheckSandbox(sandbox); err != nil {
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

// Endpoints are the vswitches of the recorded attachments of a sandbox, by the delegate's
// name in the table.
func Endpoints(table plugin.Table, rec *journal.Record) map[string][]string {
	endpoints := map[string][]string{}
	r := &plugin.Runner{Delegates: table}
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			c, err := r.Chain(plugin.Request{Network: entry.Network, Sandbox: rec.Sandbox, Executed: entry.Executed})
			if err != nil {
				continue // CHECK reports the error
			}
			for _, b := range c.Builtins() {
				if b.Network == nil || b.Network.Endpoint() == "" || slices.Contains(endpoints[b.Name], b.Network.Endpoint()) {
					continue
				}
				endpoints[b.Name] = append(endpoints[b.Name], b.Network.Endpoint())
			}
		}
	}
	return endpoints
}
