package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sync/errgroup"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// Check compares every attachment of a request with its record: first by each plugin's own
// CHECK, then by the links, addresses and default routes in the pod. It reports all
// differences.
func (e *Engine) Check(ctx context.Context, r *Request) error { return e.checkWith(ctx, r, nil) }

func (e *Engine) checkWith(ctx context.Context, r *Request, together *delegates.Comparison) error {
	if err := r.checkIdentity(); err != nil {
		return err
	}
	ctx, unlock, err := e.lock(ctx, r.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := e.Journal.Read(r.Sandbox)
	if err != nil {
		return err
	}
	tx := rec.Find(r.IfName)
	if tx == nil {
		return delegates.Coded(delegates.CodeUnknownContainer, fmt.Errorf("sandbox %s: interface %s is not attached by plexus", r.Sandbox, r.IfName))
	}
	if rec.Damage != "" {
		return fmt.Errorf("sandbox %s: interface %s: %s; recorded is that it is %s: DEL it", r.Sandbox, r.IfName, rec.Damage, tx.Phase)
	}
	if tx.Phase != journal.PhaseAttached {
		return fmt.Errorf("sandbox %s: interface %s: the last request was cut short (%s): DEL it", r.Sandbox, r.IfName, tx.Phase)
	}
	netns := liveNetns(tx, r.Netns)
	if netns == "" {
		return fmt.Errorf("sandbox %s: its network namespace %s is gone", r.Sandbox, tx.Netns)
	}
	tx.Path = plugin.SearchPath(e.path(r), tx.Path)
	var errs []error
	all := e.open(r.Sandbox, tx, tx.Attachments, netns)
	e.compareTogether(r.Sandbox, all, together)
	for _, a := range all {
		err := fmt.Errorf("a change of the pod's networks was cut short (%s)", a.Phase)
		if a.Phase == "" {
			err = a.check(ctx)
		}
		errs = append(errs, a.errorf("check", err))
	}
	return errors.Join(errs...)
}

func (a *attachment) check(ctx context.Context) error {
	if err := a.unusable(); err != nil {
		return err
	}
	return errors.Join(a.chain.Check(ctx), a.compareLinks())
}

// CheckAll is CHECK for every attachment of a recorded sandbox. together is as for Reconcile.
func (e *Engine) CheckAll(ctx context.Context, rec *journal.Record, together *delegates.Comparison) error {
	var errs []error
	for _, tx := range rec.Transactions {
		errs = append(errs, e.checkWith(ctx, &Request{Sandbox: rec.Sandbox, Netns: tx.Netns, IfName: tx.IfName, Path: tx.Path}, together))
	}
	return errors.Join(errs...)
}

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
	var all []*attachment
	for _, tx := range rec.Transactions {
		all = append(all, e.open(rec.Sandbox, tx, tx.Attachments, liveNetns(tx, ""))...)
	}
	datapaths := make([]Datapath, len(all))
	var group errgroup.Group
	group.SetLimit(inspections)
	for i, a := range all {
		group.Go(func() error {
			datapaths[i] = a.inspect(ctx, rec)
			return nil
		})
	}
	_ = group.Wait() // no error
	return datapaths
}

func (a *attachment) inspect(ctx context.Context, rec *journal.Record) Datapath {
	d := Datapath{Sandbox: rec.Sandbox, IfName: a.IfName, Network: a.Name, Facts: map[string]map[string]string{}}
	err := a.facts(ctx, d.Facts)
	switch {
	case rec.Damage != "":
		err = errors.Join(err, errors.New(rec.Damage+": it is undone by DEL"))
	case a.tx.Phase != journal.PhaseAttached || a.Phase != "":
		err = errors.Join(err, errors.New("a request was cut short: it is undone by the agent, or by DEL"))
	case a.netns == "":
		err = errors.Join(err, errors.New("the network namespace "+a.tx.Netns+" is gone"))
	default:
		if a.errChain == nil && delegates.AllUnavailable(err) == nil { // CHECK would report the same
			err = errors.Join(err, a.check(ctx))
		}
		if a.result == nil {
			break
		}
		if facts := podnet.Facts(a.netns, a.result); facts != nil {
			d.Facts["link"] = facts
		}
	}
	if err != nil {
		d.Differences = err.Error()
	}
	return d
}

// facts adds the facts of the built-ins' datapaths, by plugin type.
func (a *attachment) facts(ctx context.Context, facts map[string]map[string]string) error {
	if a.errChain != nil {
		return a.errChain
	}
	for _, b := range a.chain.Builtins() {
		if b.Network == nil {
			continue // CHECK reports the refusal
		}
		have, err := b.Network.Inspect(ctx, b.Attachment)
		if len(have) > 0 {
			facts[b.Type] = maps.Clone(have)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
