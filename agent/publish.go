package agent

import (
	"context"
	"errors"
	"fmt"
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
	mu      sync.Mutex
	waiting map[string]*publication // by sandbox
	trying  sync.WaitGroup
	ending  chan struct{}
}

// publication is what one sandbox' pod is to be told.
type publication struct {
	sandbox string
	pod     *conf.Pod
	publish func(context.Context) error
	before  *publication // of the same pod, which has to end first

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	why    string // it is not published; under publisher.mu
}

// Between two tries: the first time, then twice as long each time, up to the last.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// settleTimeout is how long a change of a pod's networks waits for what it got before
// to be published.
const settleTimeout = 5 * time.Second

func newPublisher(n *Node) *publisher {
	return &publisher{Node: n, waiting: map[string]*publication{}, ending: make(chan struct{})}
}

// add takes over what is to be published of a sandbox. run does it.
func (p *publisher) add(sandbox string, pod *conf.Pod, publish func(context.Context) error) {
	one := &publication{sandbox: sandbox, pod: pod, publish: publish, done: make(chan struct{}), why: "it is about to be"}
	one.ctx, one.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.waiting {
		if other.sandbox == sandbox || other.pod.UID == pod.UID {
			one.before = other
			other.cancel()
			delete(p.waiting, other.sandbox)
		}
	}
	p.waiting[sandbox] = one
}

// run publishes what add was given.
func (p *publisher) run(sandbox string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.waiting[sandbox]; one != nil {
		p.trying.Go(func() { p.try(one) })
	}
}

// drop forgets a sandbox.
func (p *publisher) drop(sandbox string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.waiting[sandbox]; one != nil {
		one.cancel()
		delete(p.waiting, sandbox)
	}
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
	defer close(one.done)
	defer one.cancel()
	if one.before != nil {
		select {
		case <-one.before.done:
		case <-one.ctx.Done():
		}
		one.before = nil
	}
	for wait := firstRetry; one.ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		err := p.once(one)
		if err == nil || one.ctx.Err() != nil || errors.Is(err, kube.ErrPodGone) {
			break
		}
		p.failed(one, err)
		select {
		case <-one.ctx.Done():
		case <-p.ending:
			return
		case <-time.After(wait):
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[one.sandbox] == one {
		delete(p.waiting, one.sandbox)
	}
}

func (p *publisher) once(one *publication) error {
	t := p.history.begin("PUBLISH", one.sandbox, one.pod.String())
	err := one.publish(conf.WithSteps(one.ctx, t.step))
	t.end(err)
	p.metrics.request(t, err)
	return err
}

// failed tells of a failure, once for each cause.
func (p *publisher) failed(one *publication, err error) {
	p.mu.Lock()
	known := one.why == err.Error()
	one.why = err.Error()
	p.mu.Unlock()
	if known {
		return
	}
	p.cluster.Log.Warn("publish: it is tried again", "sandbox", one.sandbox, "pod", one.pod.String(), "why", err.Error())
	p.cluster.Event(one.pod, true, reasonUnpublished, err.Error())
}

// republish publishes what a running pod has got where the API server does not know
// it: an agent has ended before it had told it, or somebody has removed it.
func (k *keeper) republish(ctx context.Context, rec *delegates.Record, e *delegates.Engine) []delegates.Finding {
	if k.cluster == nil || k.publisher.unpublished(rec.Sandbox) != "" {
		return nil
	}
	for _, tx := range rec.Transactions {
		if tx.Pod == nil {
			continue
		}
		pod, _ := k.cluster.Known(tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID)
		if pod == nil || pod.Ended || !tx.Unpublished(pod) || k.replaced(rec.Sandbox, tx) {
			continue
		}
		found := delegates.Finding{Sandbox: rec.Sandbox, Pod: tx.Pod, Kind: delegates.FoundMissing, What: "network-status of the pod: it is published again"}
		did := false
		pod, err := k.cluster.Ask(ctx, tx.Pod.Namespace, tx.Pod.Name, tx.Pod.UID) // the watch may be late
		if err == nil {
			did, err = e.Republish(ctx, rec.Sandbox, pod)
		}
		if errors.Is(err, kube.ErrPodGone) || err == nil && !did {
			return nil
		}
		if err != nil {
			found.Kind, found.What = delegates.FoundFailed, err.Error()
		}
		return []delegates.Finding{found}
	}
	return nil
}
