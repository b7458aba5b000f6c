package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
)

// publisher tells the API server what pods got, once the runtime has its answer: no
// pod waits for the API server to start. What it cannot tell it tries again
// until it can, or the sandbox is no more. What an agent that ends has not told the
// next one finds (keeper.republish).
type publisher struct {
	*Node
	// again publishes what the journal has of a sandbox, if its pod lacks it.
	again   func(ctx context.Context, sandbox string) error
	mu      sync.Mutex
	waiting map[string]*publication // by sandbox
	former  map[string]*publication // by UID of the pod: replaced, or dropped, and not done
	trying  sync.WaitGroup
	ending  chan struct{}
}

// publication is what one sandbox' pod is to be told.
type publication struct {
	sandbox, ifName string
	pod             *conf.Pod
	publish         func(context.Context) error // the first time; nil: again
	before          *publication                // of the same pod: it ends first

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}

	// Under publisher.mu.
	started bool
	why     string // it is not published
}

// Between two tries: the first time, then twice as long each time, up to the last.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// settleTimeout is how long a change of a pod's networks waits for what it got before
// to be published.
const settleTimeout = 5 * time.Second

// askTimeout is how long a comparison waits for the API server, which may be away.
const askTimeout = 2 * time.Second

func newPublisher(n *Node) *publisher {
	return &publisher{Node: n, waiting: map[string]*publication{}, former: map[string]*publication{}, ending: make(chan struct{})}
}

// add takes over what is to be published of a sandbox. run does it.
func (p *publisher) add(sandbox, ifName string, pod *conf.Pod, publish func(context.Context) error) *publication {
	one := &publication{sandbox: sandbox, ifName: ifName, pod: pod, publish: publish, done: make(chan struct{}), why: "it is about to be"}
	one.ctx, one.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.waiting {
		if other.sandbox == sandbox || other.pod.UID == pod.UID {
			p.remove(other)
		}
	}
	one.before = p.former[pod.UID]
	p.waiting[sandbox] = one
	return one
}

// run publishes what add was given, once.
func (p *publisher) run(one *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[one.sandbox] == one && !one.started {
		one.started = true
		p.trying.Go(func() { p.try(one) })
	}
}

// drop forgets a sandbox' interface; any with "".
func (p *publisher) drop(sandbox, ifName string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.waiting[sandbox]; one != nil && (ifName == "" || one.ifName == ifName) {
		p.remove(one)
	}
}

// forget drops one that add has returned.
func (p *publisher) forget(one *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[one.sandbox] == one {
		p.remove(one)
	}
}

// remove ends one that waits. p.mu is held.
func (p *publisher) remove(one *publication) {
	one.cancel()
	delete(p.waiting, one.sandbox)
	if one.started {
		p.former[one.pod.UID] = one
		return
	}
	one.started = true
	close(one.done)
}

// unpublished says why a sandbox' pod does not know yet what it got; "" when it does.
func (p *publisher) unpublished(sandbox string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.waiting[sandbox]; one != nil {
		return one.why
	}
	return ""
}

// settled waits until a sandbox' pod knows what it got; what is published after that
// is not undone by it.
func (p *publisher) settled(ctx context.Context, sandbox string) error {
	p.mu.Lock()
	one := p.waiting[sandbox]
	p.mu.Unlock()
	if one == nil {
		return nil
	}
	select {
	case <-one.done:
	case <-ctx.Done():
	case <-time.After(settleTimeout):
	}
	if why := p.unpublished(sandbox); why != "" {
		return fmt.Errorf("network-status of what the pod has is not published: %s", why)
	}
	return nil
}

// count is the number of sandboxes that are not published.
func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting)
}

// end lets what is under way go out, and tries nothing again. When ctx is done it is cut short.
func (p *publisher) end(ctx context.Context) {
	close(p.ending)
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, one := range p.waiting {
			one.cancel()
		}
	})
	defer stop()
	p.trying.Wait()
}

func (p *publisher) try(one *publication) {
	defer p.finish(one)
	if one.before != nil {
		<-one.before.done // it is cancelled
		one.before = nil
	}
	for tries, wait := 1, firstRetry; one.ctx.Err() == nil; tries, wait = tries+1, min(2*wait, lastRetry) {
		known, err := p.once(one)
		if err == nil || one.ctx.Err() != nil {
			break
		}
		gone := errors.Is(err, kube.ErrPodGone)
		if gone && known {
			break
		}
		p.failed(one, err, tries == 1 && !gone)
		select {
		case <-one.ctx.Done():
		case <-p.ending:
			return
		case <-time.After(wait):
		}
	}
}

// finish ends one that was tried.
func (p *publisher) finish(one *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[one.sandbox] == one {
		delete(p.waiting, one.sandbox)
	}
	if p.former[one.pod.UID] == one {
		delete(p.former, one.pod.UID)
	}
	one.cancel()
	close(one.done)
}

// once tries once. known: the pod was asked for by its name, a mirror of a static pod
// that was made anew included.
func (p *publisher) once(one *publication) (known bool, err error) {
	t := p.history.begin("PUBLISH", one.sandbox, one.pod.String())
	publish := one.publish
	if one.publish = nil; publish == nil {
		known, publish = true, func(ctx context.Context) error { return p.again(ctx, one.sandbox) }
	}
	err = unpanicked(p.cluster.Log, func() error { return publish(conf.WithSteps(one.ctx, t.step)) })
	t.end(err)
	p.metrics.request(t, err)
	if known && err != nil {
		p.history.forget(t) // it is one of many
	}
	return known, err
}

// unpanicked makes a panic an error: it ends one try, not the agent. Where it was
// is for the log alone, an error reaches the pod's events.
func unpanicked(log *slog.Logger, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("panic", "what", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return do()
}

// failed notes why, and tells it the first time.
func (p *publisher) failed(one *publication, err error, tell bool) {
	p.mu.Lock()
	one.why = err.Error()
	p.mu.Unlock()
	if tell {
		p.cluster.Log.Warn("publish: it is tried again", "sandbox", one.sandbox, "pod", one.pod.String(), "why", err.Error())
		p.cluster.Event(one.pod, true, reasonUnpublished, err.Error())
	}
}

// publishAgain publishes what the journal has of a sandbox, if its pod lacks it.
func (k *keeper) publishAgain(ctx context.Context, sandbox string) error {
	rec, err := k.journal.Read(sandbox)
	if err != nil {
		return err
	}
	tx := rec.Told()
	if tx == nil {
		return nil
	}
	e, err := k.engineFor(rec)
	if err != nil {
		return err
	}
	pod, err := k.cluster.Ask(ctx, tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if err == nil {
		_, err = e.Republish(ctx, sandbox, pod)
	}
	return err
}

// republish has published what a running pod got where the API server does not know
// it: an agent has ended before it had told it, or somebody has removed it.
func (k *keeper) republish(ctx context.Context, rec *delegates.Record) []delegates.Finding {
	tx := rec.Told()
	if tx == nil || rec.Damage != "" || k.cluster == nil || k.publisher.unpublished(rec.Sandbox) != "" {
		return nil
	}
	pod, _ := k.cluster.Known(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if pod == nil || pod.Ended || !tx.Unpublished(pod) || k.replaced(rec.Sandbox, tx) {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	pod, err := k.cluster.Ask(bounded, tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
	if errors.Is(err, kube.ErrPodGone) || err == nil && !tx.Unpublished(pod) || ctx.Err() != nil {
		return nil // the watch is late
	}
	k.publisher.run(k.publisher.add(rec.Sandbox, tx.IfName, tx.Pod, nil))
	return []delegates.Finding{{Sandbox: rec.Sandbox, Pod: tx.Pod, Kind: delegates.FoundMissing, What: "network-status of the pod: it is published again"}}
}
