package delegates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/netns"
)

// Add wires a pod: every network or none. It returns what the configuration
// wants ADD to answer.
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
	for _, w := range plan.Warnings {
		e.Log.Warn(w)
	}
	ctx, unlock, err := e.lock(ctx, r.Sandbox)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec, err := e.recordForAdd(ctx, r)
	if err != nil {
		return nil, err
	}
	if tx := rec.find(r.IfName); tx != nil { // done; the answer was lost
		return tx.answer(r)
	}
	tx, err := e.prepare(ctx, r, pod, plan)
	if err != nil {
		return nil, errors.Join(err, e.release(ctx, r, tx))
	}
	rec.Transactions = append(rec.Transactions, tx)
	needed := slices.ContainsFunc(tx.Attachments, func(entry *Entry) bool { return !e.isFormer(r, tx, entry) })
	onDisk, err := e.Journal.Begin(ctx, rec, needed)
	if err != nil {
		err = errors.Join(err, e.release(ctx, r, tx))
		tx.Attachments = nil // none was begun
		return nil, errors.Join(err, e.detach(conf.Undoing(ctx), rec, tx, r.Netns))
	}
	result, err := e.attach(ctx, r, rec, tx, onDisk)
	if err != nil {
		return nil, errors.Join(err, e.detach(conf.Undoing(ctx), rec, tx, r.Netns))
	}
	return result, nil
}

// recordForAdd is the record that the transaction will be added to. An ADD of
// what is attached is refused, unless it is the same request again; what an ADD
// that was killed has left is undone.
func (e *Engine) recordForAdd(ctx context.Context, r *Request) (*Record, error) {
	rec, err := e.Journal.Read(r.Sandbox)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w; DEL of the sandbox undoes what can be found and sets the file aside", err)
	case rec == nil:
		return &Record{Sandbox: r.Sandbox}, nil
	case rec.Damage != "":
		return nil, fmt.Errorf("sandbox %s: %s; DEL of the sandbox undoes what is recorded", r.Sandbox, rec.Damage)
	}
	tx := rec.find(r.IfName)
	switch {
	case tx == nil:
		return rec, nil
	case tx.Phase == PhaseAttached && r.ID != "" && tx.Request == r.ID:
		return rec, nil
	case tx.Phase == PhaseAttached:
		return nil, fmt.Errorf("sandbox %s: interface %s is attached to network %s since %s: DEL it first", r.Sandbox, r.IfName, tx.Network, tx.Started.Format(time.RFC3339))
	}
	e.Log.Warn("an earlier request was cut short; undoing it", "sandbox", r.Sandbox, "phase", tx.Phase)
	return rec, e.detach(conf.Undoing(ctx), rec, tx, r.Netns)
}

// prepare finds every plugin and asks the built-ins what they will do. Nothing
// is changed.
func (e *Engine) prepare(ctx context.Context, r *Request, pod *conf.Pod, plan *conf.Plan) (*Transaction, error) {
	tx := &Transaction{
		Network: r.Network, IfName: r.IfName, Phase: PhaseAdding, Started: time.Now().UTC(),
		Netns: r.Netns, NetnsID: netns.ID(r.Netns), Pod: pod, Path: e.path(r), Request: r.ID,
	}
	if r.Conf != nil && json.Valid(r.Stdin) {
		tx.Conf = r.Stdin
	}
	if pod != nil {
		tx.Networks = pod.Annotations[conf.NetworksAnnotation]
	}
	if tx.NetnsID == "" {
		return nil, coded(codeEnvironment, fmt.Errorf("CNI_NETNS: %q is no network namespace", r.Netns))
	}
	if r.Conf != nil && pod != nil {
		tx.StatusPlace = e.Source.StatusPlace(pod)
	}
	named := e.namedByNode(plan.Networks)
	for _, n := range plan.Networks {
		if err := e.prepareOne(ctx, r, tx, n, named); err != nil {
			return tx, err
		}
	}
	return tx, nil
}

// prepareOne adds a network to the transaction. It may name the endpoints given.
func (e *Engine) prepareOne(ctx context.Context, r *Request, tx *Transaction, n conf.Network, endpoints []string) error {
	entry := &Entry{Network: n, State: map[string]json.RawMessage{}, endpoints: endpoints}
	tx.Attachments = append(tx.Attachments, entry)
	if r.Conf != nil {
		offerDeviceInfo(entry, r.Sandbox)
	} else if _, err := askedDeviceInfo(r.Stdin); err != nil {
		return coded(codeConfig, err)
	}
	c := e.chain(r.Sandbox, tx, entry, r.Netns)
	if name := filepath.Base(c.cacheFile()); len(name) > unix.NAME_MAX {
		return coded(codeConfig, fmt.Errorf("network %s: key %q: with container ID and interface it has %d bytes and names a file, at most %d are allowed: shorten it", n.Name, "name", len(name), unix.NAME_MAX))
	}
	types, err := c.types()
	if err != nil {
		return coded(codeConfig, err)
	}
	for i, typ := range types {
		d, ok := e.Delegates[typ]
		if !ok {
			if _, err := c.FindInPath(typ, tx.Path); err != nil {
				return fmt.Errorf("prepare %s (network %s): %w", n.IfName, n.Name, err)
			}
			continue
		}
		if _, twice := entry.State[typ]; twice {
			return coded(codeConfig, fmt.Errorf("network %s: plugin %q stands twice in its list, a built-in delegate may once", n.Name, typ))
		}
		a, err := c.planned(i)
		if err == nil {
			err = c.ipam(a, n.Args.String()).find()
		}
		var state json.RawMessage
		if err == nil {
			state, err = d.Prepare(ctx, a)
		}
		if err != nil {
			return fmt.Errorf("prepare %s (network %s, %s): %w", n.IfName, n.Name, typ, err)
		}
		entry.State[typ] = state
	}
	return nil
}

// release gives back what has been reserved for a transaction that is not begun.
func (e *Engine) release(ctx context.Context, r *Request, tx *Transaction) error {
	if tx == nil {
		return nil
	}
	var errs []error
	errs = append(errs, e.eachBuiltin(r, tx, func(at int, name string, a conf.Attachment, state json.RawMessage) error {
		entry := tx.Attachments[at]
		if releaser, ok := e.Delegates[name].(Releaser); ok && state != nil {
			if err := releaser.Release(ctx, a, state); err != nil {
				errs = append(errs, fmt.Errorf("release %s (network %s): %w", entry.IfName, entry.Name, err))
			}
		}
		return nil
	}))
	return errors.Join(errs...)
}

// attach makes the prepared transaction real and commits it. On an error the
// transaction holds only attachments that were begun.
func (e *Engine) attach(ctx context.Context, r *Request, rec *Record, tx *Transaction, onDisk func() error) (*types100.Result, error) {
	results, err := e.addEach(ctx, r, tx, onDisk)
	if err != nil {
		return nil, err
	}
	if err := e.settle(ctx, r, tx, results); err != nil {
		return nil, err
	}
	if err := e.routeDefault(ctx, r.Netns, tx.Attachments, results, nil); err != nil {
		return nil, err
	}
	annotations, err := e.status(ctx, r, tx, results, nil)
	if err != nil {
		return nil, err
	}
	tx.Phase = PhaseAttached
	if err := tx.setResults(results); err != nil {
		return nil, err
	}
	data, err := encodeRecord(rec)
	if err != nil {
		return nil, err
	}
	if err := e.publish(ctx, r, tx, annotations); err != nil {
		return nil, err
	}
	if err := e.Journal.Commit(ctx, rec, data); err != nil {
		return nil, err
	}
	return asked(r, tx, results), nil
}

// asked is what the configuration wants ADD to answer.
func asked(r *Request, tx *Transaction, results []*types100.Result) *types100.Result {
	if r.Conf != nil && r.Conf.Result == conf.ResultDefaultNetwork {
		return results[0]
	}
	return merge(tx.Attachments, results, r.Netns)
}

// answer is what ADD answered.
func (tx *Transaction) answer(r *Request) (*types100.Result, error) {
	results, err := tx.results()
	if err != nil {
		return nil, err
	}
	return asked(r, tx, results), nil
}

// results are the recorded results, one for each attachment.
func (tx *Transaction) results() ([]*types100.Result, error) {
	results := make([]*types100.Result, len(tx.Attachments))
	for i, entry := range tx.Attachments {
		r, err := entry.ParseResult()
		if err != nil {
			return nil, err
		}
		results[i] = r
	}
	return results, nil
}

// setResults records the results, one for each attachment.
func (tx *Transaction) setResults(results []*types100.Result) (err error) {
	for i, entry := range tx.Attachments {
		if entry.Result, err = encodeResult(results[i]); err != nil {
			return err
		}
	}
	return nil
}

// ParseResult is the recorded result.
func (entry *Entry) ParseResult() (*types100.Result, error) {
	r := &types100.Result{}
	if err := json.Unmarshal(entry.Result, r); err != nil {
		return nil, fmt.Errorf("recorded result of %s: %w", entry.IfName, err)
	}
	return r, nil
}

// addEach adds the attachments in order (NPWG specification 1.3, section
// 7.3). With parallel, neighbours made of built-ins alone run together. The record is
// onDisk before any is added whose undoing needs it.
func (e *Engine) addEach(ctx context.Context, r *Request, tx *Transaction, onDisk func() error) ([]*types100.Result, error) {
	all := tx.Attachments
	results := make([]*types100.Result, len(all))
	fail := func(begun int, err error) error {
		rest := *tx
		tx.Attachments, rest.Attachments = all[:begun], all[begun:]
		return errors.Join(err, e.release(ctx, r, &rest))
	}
	for at := 0; at < len(all); {
		if at > 0 || !e.isFormer(r, tx, all[at]) {
			if err := onDisk(); err != nil {
				return nil, fail(at, err)
			}
		}
		end := at + 1
		for r.Conf != nil && r.Conf.Parallel && end < len(all) && e.builtinOnly(all[at]) && e.builtinOnly(all[end]) {
			end++
		}
		if err := e.addTogether(ctx, r, tx, all[at:end], results[at:end]); err != nil {
			return nil, fail(end, err)
		}
		at = end
	}
	return results, onDisk()
}

func (e *Engine) addTogether(ctx context.Context, r *Request, tx *Transaction, entries []*Entry, results []*types100.Result) (err error) {
	if len(entries) == 1 {
		results[0], err = e.addOne(ctx, r, tx, entries[0])
		return err
	}
	errs := make([]error, len(entries))
	var group sync.WaitGroup
	for i, entry := range entries {
		group.Go(func() { results[i], errs[i] = e.addOne(ctx, r, tx, entry) })
	}
	group.Wait()
	return errors.Join(errs...)
}

func (e *Engine) addOne(ctx context.Context, r *Request, tx *Transaction, entry *Entry) (*types100.Result, error) {
	began := time.Now()
	if r.Conf != nil {
		if err := adoptDeviceInfo(ctx, r.Sandbox, entry); err != nil {
			return nil, fmt.Errorf("add %s (network %s): %w", entry.IfName, entry.Name, err)
		}
	}
	result, err := e.chain(r.Sandbox, tx, entry, r.Netns).add(ctx)
	if err != nil {
		return nil, fmt.Errorf("add %s (network %s): %w", entry.IfName, entry.Name, err)
	}
	e.Log.Debug("attached", "interface", entry.IfName, "network", entry.Name, "took", time.Since(began))
	return result, nil
}

func (e *Engine) builtinOnly(entry *Entry) bool {
	return !slices.ContainsFunc(entry.List.Types(), func(typ string) bool { return e.Delegates[typ] == nil })
}

// settle lets each built-in finish all of its attachments together. libcni's cache is
// written while it waits for them.
func (e *Engine) settle(ctx context.Context, r *Request, tx *Transaction, results []*types100.Result) error {
	var names []string
	prepared := map[string][]conf.Prepared{}
	err := e.eachBuiltin(r, tx, func(at int, name string, a conf.Attachment, state json.RawMessage) error {
		if _, ok := e.Delegates[name].(Settler); ok {
			a.IPAM = results[at]
			if prepared[name] == nil {
				names = append(names, name)
			}
			prepared[name] = append(prepared[name], conf.Prepared{Attachment: a, State: state})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return tx.cache()
	}
	cached := make(chan error, 1)
	go func() { cached <- tx.cache() }()
	for _, name := range names {
		if err = e.Delegates[name].(Settler).Settle(ctx, prepared[name]); err != nil {
			err = fmt.Errorf("add: %w", err)
			break
		}
	}
	return errors.Join(err, <-cached)
}

// eachBuiltin calls do with the built-ins of all attachments, and the attachment's place.
func (e *Engine) eachBuiltin(r *Request, tx *Transaction, do func(at int, name string, a conf.Attachment, state json.RawMessage) error) error {
	for at, entry := range tx.Attachments {
		err := e.eachOfChain(r.Sandbox, tx, entry, r.Netns, func(name string, a conf.Attachment, state json.RawMessage) error {
			return do(at, name, a, state)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachOfChain calls do with the built-ins of one attachment.
func (e *Engine) eachOfChain(sandbox string, tx *Transaction, entry *Entry, netns string, do func(name string, a conf.Attachment, state json.RawMessage) error) error {
	c := e.chain(sandbox, tx, entry, netns)
	types, err := c.types()
	if err != nil {
		return err
	}
	for i, typ := range types {
		if _, ok := c.builtIn(typ); !ok {
			continue
		}
		a, err := c.planned(i)
		if err != nil {
			return err
		}
		if err := do(typ, a, entry.State[typ]); err != nil {
			return err
		}
	}
	return nil
}

// status writes the files about devices and gives the annotations that the pod will
// have, network-status among them. others are elements of it that somebody else has
// written.
func (e *Engine) status(ctx context.Context, r *Request, tx *Transaction, results []*types100.Result, others []json.RawMessage) (map[string]string, error) {
	infos, annotations, err := e.describe(ctx, r, tx, results)
	if err == nil && r.Conf != nil && tx.Pod != nil {
		err = addStatus(annotations, tx, results, infos, others)
	}
	return annotations, err
}

// publish sets the annotations, or has them set later.
func (e *Engine) publish(ctx context.Context, r *Request, tx *Transaction, annotations map[string]string) error {
	if r.Conf == nil || tx.Pod == nil {
		return nil
	}
	pod := tx.Pod
	set := func(ctx context.Context) error { return e.setAnnotations(ctx, r.Sandbox, pod, annotations) }
	if e.Later != nil && tx.StatusPlace == "" {
		e.Later(pod, set)
		return nil
	}
	return set(ctx)
}

func (e *Engine) setAnnotations(ctx context.Context, sandbox string, pod *conf.Pod, annotations map[string]string) error {
	err := conf.Step(ctx, "publish network-status of pod %s", pod)
	if err == nil {
		err = e.Source.Publish(ctx, pod, sandbox, annotations)
	}
	if err != nil {
		return fmt.Errorf("publish what pod %s got: %w", pod, err)
	}
	return nil
}
