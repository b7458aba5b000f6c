package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
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
	KindAbandoned  Kind = "abandoned"  // an operator has given up an attachment that executables do not undo
)

// Reconcile compares a sandbox with its record: it undoes unfinished requests, makes again
// what a datapath has lost without touching the pod, and reports differences. Only the
// built-ins are compared; plexusctl check executes CHECK of all plugins. Where the journal
// file is damaged behind the record, a request that seems unfinished may have finished: a
// live pod keeps its attachments.
// together is shared with the sandboxes that are compared in the same run.
func (e *Engine) Reconcile(ctx context.Context, sandbox string, together *delegates.Comparison) (all []Finding, err error) {
	err = e.withRecord(ctx, sandbox, func(ctx context.Context, rec *journal.Record) error {
		for _, tx := range slices.Clone(rec.Transactions) {
			findings, err := e.reconcile(ctx, rec, tx, together)
			for _, f := range findings {
				f.Sandbox, f.Pod = sandbox, tx.Pod
				all = append(all, f)
			}
			if err != nil {
				return fmt.Errorf("sandbox %s: %w", sandbox, err)
			}
		}
		return nil
	})
	return all, err
}

func (e *Engine) reconcile(ctx context.Context, rec *journal.Record, tx *journal.Transaction, together *delegates.Comparison) (findings []Finding, err error) {
	live := liveNetns(tx, "")
	damaged := rec.Damage != "" && live != ""
	if damaged {
		findings = append(findings, Finding{Kind: KindDamaged, What: fmt.Sprintf("%s; recorded is that %s is %s, and its network namespace is alive: nothing is undone before DEL", rec.Damage, tx.IfName, tx.Phase)})
	}
	switch phase := tx.Phase; {
	case phase != journal.PhaseAttached && damaged:
		return findings, nil
	case phase != journal.PhaseAttached:
		if err := e.detach(delegates.Undoing(ctx), rec, tx, ""); err != nil {
			return nil, err
		}
		return []Finding{{Kind: KindUnfinished, What: fmt.Sprintf("a request of %s was cut short (%s) and is undone", tx.IfName, phase)}}, nil
	case live == "":
		return []Finding{{Kind: KindGone, What: fmt.Sprintf("the network namespace %s is gone", tx.Netns)}}, nil
	}
	if !damaged {
		for _, entry := range tx.Attachments {
			if entry.Phase != "" {
				findings = append(findings, Finding{IfName: entry.IfName, Network: entry.Name, Kind: KindUnfinished, What: fmt.Sprintf("a change of the pod's networks was cut short (%s) and is undone", entry.Phase)})
			}
		}
		if err := e.detachUnfinished(delegates.Undoing(ctx), rec, tx, live); err != nil {
			return findings, err
		}
	}
	all := e.open(rec.Sandbox, tx, tx.Attachments, live)
	e.compareTogether(rec.Sandbox, all, together)
	for _, a := range all {
		if a.Phase != "" {
			continue // it has no result to compare
		}
		for _, f := range a.compare(ctx) {
			f.IfName, f.Network = a.IfName, a.Name
			findings = append(findings, f)
		}
	}
	return findings, nil
}

// compareTogether has the built-ins of attachments share what they read of an endpoint with those
// of other sandboxes. The sandbox is locked, so its record says when it was last changed.
func (e *Engine) compareTogether(sandbox string, all []*attachment, together *delegates.Comparison) {
	if together == nil {
		return
	}
	changed := e.Journal.Changed(sandbox)
	for _, a := range all {
		if a.errChain != nil {
			continue
		}
		for _, b := range a.chain.Builtins() {
			b.Comparison, b.Changed = together, changed
		}
	}
}

// compare makes the missing parts of an attachment again and reports differences.
func (a *attachment) compare(ctx context.Context) (all []Finding) {
	if err := a.unusable(); err != nil {
		return []Finding{{Kind: KindFailed, What: err.Error()}}
	}
	for _, b := range a.chain.Builtins() {
		all = append(all, compareBuiltin(ctx, b)...)
	}
	if err := a.compareLinks(); err != nil {
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
				if b.Network != nil && b.Network.Endpoint() != "" && !slices.Contains(endpoints[b.Name], b.Network.Endpoint()) {
					endpoints[b.Name] = append(endpoints[b.Name], b.Network.Endpoint())
				}
			}
		}
	}
	return endpoints
}
