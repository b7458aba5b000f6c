package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/plexus-cni/plexus/journal"
)

// Reclaim undoes all that is recorded of a sandbox. The attachments that abandon names, by
// interface or network, are given up where executables do not undo them: the decision is
// recorded first, and what was given up is returned. Where abandon names only what a change of
// a running pod's networks could not undo, the pod keeps the others.
func (e *Engine) Reclaim(ctx context.Context, sandbox string, abandon ...string) (given []Finding, err error) {
	if err := journal.CheckSandbox(sandbox); err != nil {
		return nil, err
	}
	err = e.withRecord(ctx, sandbox, func(ctx context.Context, rec *journal.Record) error {
		running := InUse(rec) && !InUse(rec, abandon...)
		if err := e.markAbandoned(ctx, rec, abandon, running); err != nil {
			return err
		}
		var errs []error
		for _, tx := range slices.Clone(rec.Transactions) {
			before := len(tx.Abandoned)
			if running {
				errs = append(errs, e.detachUnfinished(ctx, rec, tx, liveNetns(tx, "")))
			} else {
				errs = append(errs, e.detach(ctx, rec, tx, ""))
			}
			for _, what := range tx.Abandoned[before:] {
				given = append(given, Finding{Sandbox: sandbox, Pod: tx.Pod, Kind: KindAbandoned, What: what})
			}
		}
		return errors.Join(errs...)
	})
	return given, err
}

// InUse reports whether Reclaim would cut a running pod: a network namespace is there that
// neither the runtime nor a failure has plexus remove.
func InUse(rec *journal.Record, abandon ...string) bool {
	used := slices.ContainsFunc(rec.Transactions, func(tx *journal.Transaction) bool {
		return tx.Phase != journal.PhaseRemoving && liveNetns(tx, "") != ""
	})
	return used && (len(abandon) == 0 || slices.ContainsFunc(entriesNamed(rec, abandon), func(entry *journal.Entry) bool { return entry.Phase == "" }))
}

// entriesNamed are the attachments of a sandbox with these interfaces or networks.
func entriesNamed(rec *journal.Record, names []string) (all []*journal.Entry) {
	for _, tx := range rec.Transactions {
		for _, entry := range tx.Attachments {
			if slices.Contains(names, entry.IfName) || slices.Contains(names, entry.Name) {
				all = append(all, entry)
			}
		}
	}
	return all
}

// markAbandoned records which attachments an operator gives up, and that the others are undone
// too, unless they are those of a running pod.
func (e *Engine) markAbandoned(ctx context.Context, rec *journal.Record, names []string, running bool) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		entries := entriesNamed(rec, []string{name})
		for _, entry := range entries {
			entry.Phase = journal.PhaseAbandoned
		}
		if len(entries) == 0 {
			return fmt.Errorf("sandbox %s has no attachment %.80q: plexusctl show lists them", rec.Sandbox, name)
		}
	}
	for _, tx := range rec.Transactions {
		if !running {
			tx.Phase = journal.PhaseRemoving
		}
	}
	return e.Journal.Write(ctx, rec)
}

// Alive reports whether the network namespace of a recorded sandbox is still there.
func Alive(rec *journal.Record) bool {
	return slices.ContainsFunc(rec.Transactions, func(tx *journal.Transaction) bool { return liveNetns(tx, "") != "" })
}
