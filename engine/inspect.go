package engine

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
)

// Datapath is the state of one attachment in its datapath and in the kernel.
type Datapath struct {
	Sandbox     string                       `json:"sandbox"`
	IfName      string                       `json:"ifName"`
	Network     string                       `json:"network"`
	Facts       map[string]map[string]string `json:"facts"` // by delegate; "link" is the pod's kernel link
	Differences string                       `json:"differences,omitempty"`
}

// inspections is how many attachments of a sandbox are inspected at the same time.
const inspections = 8

// Inspect reads the state of each attachment of a recorded sandbox from datapath and kernel,
// and CHECKs it. Nothing is changed. Attachments are inspected in parallel, so a datapath
// that does not answer delays no other. An answer that is missing when ctx is done is a
// difference.
func (e *Engine) Inspect(ctx context.Context, rec *journal.Record) []Datapath {
	var all []func() Datapath
	for _, tx := range rec.Transactions {
		live := liveNetns(tx, "")
		for _, entry := range tx.Attachments {
			all = append(all, func() Datapath { return e.inspect(ctx, rec, tx, entry, live) })
		}
	}
	datapaths := make([]Datapath, len(all))
	var group sync.WaitGroup
	room := make(chan bool, inspections)
	for i, inspect := range all {
		room <- true
		group.Go(func() {
			defer func() { <-room }()
			datapaths[i] = inspect()
		})
	}
	group.Wait()
	return datapaths
}

func (e *Engine) inspect(ctx context.Context, rec *journal.Record, tx *journal.Transaction, entry *journal.Entry, live string) Datapath {
	sandbox := rec.Sandbox
	d := Datapath{Sandbox: sandbox, IfName: entry.IfName, Network: entry.Name}
	facts, err := e.facts(ctx, sandbox, tx, entry, live)
	errs := []error{err}
	d.Facts = facts
	switch {
	case rec.Damage != "":
		errs = append(errs, errors.New(rec.Damage+": it is undone by DEL"))
	case tx.Phase != journal.PhaseAttached || entry.Phase != "":
		errs = append(errs, errors.New("a request was cut short: it is undone by the agent, or by DEL"))
	case live == "":
		errs = append(errs, errors.New("the network namespace "+tx.Netns+" is gone"))
	default:
		if delegates.AllUnavailable(errs[0]) == nil { // CHECK would report the same
			errs = append(errs, e.checkOne(ctx, sandbox, tx, entry, live))
		}
		if facts := linkFacts(live, entry); facts != nil {
			d.Facts["link"] = facts
		}
	}
	if err := errors.Join(errs...); err != nil {
		d.Differences = err.Error()
	}
	return d
}

// facts are the facts of the built-ins' datapaths, by plugin type.
func (e *Engine) facts(ctx context.Context, sandbox string, tx *journal.Transaction, entry *journal.Entry, live string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	a, err := e.open(sandbox, tx, entry, live)
	if err != nil {
		return all, err
	}
	for _, b := range a.chain.Builtins() {
		if b.Network == nil {
			continue // CHECK reports the refusal
		}
		facts, err := b.Network.Inspect(ctx, b.Attachment)
		if len(facts) > 0 {
			all[b.Type] = maps.Clone(facts)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// linkFacts are the facts of the attachment's kernel link; nil when it has none.
func linkFacts(live string, entry *journal.Entry) map[string]string {
	r, err := entry.ParseResult()
	if err != nil {
		return nil
	}
	return podnet.Facts(live, r)
}

// CheckAll is CHECK for every attachment of a recorded sandbox.
func (e *Engine) CheckAll(ctx context.Context, rec *journal.Record) error {
	var errs []error
	for _, tx := range rec.Transactions {
		r := &Request{Sandbox: rec.Sandbox, Netns: liveNetns(tx, ""), IfName: tx.IfName, Path: tx.Path}
		if r.Netns == "" {
			errs = append(errs, errors.New("the network namespace "+tx.Netns+" is gone"))
			continue
		}
		errs = append(errs, e.Check(ctx, r))
	}
	return errors.Join(errs...)
}
