package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/status"
)

// detach is the only undo: it undoes a transaction, last attachment first, and removes it
// from the record when all attachments are undone. A failed ADD, DEL, GC and the recovery
// after a crash all call it. An attachment that could not be undone stays recorded and is
// reported. detach goes on when the request is cancelled, within its own deadline. netns is
// the namespace's path as the request names it.
func (e *Engine) detach(ctx context.Context, rec *journal.Record, tx *journal.Transaction, netns string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	errStatus := e.retract(ctx, rec.Sandbox, tx)
	remaining, err := e.detachEach(ctx, rec.Sandbox, tx, tx.Attachments, liveNetns(tx, netns))
	if err = errors.Join(errStatus, err); err == nil {
		rec.Remove(tx)
	} else {
		tx.Phase, tx.Attachments = journal.PhaseRemoving, remaining
	}
	if len(rec.Transactions) == 0 {
		return errors.Join(err, e.Journal.Finish(ctx, rec.Sandbox))
	}
	return errors.Join(err, e.Journal.Write(ctx, rec))
}

// retract removes the network-status of a transaction.
func (e *Engine) retract(ctx context.Context, sandbox string, tx *journal.Transaction) error {
	if tx.StatusPlace == "" {
		return nil
	}
	err := delegates.Step(ctx, "retract network-status of pod %s", tx.Pod)
	if err == nil {
		err = e.Source.Retract(ctx, tx.StatusPlace, sandbox)
	}
	if err != nil {
		return fmt.Errorf("undo network-status of pod %s: %w", tx.Pod, err)
	}
	return nil
}

// detachEach undoes attachments of a transaction, last one first. Neighbours whose lists are
// a single built-in are undone together. It returns the attachments that could not be undone.
func (e *Engine) detachEach(ctx context.Context, sandbox string, tx *journal.Transaction, entries []*journal.Entry, live string) (remaining []*journal.Entry, err error) {
	var errs []error
	for _, group := range slices.Backward(groupsOf(e.open(sandbox, tx, entries, live))) {
		for _, b := range batches(group) {
			b.detach(ctx)
		}
		for _, a := range slices.Backward(group) {
			if err := e.undo(ctx, sandbox, a); err != nil { // it keeps no other from being undone
				errs = append(errs, a.errorf("undo", err))
				remaining = slices.Insert(remaining, 0, a.Entry)
			}
		}
	}
	return remaining, errors.Join(errs...)
}

// undo undoes an attachment. Where executables alone do not undo it, the error has the way out;
// one that an operator gives up is dropped then.
func (e *Engine) undo(ctx context.Context, sandbox string, a *attachment) error {
	if a.errChain != nil {
		return a.errChain
	}
	err := errors.Join(a.chain.Del(ctx), a.removeVeths(ctx), status.RemoveDeviceInfo(sandbox, a.IfName))
	switch {
	case !plugin.OnlyExecutables(err) || a.tx.Phase == "": // the latter is in libcni's cache alone
		return err
	case a.Phase != journal.PhaseAbandoned:
		return fmt.Errorf("%w; if that stays so, this gives the attachment up: plexusctl reclaim %s --abandon %s", err, sandbox, a.IfName)
	}
	left := []string{"link " + a.IfName}
	if a.result != nil {
		for _, ip := range a.result.IPs {
			left = append(left, "address "+ip.Address.String())
		}
	}
	what := fmt.Sprintf("%s (network %s): abandoned by an operator; left may be %s: %v", a.IfName, a.Name, strings.Join(left, ", "), err)
	if err := delegates.Step(ctx, "%s: abandon %s", a.IfName, what); err != nil {
		return err
	}
	e.Log.Warn("abandoned", "sandbox", sandbox, "pod", a.tx.Pod.String(), "what", what)
	a.tx.Abandoned = append(a.tx.Abandoned, what)
	return a.chain.Forget()
}

// removeVeths removes the node's ends of an attachment's veths when the pod's namespace has no
// path any more. A plugin's DEL leaves them to the kernel then, which removes them with the
// namespace; it never does while another process has the namespace open.
func (a *attachment) removeVeths(ctx context.Context) error {
	if a.netns != "" {
		return nil
	}
	for _, name := range podnet.Veths(a.result) {
		if err := delegates.Step(ctx, "%s: remove link %s", a.IfName, name); err != nil {
			return err
		}
		if err := podnet.RemoveLink(name); err != nil {
			return fmt.Errorf("remove link %s of the node: %w", name, err)
		}
	}
	return nil
}

// detach undoes the attachments of a backend in one call. Chain.Del reports the errors.
func (b batch) detach(ctx context.Context) {
	for _, one := range slices.Backward(b) {
		if err := one.BeginDel(ctx); err != nil {
			one.SetDetached(err)
		}
	}
	todo := slices.DeleteFunc(slices.Clone(b), (*plugin.Builtin).IsDetached)
	if len(todo) == 0 {
		return
	}
	for i, err := range todo[0].Delegate.Detach(ctx, todo.attachments()) {
		todo[i].SetDetached(err)
	}
}

// detachUnfinished undoes the attachments of a running pod that a change was attaching or
// detaching.
func (e *Engine) detachUnfinished(ctx context.Context, rec *journal.Record, tx *journal.Transaction, live string) error {
	attached := slices.DeleteFunc(slices.Clone(tx.Attachments), func(entry *journal.Entry) bool { return entry.Phase != "" })
	unfinished := without(tx.Attachments, attached)
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
	return errors.Join(err, restoreDefault(ctx, live, tx.Attachments), e.Journal.Write(ctx, rec))
}

// Del undoes an ADD by the journal alone. An attachment that does not exist is success.
func (e *Engine) Del(ctx context.Context, r *Request) error {
	if journal.CheckSandbox(r.Sandbox) != nil {
		return nil // ADD refuses such a request: nothing was attached
	}
	ctx, unlock, err := e.lock(ctx, r.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := e.Journal.Read(r.Sandbox)
	var damaged *journal.DamagedError
	switch {
	case errors.As(err, &damaged):
		return e.salvage(ctx, r, damaged)
	case err != nil:
		return err
	case rec == nil:
		return e.salvage(ctx, r, nil)
	}
	if rec.Damage != "" {
		e.Log.Error("DEL goes by the last whole record", "sandbox", r.Sandbox, "why", rec.Damage)
	}
	tx := rec.Find(r.IfName)
	if tx == nil {
		return nil
	}
	tx.Path = plugin.SearchPath(e.path(r), tx.Path)
	return e.detach(ctx, rec, tx, r.Netns)
}
