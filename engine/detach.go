package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plexus-cni/plexus/conf"
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
	var errs []error
	if tx.StatusPlace != "" {
		err := delegates.Step(ctx, "retract network-status of pod %s", tx.Pod)
		if err == nil {
			err = e.Source.Retract(ctx, tx.StatusPlace, rec.Sandbox)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("undo network-status of pod %s: %w", tx.Pod, err))
		}
	}
	remaining, err := e.detachEach(ctx, rec.Sandbox, tx, tx.Attachments, liveNetns(tx, netns))
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		rec.Remove(tx)
	} else {
		tx.Phase, tx.Attachments = journal.PhaseRemoving, remaining
	}
	if len(rec.Transactions) == 0 {
		errs = append(errs, e.Journal.Remove(ctx, rec.Sandbox))
	} else {
		errs = append(errs, e.Journal.Write(ctx, rec))
	}
	return errors.Join(errs...)
}

// detachEach undoes attachments of a transaction, last one first. Neighbours whose lists are
// a single built-in are undone together. It returns the attachments that could not be undone.
func (e *Engine) detachEach(ctx context.Context, sandbox string, tx *journal.Transaction, entries []*journal.Entry, live string) (remaining []*journal.Entry, err error) {
	all := make([]*attachment, len(entries))
	for i, entry := range entries {
		a, err := e.open(sandbox, tx, entry, live)
		if err != nil { // it keeps no other from being undone
			a = &attachment{Entry: entry, unread: err}
		}
		all[i] = a
	}
	var groups [][]*attachment
	for at := 0; at < len(all); at += len(groups[len(groups)-1]) {
		groups = append(groups, all[at:neighbours(all, at)])
	}
	var errs []error
	for _, group := range slices.Backward(groups) {
		for _, b := range batches(group) {
			b.detach(ctx)
		}
		for _, a := range slices.Backward(group) {
			err := a.unread
			if err == nil {
				err = errors.Join(a.chain.Del(ctx), status.RemoveDeviceInfo(sandbox, a.IfName))
			}
			if err != nil {
				errs = append(errs, a.errorf("undo", err))
				remaining = slices.Insert(remaining, 0, a.Entry)
			}
		}
	}
	return remaining, errors.Join(errs...)
}

// detach undoes the attachments of a backend in one call. Chain.Del reports the errors.
func (b *batch) detach(ctx context.Context) {
	for _, one := range slices.Backward(b.builtins) {
		if err := one.Step(ctx, "DEL"); err != nil {
			one.SetDetached(err)
		}
	}
	todo := batch{b.delegate, slices.DeleteFunc(slices.Clone(b.builtins), (*plugin.Builtin).IsDetached)}
	if len(todo.builtins) == 0 {
		return
	}
	for i, err := range todo.delegate.Detach(ctx, todo.attachments()) {
		todo.builtins[i].SetDetached(err)
	}
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

// salvage undoes a sandbox whose record is damaged or missing: by libcni's cache, which has
// configurations and so addresses, by the addresses of known networks, and by the marks of
// ownership. It sets a damaged file aside and names it in an error, as some attachments may
// have been recorded there alone. The next DEL finds no file.
func (e *Engine) salvage(ctx context.Context, r *Request, damaged *journal.DamagedError) error {
	live := r.Netns
	if e.isRecorded(live) {
		live = ""
	}
	tx := &journal.Transaction{Network: r.Network, IfName: r.IfName, Netns: live, Path: e.path(r)}
	cached, err := e.cachedEntries(r.Sandbox)
	if err != nil {
		return err
	}
	tx.Attachments = cached
	if len(tx.Attachments) == 0 {
		tx.Attachments = e.unrecordedCluster(ctx, r, tx)
	}
	if namespace, name := r.Args.Get("K8S_POD_NAMESPACE"), r.Args.Get("K8S_POD_NAME"); conf.CheckObjectName(namespace, name) == nil {
		uid := r.Args.Get("K8S_POD_UID")
		if tx.Pod = e.Source.Recall(namespace, name, uid); tx.Pod == nil {
			tx.Pod = &conf.Pod{Namespace: namespace, Name: name, UID: uid}
		}
		if r.Conf != nil {
			tx.StatusPlace = e.Source.StatusPlace(tx.Pod)
		}
	}
	endpoints := e.configuredEndpoints(r)
	for _, entry := range tx.Attachments {
		endpoints = append(endpoints, e.endpointsOf(&entry.List)...)
	}
	keep := func(sandbox, _ string) bool { return !sameSandbox(r.Sandbox, sandbox) }
	if err := e.sweep(ctx, endpoints, keep); err != nil {
		return err
	}
	if err := status.RemoveDeviceInfos(r.Sandbox); err != nil {
		return err
	}
	if damaged == nil {
		return e.detach(ctx, &journal.Record{Sandbox: r.Sandbox, Transactions: []*journal.Transaction{tx}}, tx, live)
	}
	if err := e.releaseAddresses(ctx, e.collectNetworks(r), func(sandbox string) bool { return sandbox != r.Sandbox }); err != nil {
		return err
	}
	aside, err := e.Journal.SetAside(ctx, r.Sandbox)
	if err != nil {
		return fmt.Errorf("set aside %s: %w", damaged.File, err)
	}
	var undone []string
	for _, entry := range tx.Attachments {
		undone = append(undone, entry.IfName+" ("+entry.Name+")")
	}
	err = e.detach(ctx, &journal.Record{Sandbox: r.Sandbox, Transactions: []*journal.Transaction{tx}}, tx, live)
	next := "The next DEL succeeds"
	if err != nil {
		next = "The next DEL tries again what could not be undone"
	}
	return errors.Join(&delegates.Error{Code: delegates.CodeTryAgain, Err: fmt.Errorf("%w. It is kept as %s. Undone is what carries marks of ownership and what libcni's cache names: %s. Whatever else was attached by plugins that plexus executes, and addresses of networks that nothing names any more, cannot be known and may be left. %s",
		damaged, aside, cmp.Or(strings.Join(undone, ", "), "nothing"), next)}, err)
}

// cachedEntries are the attachments of a sandbox that libcni's cache knows, to be undone.
func (e *Engine) cachedEntries(sandbox string) ([]*journal.Entry, error) {
	cached, err := e.runner().Cache().GetCachedAttachments(sandbox)
	if err != nil {
		return nil, fmt.Errorf("read libcni's cache: %w", err)
	}
	var entries []*journal.Entry
	for _, a := range cached {
		d := conf.Definition{Origin: "cached network " + a.Network, Config: a.Config}
		list, err := d.ParseList("")
		if err != nil {
			e.Log.Warn("cannot use libcni's cache", "network", a.Network, "why", err.Error())
			continue
		}
		entries = append(entries, &journal.Entry{Network: conf.Network{
			Name: a.Network, IfName: a.IfName, List: *list, Args: conf.Args(a.CniArgs), CapabilityArgs: a.CapabilityArgs,
			OfNode: true, // plexus has cached it: ADD has checked it against the bounds
		}})
	}
	return entries, nil
}

// isRecorded reports whether a network namespace belongs to a recorded sandbox. DEL of
// another sandbox must not enter it.
func (e *Engine) isRecorded(path string) bool {
	id := podnet.ID(path)
	sandboxes, err := e.Journal.Sandboxes()
	if id == "" || err != nil {
		return err != nil
	}
	for _, sandbox := range sandboxes {
		rec, err := e.Journal.Read(sandbox)
		if err == nil && rec != nil && slices.ContainsFunc(rec.Transactions, func(tx *journal.Transaction) bool { return tx.NetnsID == id }) {
			return true
		}
	}
	return false
}

// undoneWithoutRecord reports whether unrecordedCluster finds an attachment: it is the
// cluster network of this node's files, attached by executables, and DEL undoes it without a
// record too.
func (e *Engine) undoneWithoutRecord(r *Request, tx *journal.Transaction, entry *journal.Entry) bool {
	return r.hasClusterFile() && entry.Default && len(entry.State) == 0 && (tx.Pod == nil || tx.Pod.Annotations[conf.DefaultNetworkAnnotation] == "")
}

// hasClusterFile reports whether the cluster network is in this node's files.
func (r *Request) hasClusterFile() bool {
	return r.Conf != nil && (r.Conf.ClusterNetwork == "" || filepath.IsAbs(r.Conf.ClusterNetwork))
}

// unrecordedCluster is the attachment of an unrecorded sandbox to the cluster network. The
// sandbox may have been wired before plexus was installed, by the cluster network's own
// configuration, or the record was lost with the node's power: plexus alone gets the DEL.
// The network has to be defined in this node's files, and its plugins have to be there.
func (e *Engine) unrecordedCluster(ctx context.Context, r *Request, tx *journal.Transaction) []*journal.Entry {
	if !r.hasClusterFile() || conf.CheckIfName(r.IfName) != nil {
		return nil
	}
	own := *r.Conf
	own.DefaultNetworks, own.AuxiliaryCNIChainName = nil, ""
	request := *r
	request.Conf = &own
	request.Args = r.Args.PodIdentity()
	plan, err := e.planFor(ctx, &request, nil)
	if err != nil || len(plan.Networks) == 0 {
		return nil
	}
	entry := &journal.Entry{Network: plan.Networks[0], Executed: true}
	a, err := e.open(r.Sandbox, tx, entry, "")
	if err == nil {
		err = a.chain.Executables()
	}
	if err != nil {
		e.Log.Warn("DEL of a sandbox that is not recorded: the cluster network is left out", "sandbox", r.Sandbox, "why", err.Error())
		return nil
	}
	return []*journal.Entry{entry}
}

// collectNetworks returns the networks of the request, of the journal and of libcni's cache.
func (e *Engine) collectNetworks(r *Request) []conf.Network {
	var all []conf.Network
	note := func(raw []byte, own bool) {
		d := conf.Definition{Config: raw, Fallback: "x"}
		if l, err := d.ParseList(""); err == nil {
			all = append(all, conf.Network{Name: l.Name, List: *l, OfNode: own})
		}
	}
	if r.Conf == nil {
		note(r.Stdin, false)
	} else {
		for _, raw := range r.Conf.Delegates {
			note(raw, true)
		}
	}
	sandboxes, _ := e.Journal.Sandboxes() // on an error the default folders are still searched
	for _, sandbox := range sandboxes {
		rec, err := e.Journal.Read(sandbox)
		if err != nil || rec == nil {
			continue
		}
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				all = append(all, entry.Network)
			}
		}
	}
	cached, _ := e.runner().Cache().GetCachedAttachments("")
	for _, a := range cached {
		note(a.Config, false)
	}
	return all
}
