package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/netns"
)

// detach is the only way back: it undoes a transaction, last attachment
// first, and forgets it when everything is gone. A failed ADD, DEL, GC and the
// recovery after a crash all come here. What could not be undone stays
// recorded and is reported. It goes on when the request is cancelled, within
// its own deadline. netns is the namespace's path as the request names it.
func (e *Engine) detach(ctx context.Context, rec *Record, tx *Transaction, netns string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	if tx.StatusPlace != "" {
		err := conf.Step(ctx, "retract network-status of pod %s", tx.Pod)
		if err == nil {
			err = e.Source.Retract(ctx, tx.StatusPlace, rec.Sandbox)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("undo network-status of pod %s: %w", tx.Pod, err))
		}
	}
	left, err := e.detachEach(ctx, rec.Sandbox, tx, tx.Attachments, tx.liveNetns(netns))
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		rec.remove(tx)
	} else {
		tx.Phase, tx.Attachments = PhaseRemoving, left
	}
	if len(rec.Transactions) == 0 {
		errs = append(errs, e.Journal.Remove(ctx, rec.Sandbox))
	} else {
		errs = append(errs, e.Journal.Write(ctx, rec, false))
	}
	return errors.Join(errs...)
}

// detachEach undoes attachments of a transaction, last one first. left are those
// of which something remains.
func (e *Engine) detachEach(ctx context.Context, sandbox string, tx *Transaction, entries []*Entry, live string) (left []*Entry, err error) {
	var errs []error
	for _, entry := range slices.Backward(entries) {
		err := errors.Join(e.chain(sandbox, tx, entry, live).del(ctx), removeDeviceInfo(sandbox, entry.IfName))
		if err != nil {
			errs = append(errs, fmt.Errorf("undo %s (network %s): %w", entry.IfName, entry.Name, err))
			left = slices.Insert(left, 0, entry)
		}
	}
	return left, errors.Join(errs...)
}

// Del undoes an ADD by the journal alone. What never was, or is gone, is
// success.
func (e *Engine) Del(ctx context.Context, r *Request) error {
	if checkSandbox(r.Sandbox) != nil {
		return nil // ADD refuses it, so it never was
	}
	unlock, err := e.Journal.Lock(ctx, r.Sandbox)
	if err != nil {
		return coded(codeTryAgain, err)
	}
	defer unlock()
	rec, err := e.Journal.Read(r.Sandbox)
	var damaged *DamagedError
	switch {
	case errors.As(err, &damaged):
		return e.salvage(ctx, r, damaged)
	case err != nil:
		return err
	case rec == nil:
		return e.salvage(ctx, r, nil)
	}
	tx := rec.find(r.IfName)
	if tx == nil {
		return nil
	}
	tx.Path = searchPath(e.path(r), tx.Path)
	return e.detach(ctx, rec, tx, r.Netns)
}

// salvage undoes a sandbox whose record is damaged, or lost, or never was: by
// libcni's cache, which knows configurations and so addresses, and by the
// marks of ownership. A damaged file is named and kept aside.
func (e *Engine) salvage(ctx context.Context, r *Request, damaged *DamagedError) error {
	if damaged != nil {
		e.Log.Error("DEL goes by marks of ownership and libcni's cache", "sandbox", r.Sandbox, "why", damaged.Error())
	}
	live := r.Netns
	if e.isRecorded(live) {
		live = ""
	}
	tx := &Transaction{Network: r.Network, IfName: r.IfName, Netns: live, Path: e.path(r)}
	cached, err := libcni.NewCNIConfigWithCacheDir(nil, e.Journal.DataDir(), nil).GetCachedAttachments(r.Sandbox)
	if err != nil {
		return fmt.Errorf("read libcni's cache: %w", err)
	}
	for _, a := range cached {
		d := conf.Definition{Origin: "cached network " + a.Network, Config: a.Config}
		list, err := d.ParseList("")
		if err != nil {
			e.Log.Warn("cannot use libcni's cache", "network", a.Network, "why", err.Error())
			continue
		}
		tx.Attachments = append(tx.Attachments, &Entry{Network: conf.Network{
			Name: a.Network, IfName: a.IfName, List: *list, Args: conf.Args(a.CniArgs), CapabilityArgs: a.CapabilityArgs,
		}})
	}
	if len(cached) == 0 {
		tx.Attachments = e.formerCluster(ctx, r, tx)
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
	configs := e.knownConfigs(r)
	keep := func(sandbox, _ string) bool { return !sameSandbox(r.Sandbox, sandbox) }
	var left []error
	for _, err := range e.sweep(ctx, configs, keep) {
		if conf.AllUnavailable(err) != nil { // what does not answer may have nothing of this sandbox
			e.Log.Warn("could not look for marks of ownership", "sandbox", r.Sandbox, "why", err.Error())
			continue
		}
		left = append(left, err)
	}
	if err := errors.Join(left...); err != nil {
		return err
	}
	if err := removeDeviceInfos(r.Sandbox); err != nil {
		return err
	}
	if damaged != nil {
		aside, err := e.Journal.SetAside(ctx, r.Sandbox)
		if err != nil {
			return fmt.Errorf("set aside %s: %w", damaged.File, err)
		}
		e.Log.Error("the damaged journal file is kept", "sandbox", r.Sandbox, "file", aside)
	}
	return e.detach(ctx, &Record{Sandbox: r.Sandbox, Transactions: []*Transaction{tx}}, tx, live)
}

// isRecorded reports whether a network namespace is that of a recorded sandbox: what
// is not recorded has nothing to look for in it.
func (e *Engine) isRecorded(path string) bool {
	id := netns.ID(path)
	sandboxes, err := e.Journal.Sandboxes()
	if id == "" || err != nil {
		return err != nil
	}
	for _, sandbox := range sandboxes {
		rec, err := e.Journal.Read(sandbox)
		if err == nil && rec != nil && slices.ContainsFunc(rec.Transactions, func(tx *Transaction) bool { return tx.NetnsID == id }) {
			return true
		}
	}
	return false
}

// isFormer reports whether an attachment of an ADD is what formerCluster finds: the
// cluster network of this node's files, made by executables, which is undone without
// a record, too.
func (e *Engine) isFormer(r *Request, tx *Transaction, entry *Entry) bool {
	return r.hasClusterFile() && entry.Default && len(entry.State) == 0 && (tx.Pod == nil || tx.Pod.Annotations[conf.DefaultNetworkAnnotation] == "")
}

// hasClusterFile reports whether the cluster network is in this node's files.
func (r *Request) hasClusterFile() bool {
	return r.Conf != nil && (r.Conf.ClusterNetwork == "" || filepath.IsAbs(r.Conf.ClusterNetwork))
}

// formerCluster is the cluster network of a sandbox of which nothing is known: it may
// have been wired before plexus came, by that network's own configuration, whose DEL
// nobody else does now, or the node has lost its power since. A network that is not
// in this node's files is not looked for, and one whose plugins are not there has
// nothing to undo.
func (e *Engine) formerCluster(ctx context.Context, r *Request, tx *Transaction) []*Entry {
	if !r.hasClusterFile() || conf.CheckIfName(r.IfName) != nil {
		return nil
	}
	own := *r.Conf
	own.DefaultNetworks, own.AuxiliaryCNIChainName = nil, ""
	asked := *r
	asked.Conf = &own
	asked.Args = r.Args.PodIdentity()
	plan, err := e.planFor(ctx, &asked, nil)
	if err != nil || len(plan.Networks) == 0 {
		return nil
	}
	entry := &Entry{Network: plan.Networks[0], Executed: true}
	c := e.chain(r.Sandbox, tx, entry, "")
	for _, typ := range entry.List.Types() {
		if _, err := c.FindInPath(typ, tx.Path); err != nil {
			e.Log.Warn("DEL of a sandbox that is not recorded: the cluster network is left out", "sandbox", r.Sandbox, "why", err.Error())
			return nil
		}
	}
	return []*Entry{entry}
}

// markedSandbox is how many bytes of a container ID a mark holds at least.
const markedSandbox = 24

// sameSandbox compares a container ID with one of a mark, which may hold its
// beginning alone.
func sameSandbox(sandbox, marked string) bool {
	return sandbox == marked || len(marked) >= markedSandbox && strings.HasPrefix(sandbox, marked)
}

// sweep lets every built-in that can remove what carries its mark and is not
// to be kept. configs are by plugin type.
func (e *Engine) sweep(ctx context.Context, configs map[string][]json.RawMessage, keep func(sandbox, ifName string) bool) (errs []error) {
	for name, d := range e.Delegates {
		if s, ok := d.(Sweeper); ok {
			if err := s.Sweep(ctx, e.Journal.DataDir(), configs[name], keep); err != nil {
				errs = append(errs, fmt.Errorf("sweep %s: %w", name, err))
			}
		}
	}
	return errs
}

// knownConfigs gathers the configurations of built-ins that say where to look
// for marks: from the request, from the journal and from libcni's cache.
func (e *Engine) knownConfigs(r *Request) map[string][]json.RawMessage {
	configs := map[string][]json.RawMessage{}
	note := func(l *conf.List) {
		for i, typ := range l.Types() {
			if e.Delegates[typ] != nil && !slices.ContainsFunc(configs[typ], func(c json.RawMessage) bool { return string(c) == string(l.Plugins[i]) }) {
				configs[typ] = append(configs[typ], l.Plugins[i])
			}
		}
	}
	noteRaw := func(raw []byte) {
		d := conf.Definition{Config: raw, Fallback: "x"}
		if l, err := d.ParseList(""); err == nil {
			note(l)
		}
	}
	if r.Conf == nil {
		noteRaw(r.Stdin)
	} else {
		for _, raw := range r.Conf.Delegates {
			noteRaw(raw)
		}
	}
	sandboxes, _ := e.Journal.Sandboxes() // without it the default places remain
	for _, sandbox := range sandboxes {
		rec, err := e.Journal.Read(sandbox)
		if err != nil || rec == nil {
			continue
		}
		for _, tx := range rec.Transactions {
			for _, entry := range tx.Attachments {
				note(&entry.List)
			}
		}
	}
	cached, _ := libcni.NewCNIConfigWithCacheDir(nil, e.Journal.DataDir(), nil).GetCachedAttachments("")
	for _, a := range cached {
		noteRaw(a.Config)
	}
	return configs
}
