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
	"github.com/plexus-cni/plexus/podnet"
	"github.com/plexus-cni/plexus/status"
)

// salvage undoes a sandbox whose record is damaged or missing: by libcni's cache, which has
// configurations and so addresses, by the plan of its pod, by the addresses of known networks,
// and by the marks of ownership. It sets a damaged file aside and names it in an error, as some
// attachments may have been recorded there alone. The next DEL finds no file.
func (e *Engine) salvage(ctx context.Context, r *Request, damaged *journal.DamagedError) error {
	live := r.Netns
	if e.isRecorded(live) {
		live = ""
	}
	tx := &journal.Transaction{Network: r.Network, IfName: r.IfName, Phase: journal.PhaseRemoving, Netns: live, Path: e.path(r)}
	var err error
	if tx.Attachments, err = e.cachedEntries(r.Sandbox); err != nil {
		return err
	}
	planned, whole := e.planAgain(ctx, r, tx)
	if len(tx.Attachments) == 0 && (!whole || tx.Pod == nil || tx.Pod.Annotations[conf.DefaultNetworkAnnotation] == "") {
		tx.Attachments = e.unrecordedCluster(ctx, r, tx)
	}
	planned = slices.DeleteFunc(planned, func(p *journal.Entry) bool {
		return slices.ContainsFunc(tx.Attachments, func(entry *journal.Entry) bool { return entry.IfName == p.IfName })
	})
	e.undoPlanned(ctx, r.Sandbox, tx, planned, live)
	endpoints := e.configuredEndpoints(r)
	for _, entry := range slices.Concat(tx.Attachments, planned) {
		endpoints = append(endpoints, e.allowedEndpoints(entry.Network)...)
	}
	keep := func(sandbox, _ string) bool { return !sameSandbox(r.Sandbox, sandbox) }
	if err := e.sweep(ctx, endpoints, keep); err != nil {
		return err
	}
	if err := status.RemoveDeviceInfos(r.Sandbox); err != nil {
		return err
	}
	rec := &journal.Record{Sandbox: r.Sandbox, Transactions: []*journal.Transaction{tx}}
	if damaged != nil || !whole {
		err = e.releaseAddresses(ctx, e.knownNetworks(r), func(sandbox string) bool { return sandbox != r.Sandbox })
	}
	if damaged == nil {
		if err != nil {
			e.Log.Error("DEL of a sandbox that is not recorded: an address may be left", "sandbox", r.Sandbox, "why", err.Error())
		}
		return e.detach(ctx, rec, tx, live)
	}
	if err != nil {
		return err
	}
	aside, err := e.Journal.SetAside(ctx, r.Sandbox)
	if err != nil {
		return fmt.Errorf("set aside %s: %w", damaged.File, err)
	}
	undone := cmp.Or(strings.Join(namesOf(slices.Concat(tx.Attachments, planned)), ", "), "nothing")
	err = e.detach(ctx, rec, tx, live)
	next := "The next DEL succeeds"
	if err != nil {
		next = "The next DEL tries again what could not be undone"
	}
	return errors.Join(&delegates.Error{Code: delegates.CodeTryAgain, Err: fmt.Errorf("%w. It is kept as %s. Undone is what carries marks of ownership and what libcni's cache, or the plan of its pod, names: %s. Whatever else was attached by plugins that plexus executes, and addresses of networks that nothing names any more, cannot be known and may be left. %s",
		damaged, aside, undone, next)}, err)
}

// isRecorded reports whether a network namespace belongs to a recorded sandbox. DEL of
// another sandbox must not enter it.
func (e *Engine) isRecorded(path string) bool {
	id := podnet.ID(path)
	all, err := e.Journal.Transactions()
	return err != nil || id != "" && slices.ContainsFunc(all, func(tx *journal.Transaction) bool { return tx.NetnsID == id })
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
	a := e.open(r.Sandbox, tx, []*journal.Entry{entry}, "")[0]
	err = a.errChain
	if err == nil {
		err = a.chain.Executables()
	}
	if err != nil {
		e.Log.Warn("DEL of a sandbox that is not recorded: the cluster network is left out", "sandbox", r.Sandbox, "why", err.Error())
		return nil
	}
	return []*journal.Entry{entry}
}
