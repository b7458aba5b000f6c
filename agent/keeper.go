package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// keeper keeps what pods were given: it undoes what was cut short, makes again
// what a vswitch has lost, follows the pods' annotations, and removes what dead
// sandboxes have left.
type keeper struct {
	*Server
	journal *delegates.Journal

	changes chan *conf.Pod // pods whose networks may have to change
	places  chan place     // vswitches that were away
	asked   chan chan []delegates.Finding

	mu      sync.Mutex
	watched map[place]bool
	failed  map[string]string          // by UID of a pod: the networks that it could not be given
	told    map[string]map[string]bool // by sandbox: the differences that are told and there still
	gone    map[string]time.Time       // by sandbox: since when its namespace is gone
	ctx     context.Context            // of run

	complained map[string]bool // what was said of the journal since the last reconciliation
}

// place is what attachments attach to: a vswitch, by delegate and address.
type place struct{ delegate, address string }

// How the keeper works.
const (
	keepers      = 4                // sandboxes that are looked at together
	keepTimeout  = 60 * time.Second // for one sandbox
	lockedWait   = 2 * time.Second  // for all sandboxes together that other requests work on
	aliveEvery   = 10 * time.Second // look for namespaces that are gone
	retries      = 5                // of a change of networks that failed
	retryAfter   = 2 * time.Second  // the first time, then twice as long each time
	afterAbsence = time.Second      // before a vswitch is looked at again whose watch failed
)

func newKeeper(s *Server, journal *delegates.Journal) *keeper {
	return &keeper{
		Server: s, journal: journal,
		changes: make(chan *conf.Pod, 1024), places: make(chan place, 64), asked: make(chan chan []delegates.Finding),
		watched: map[place]bool{}, failed: map[string]string{}, told: map[string]map[string]bool{}, gone: map[string]time.Time{}, complained: map[string]bool{},
	}
}

// run works until ctx is done.
func (k *keeper) run(ctx context.Context) {
	k.mu.Lock()
	k.ctx = ctx
	k.mu.Unlock()
	if err := eachRecord(k.journal, k.index.note); err != nil {
		k.complain(err)
	}
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { k.follow(ctx) })
	arrived := k.podsArrive(ctx)
	k.reconcile(ctx, nil)
	timer, alive := time.NewTicker(k.Reconcile), time.NewTicker(aliveEvery)
	defer timer.Stop()
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			k.reconcile(ctx, nil)
		case <-arrived:
			arrived = nil
			k.eachSandbox(ctx, func(ctx context.Context, rec *delegates.Record, _ *delegates.Engine) {
				for _, f := range k.republish(ctx, rec) {
					k.say(&f)
				}
			})
		case <-alive.C:
			k.bury(ctx)
		case p := <-k.places:
			k.Log.Info("a vswitch answers again", "delegate", p.delegate, "address", p.address)
			k.reconcile(ctx, &p)
		case answer := <-k.asked:
			answer <- k.reconcile(ctx, nil)
		}
	}
}

// resync reconciles now, and says what was found.
func (k *keeper) resync(ctx context.Context) ([]delegates.Finding, error) {
	answer := make(chan []delegates.Finding, 1)
	select {
	case k.asked <- answer:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case found := <-answer:
		return found, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// engineFor is the engine for a recorded sandbox: that of its configuration.
func (k *keeper) engineFor(rec *delegates.Record) (*delegates.Engine, error) {
	c := &conf.Conf{ConfDir: k.ConfDir, DataDir: k.DataDir}
	for _, tx := range rec.Transactions {
		if tx.Conf == nil {
			continue
		}
		recorded, err := conf.Parse(tx.Conf)
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: recorded configuration: %w", rec.Sandbox, err)
		}
		c = recorded
		c.DataDir = k.DataDir
	}
	return k.engine(c, k.Log, k.Stderr)
}

// reconcile compares all sandboxes with the world, or those at one place.
func (k *keeper) reconcile(ctx context.Context, only *place) []delegates.Finding {
	found := []delegates.Finding{}
	var mu sync.Mutex
	if only == nil {
		k.forgetDeleted()
		k.mu.Lock()
		clear(k.complained)
		k.mu.Unlock()
	}
	k.eachSandbox(ctx, func(ctx context.Context, rec *delegates.Record, e *delegates.Engine) {
		if only != nil && !slices.Contains(e.Places(rec)[only.delegate], only.address) {
			return
		}
		t := k.history.begin("RECONCILE", rec.Sandbox, podOf(rec))
		some, err := e.Reconcile(conf.WithSteps(ctx, t.step), rec.Sandbox)
		switch {
		case delegates.IsLocked(err):
			some = append(some, delegates.Finding{Sandbox: rec.Sandbox, Kind: delegates.FoundLocked, What: "skipped: " + err.Error()})
		case err != nil && ctx.Err() == nil:
			some = append(some, delegates.Finding{Sandbox: rec.Sandbox, Kind: delegates.FoundFailed, What: err.Error()})
		}
		if only == nil {
			some = append(some, k.republish(ctx, rec)...)
		}
		if len(some) > 0 {
			t.end(err)
		} else {
			k.history.forget(t)
		}
		k.report(rec, some)
		k.watch(rec)
		mu.Lock()
		defer mu.Unlock()
		found = append(found, some...)
	})
	return found
}

// eachSandbox calls do for each record, some together. A sandbox that another request
// works on is waited for only shortly (delegates.Skipping).
func (k *keeper) eachSandbox(ctx context.Context, do func(context.Context, *delegates.Record, *delegates.Engine)) {
	ctx = delegates.Skipping(ctx, lockedWait)
	records := make(chan *delegates.Record)
	var group sync.WaitGroup
	for range keepers {
		group.Go(func() {
			for rec := range records {
				e, err := k.engineFor(rec)
				if err != nil {
					k.complain(err)
					continue
				}
				bounded, cancel := context.WithTimeout(ctx, keepTimeout)
				do(bounded, rec, e)
				cancel()
			}
		})
	}
	if err := eachRecord(k.journal, func(rec *delegates.Record) {
		if ctx.Err() == nil {
			records <- rec
		}
	}); err != nil {
		k.complain(err)
	}
	close(records)
	group.Wait()
}

// complain logs what cannot be looked at, once for each reconciliation.
func (k *keeper) complain(err error) {
	k.mu.Lock()
	said := k.complained[err.Error()]
	k.complained[err.Error()] = true
	k.mu.Unlock()
	if !said {
		k.Log.Error("journal", "why", err.Error())
	}
}

// podsArrive is closed when the node's pods are known; what can be known of them only
// then is looked at then.
func (k *keeper) podsArrive(ctx context.Context) <-chan struct{} {
	if k.cluster == nil {
		return nil
	}
	arrived := make(chan struct{})
	go func() {
		if k.cluster.AwaitPods(ctx) {
			close(arrived)
		}
	}()
	return arrived
}

// bury undoes sandboxes whose namespace has been gone for the grace time, and
// which are not those of a pod that runs.
func (k *keeper) bury(ctx context.Context) {
	ctx = delegates.Skipping(ctx, lockedWait)
	err := eachRecord(k.journal, func(rec *delegates.Record) {
		if ctx.Err() != nil {
			return
		}
		if rec.Alive() || k.needed(rec) {
			k.mu.Lock()
			delete(k.gone, rec.Sandbox)
			k.mu.Unlock()
			return
		}
		k.mu.Lock()
		since, known := k.gone[rec.Sandbox]
		if !known {
			since = time.Now()
			k.gone[rec.Sandbox] = since
		}
		k.mu.Unlock()
		if time.Since(since) < k.Grace {
			return
		}
		e, err := k.engineFor(rec)
		if err == nil {
			bounded, cancel := context.WithTimeout(ctx, keepTimeout)
			defer cancel()
			err = k.reclaim(bounded, rec, e, "its network namespace is gone")
		}
		if err != nil {
			k.complain(fmt.Errorf("reclaim sandbox %s: %w", rec.Sandbox, err))
		}
	})
	if err != nil {
		k.complain(err)
	}
}

// needed: the pod is on this node, has not ended, and has no newer sandbox. Its
// runtime will DEL; a namespace that only cannot be seen costs no pod its networks.
func (k *keeper) needed(rec *delegates.Record) bool {
	for _, tx := range rec.Transactions {
		if tx.Pod == nil || k.cluster == nil {
			continue
		}
		pod, known := k.cluster.Known(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
		if !known {
			return true // nobody can tell
		}
		if pod != nil && !pod.Ended && !k.replaced(rec.Sandbox, tx) {
			return true
		}
	}
	return false
}

// replaced: the pod has a newer sandbox.
func (k *keeper) replaced(sandbox string, tx *delegates.Transaction) bool {
	for _, other := range k.index.sandboxes(tx.Pod.UID) {
		rec, err := k.journal.Read(other)
		if err != nil || rec == nil || other == sandbox {
			continue
		}
		if slices.ContainsFunc(rec.Transactions, func(t *delegates.Transaction) bool { return t.Started.After(tx.Started) }) {
			return true
		}
	}
	return false
}

// reclaim undoes a sandbox that no runtime will DEL.
func (k *keeper) reclaim(ctx context.Context, rec *delegates.Record, e *delegates.Engine, why string) error {
	t := k.history.begin("RECLAIM", rec.Sandbox, podOf(rec))
	err := e.Reclaim(conf.WithSteps(ctx, t.step), rec.Sandbox)
	t.end(err)
	k.metrics.request(t, err)
	if err != nil {
		return err
	}
	k.index.detached(rec.Sandbox)
	k.publisher.drop(rec.Sandbox, "")
	k.forget(rec.Sandbox)
	k.Log.Warn("reclaimed", "sandbox", rec.Sandbox, "pod", podOf(rec), "why", why)
	for _, tx := range rec.Transactions {
		if k.cluster != nil && tx.Pod != nil {
			k.cluster.Event(tx.Pod, false, reasonReclaimed, "sandbox "+rec.Sandbox+": "+why)
		}
	}
	return nil
}

// forgetDeleted forgets what is remembered of sandboxes that have no record any
// more: DEL, GC and plexusd cni end them too.
func (k *keeper) forgetDeleted() {
	known := k.index.all() // before the journal is read: what comes meanwhile stays
	k.mu.Lock()
	known = slices.AppendSeq(known, maps.Keys(k.told))
	known = slices.AppendSeq(known, maps.Keys(k.gone))
	k.mu.Unlock()
	recorded, err := k.journal.Sandboxes()
	if err != nil {
		return // reconcile says it
	}
	for _, sandbox := range known {
		if !slices.Contains(recorded, sandbox) {
			k.index.detached(sandbox)
			k.publisher.drop(sandbox, "")
			k.forget(sandbox)
		}
	}
}

// forget drops what was told of a sandbox that is no more.
func (k *keeper) forget(sandbox string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.told, sandbox)
	delete(k.gone, sandbox)
}

// podOf is the pod of a record, for people.
func podOf(rec *delegates.Record) string {
	for _, tx := range rec.Transactions {
		if tx.Pod != nil {
			return tx.Pod.String()
		}
	}
	return ""
}

// watch begins to watch what a record's attachments attach to, and sees whether
// the pod asks for other networks by now.
func (k *keeper) watch(rec *delegates.Record) {
	for _, tx := range rec.Transactions {
		if k.cluster == nil || tx.Pod == nil {
			continue
		}
		if pod, _ := k.cluster.Known(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID); pod != nil {
			k.queue(pod) // since it was wired
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ctx == nil {
		return // run takes in the journal when it begins
	}
	for delegate, addresses := range (&delegates.Engine{Delegates: k.delegates}).Places(rec) {
		for _, address := range addresses {
			p := place{delegate, address}
			if !k.watched[p] {
				k.watched[p] = true
				go k.watchPlace(k.ctx, p)
			}
		}
	}
}

func (k *keeper) watchPlace(ctx context.Context, p place) {
	w := k.delegates[p.delegate].(delegates.Watcher)
	for ctx.Err() == nil {
		if err := w.Watch(ctx, p.address); err != nil {
			if ctx.Err() == nil {
				k.Log.Warn("watch", "delegate", p.delegate, "address", p.address, "why", err.Error())
			}
			select {
			case <-ctx.Done():
			case <-time.After(afterAbsence):
			}
			continue
		}
		select {
		case k.places <- p:
		case <-ctx.Done():
		}
	}
}

// notReady says what is missing before the agent serves as it should. The first
// comparison with the world is not: a vswitch that never answers would hold up the
// rollout of a DaemonSet, and a request for a sandbox whose former one was cut short
// undoes that one first, under the sandbox' lock.
func (k *keeper) notReady() error {
	var errs []error
	if k.cluster != nil {
		errs = append(errs, k.cluster.Synced())
	}
	if k.Installed != nil {
		errs = append(errs, k.Installed())
	}
	return errors.Join(errs...)
}
