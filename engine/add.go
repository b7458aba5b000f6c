package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/status"
)

// Add wires a pod: every network or none. It returns the result of ADD, as the key
// result of the configuration says.
func (e *Engine) Add(ctx context.Context, r *Request) (*types100.Result, error) {
	if err := r.checkIdentity(); err != nil {
		return nil, err
	}
	if err := awaitReadiness(ctx, r.Conf); err != nil {
		return nil, err
	}
	pod, plan, err := e.Plan(ctx, r)
	if err != nil {
		return nil, err
	}
	e.warn(plan.Warnings)
	ctx, unlock, err := e.lock(ctx, r.Sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.recordForAdd(ctx, r)
	if err != nil {
		return nil, err
	}
	if tx := rec.Find(r.IfName); tx != nil { // the same request again: its first answer was lost
		results, err := tx.Results()
		if err != nil {
			return nil, err
		}
		return addResult(r, tx, results), nil
	}
	tx, all, err := e.prepare(ctx, r, pod, plan)
	if err != nil {
		return nil, err
	}
	rec.Transactions = append(rec.Transactions, tx)
	result, err := e.attach(ctx, r, rec, tx, all)
	if err != nil {
		return nil, errors.Join(err, e.detach(delegates.Undoing(ctx), rec, tx, r.Netns))
	}
	return result, nil
}

// recordForAdd returns the record that the transaction will be added to. It refuses the
// ADD of an attached interface, unless it is the same request again, and undoes an earlier
// ADD that was killed.
func (e *Engine) recordForAdd(ctx context.Context, r *Request) (*journal.Record, error) {
	rec, err := e.Journal.Read(r.Sandbox)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; DEL of the sandbox undoes what can be found and sets the file aside", err)
	case rec == nil:
		return &journal.Record{Sandbox: r.Sandbox}, nil
	case rec.Damage != "":
		return nil, fmt.Errorf("sandbox %s: %s; DEL of the sandbox undoes what is recorded", r.Sandbox, rec.Damage)
	}
	tx := rec.Find(r.IfName)
	switch {
	case tx == nil:
		return rec, nil
	case tx.Phase == journal.PhaseAttached && r.ID != "" && tx.Request == r.ID:
		return rec, nil
	case tx.Phase == journal.PhaseAttached:
		return nil, fmt.Errorf("sandbox %s: interface %s is attached to network %s since %s: DEL it first", r.Sandbox, r.IfName, tx.Network, tx.Started.Format(time.RFC3339))
	}
	e.Log.Warn("an earlier request was cut short; undoing it", "sandbox", r.Sandbox, "phase", tx.Phase)
	return rec, e.detach(delegates.Undoing(ctx), rec, tx, r.Netns)
}

// prepare makes the transaction of a plan. It finds every plugin and has the built-ins plan
// their attachments. The only changes are reservations; after an error they are given back.
func (e *Engine) prepare(ctx context.Context, r *Request, pod *conf.Pod, plan *conf.Plan) (*journal.Transaction, []*attachment, error) {
	tx := &journal.Transaction{
		Network: r.Network, IfName: r.IfName, Phase: journal.PhaseAdding, Started: time.Now().UTC(),
		Netns: r.Netns, NetnsID: podnet.ID(r.Netns), Pod: pod, Path: e.path(r), Request: r.ID, Attachments: newEntries(r, plan.Networks),
	}
	if r.Conf != nil && json.Valid(r.Stdin) {
		tx.Conf = r.Stdin
	}
	if pod != nil {
		tx.Networks = pod.Annotations[conf.NetworksAnnotation]
	}
	if tx.NetnsID == "" {
		return nil, nil, delegates.Coded(delegates.CodeEnvironment, fmt.Errorf("CNI_NETNS: %q is no network namespace", r.Netns))
	}
	if r.Conf != nil && pod != nil {
		tx.StatusPlace = e.Source.StatusPlace(pod)
	}
	if r.Conf == nil {
		if _, err := status.CallersDeviceInfo(r.Stdin); err != nil {
			return nil, nil, conf.Refuse(err)
		}
	}
	all := e.open(r.Sandbox, tx, tx.Attachments, r.Netns)
	return tx, all, e.prepareEach(ctx, all)
}

// newEntries are the records of attachments that will be made.
func newEntries(r *Request, networks []conf.Network) []*journal.Entry {
	entries := make([]*journal.Entry, len(networks))
	for i, n := range networks {
		entries[i] = &journal.Entry{Network: n}
		if r.Conf != nil {
			status.OfferDeviceInfo(entries[i], r.Sandbox)
		}
	}
	return entries
}

// prepareEach prepares attachments. After an error it gives back what was reserved.
func (e *Engine) prepareEach(ctx context.Context, all []*attachment) error {
	for i, a := range all {
		if a.errChain != nil {
			return errors.Join(a.errorf("prepare", conf.Refuse(a.errChain)), releaseAll(ctx, all[:i]))
		}
		e.warn(a.chain.Warnings)
		device, err := status.Device(a.Entry)
		for _, b := range a.chain.Builtins() {
			b.Device = device
		}
		if err == nil {
			a.State, err = a.chain.Prepare(ctx)
		}
		if err != nil {
			return errors.Join(a.errorf("prepare", err), releaseAll(ctx, all[:i+1]))
		}
	}
	return nil
}

// attach runs the plugins of a prepared transaction and commits it. After an error the
// transaction has only the attachments that were attempted.
func (e *Engine) attach(ctx context.Context, r *Request, rec *journal.Record, tx *journal.Transaction, all []*attachment) (*types100.Result, error) {
	results, attempted, err := e.addEach(ctx, r, rec, tx, all)
	if err != nil {
		tx.Attachments = tx.Attachments[:attempted]
		return nil, err
	}
	if entry := giveDefault(tx.Attachments, results); entry != nil {
		if err := moveDefault(ctx, r.Netns, entry); err != nil {
			return nil, err
		}
	}
	annotations, err := e.describe(ctx, r, tx, all, results, nil)
	if err != nil {
		return nil, err
	}
	tx.Phase = journal.PhaseAttached
	if err := journal.SetResults(tx.Attachments, results); err != nil {
		return nil, err
	}
	later := e.Later != nil && annotations != nil && tx.StatusPlace == "" // nothing will have to be retracted
	if !later {
		if err := e.publish(ctx, r.Sandbox, tx.Pod, annotations); err != nil {
			return nil, err
		}
	}
	if err := e.Journal.Commit(ctx, rec); err != nil {
		return nil, err
	}
	if later {
		e.Later(tx.Pod, func(ctx context.Context) error { return e.publish(ctx, r.Sandbox, tx.Pod, annotations) })
	}
	return addResult(r, tx, results), nil
}

// addEach writes the record and adds the attachments in order (NPWG specification 1.3, section
// 7.3). Neighbours whose lists are a single built-in are added together. The record is on the
// disk before the first attachment is added that needs it to be undone. attempted is the number
// of attachments whose plugins have run, with an error too; the reservations of the others are
// then given back.
func (e *Engine) addEach(ctx context.Context, r *Request, rec *journal.Record, tx *journal.Transaction, all []*attachment) (results []*types100.Result, attempted int, err error) {
	needsRecord := func(a *attachment) bool { return !e.undoneWithoutRecord(r, tx, a.Entry) }
	pending, err := e.Journal.Begin(ctx, rec, slices.ContainsFunc(all, needsRecord))
	if err != nil {
		return nil, 0, errors.Join(err, releaseAll(ctx, all))
	}
	for _, group := range groupsOf(all) {
		if attempted > 0 || needsRecord(group[0]) {
			err = pending.Durable()
		}
		if err == nil {
			attempted += len(group)
			var more []*types100.Result
			more, err = e.addGroup(ctx, r, group)
			results = append(results, more...)
		}
		if err != nil {
			return nil, attempted, errors.Join(err, releaseAll(ctx, all[attempted:]))
		}
	}
	return results, attempted, pending.Durable()
}

// addGroup adds one attachment, or a group of neighbours: first all neighbours get their
// addresses, then each backend attaches its own in one call. With the key parallel the
// addresses are requested at the same time, and so are the backends called.
func (e *Engine) addGroup(ctx context.Context, r *Request, group []*attachment) ([]*types100.Result, error) {
	parallel, began := r.Conf != nil && r.Conf.Parallel, time.Now()
	err := each(parallel, group, func(a *attachment) (err error) {
		if r.Conf != nil {
			err = status.CopyDeviceInfo(ctx, r.Sandbox, a.Entry)
		}
		if b := a.single(); err == nil && b != nil {
			err = a.chain.Allocate(ctx, b)
		}
		return a.errorf("add", err)
	})
	if err != nil {
		return nil, err
	}
	err = each(parallel, batches(group), func(b batch) error {
		if err := b[0].Delegate.Attach(ctx, b.attachments()); err != nil {
			return fmt.Errorf("add: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	results := make([]*types100.Result, len(group))
	for i, a := range group {
		results[i], err = a.chain.Add(ctx)
		if err == nil && len(a.List.Plugins) > 1 { // tuning changes an MTU without saying so
			err = podnet.ReadMTUs(r.Netns, results[i])
		}
		if err == nil {
			err = a.compareAsked(results[i])
		}
		if err != nil {
			return nil, a.errorf("add", err)
		}
		e.Log.Debug("attached", "interface", a.IfName, "network", a.Name, "took", time.Since(began))
	}
	return results, nil
}

// each calls do for every element of a list: in order until the first error, or all at
// the same time.
func each[T any](parallel bool, list []T, do func(T) error) error {
	errs := make([]error, len(list))
	var group sync.WaitGroup
	for i, one := range list {
		if !parallel {
			if err := do(one); err != nil {
				return err
			}
			continue
		}
		group.Go(func() { errs[i] = do(one) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// addResult is the result of ADD in the form that the configuration names.
func addResult(r *Request, tx *journal.Transaction, results []*types100.Result) *types100.Result {
	if r.Conf != nil && r.Conf.Result == conf.ResultDefaultNetwork {
		return results[0]
	}
	merged := status.Merge(tx.Attachments, results, r.Netns)
	if r.Conf != nil && (r.Conf.Result == conf.ResultInterfaces || r.Conf.Result == conf.ResultAuto && r.Runtime == crio) {
		merged.IPs = merged.IPs[:len(results[0].IPs)] // the cluster network's come first
	}
	return merged
}

// crio is the name of CRI-O's process. CRI-O takes every address of the answer for one of the
// pod's own, in order, and maps host ports to the first of each family
// (cri-o/internal/lib/sandbox and server/sandbox_network.go); containerd takes those of eth0.
const crio = "crio"
