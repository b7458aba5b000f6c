package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/kube"
)

// publisher writes to the API server which networks pods have, once ADD has answered: no
// pod waits for the API server to start. It tries until it succeeds, or the sandbox is
// deleted. What an agent that ends has not published the next one finds (republish).
type publisher struct {
	cluster   cluster
	telemetry *telemetry
	// again publishes what the journal has of a sandbox, if its pod lacks it.
	again func(ctx context.Context, sandbox string) error

	queue  chan *publication
	closed chan struct{} // no ADD comes any more

	mu     sync.Mutex
	newest map[string]*publication // by UID of the pod: pending, or canceled and under way
}

// publication is what is published of one sandbox.
type publication struct {
	sandbox, ifName string
	pod             *conf.Pod
	publish         func(context.Context) error // of the first try; nil: publisher.again
	before          *publication                // of the same pod: it ends first

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	why    string // it is not published; under publisher.mu
}

// isPending is false when it is published, replaced, or dropped.
func (one *publication) isPending() bool { return one.ctx.Err() == nil }

// Delays of a publication.
const (
	answerFirst = 10 * time.Millisecond  // the runtime gets the answer, and plexus ends, before the first try
	firstRetry  = 500 * time.Millisecond // then twice as long each time
	lastRetry   = 15 * time.Second
	// statusTimeout is how long a change of networks waits for the publication of those
	// that the pod has.
	statusTimeout = 5 * time.Second
)

func newPublisher(c cluster, t *telemetry, again func(ctx context.Context, sandbox string) error) *publisher {
	return &publisher{
		cluster: c, telemetry: t, again: again, queue: make(chan *publication), closed: make(chan struct{}),
		newest: map[string]*publication{},
	}
}

// Run publishes what it is given until close is called and what is under way has ended,
// or the agent's time to end is over.
func (p *publisher) Run(ctx context.Context) error {
	late, stop := drained(ctx)
	defer stop()
	defer context.AfterFunc(late, p.cancelAll)()
	var tries sync.WaitGroup
	defer tries.Wait()
	for {
		select {
		case one := <-p.queue:
			tries.Go(func() { p.try(one) })
		case <-p.closed:
			return nil
		}
	}
}

// close ends Run: nothing is tried again.
func (p *publisher) close() { close(p.closed) }

func (p *publisher) cancelAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.newest {
		one.cancel()
	}
}

// serves reports whether an engine's source is the API server that is published to.
func (p *publisher) serves(s engine.Source) bool {
	live, ok := s.(*kube.Live)
	return ok && p.cluster == cluster(live.Cluster)
}

// publish has a sandbox published, in place of what is pending of it or of its pod.
func (p *publisher) publish(sandbox, ifName string, pod *conf.Pod, publish func(context.Context) error) {
	one := &publication{sandbox: sandbox, ifName: ifName, pod: pod, publish: publish, done: make(chan struct{}), why: "it is about to be"}
	one.ctx, one.cancel = context.WithCancel(context.Background())
	p.mu.Lock()
	for uid, other := range p.newest {
		if other.sandbox == sandbox || uid == pod.UID {
			other.cancel()
		}
	}
	one.before = p.newest[pod.UID]
	p.newest[pod.UID] = one
	p.mu.Unlock()
	select {
	case p.queue <- one:
	case <-p.closed:
	}
}

// pending is the publication of a sandbox that is not published, nil when there is none, and
// why it is not.
func (p *publisher) pending(sandbox string) (one *publication, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.newest {
		if one.sandbox == sandbox && one.isPending() {
			return one, one.why
		}
	}
	return nil, ""
}

// drop cancels the publication of a sandbox' interface, of any with "".
func (p *publisher) drop(sandbox, ifName string) {
	if one, _ := p.pending(sandbox); one != nil && (ifName == "" || one.ifName == ifName) {
		one.cancel()
	}
}

// unpublished is why a sandbox is not published yet, "" when it is.
func (p *publisher) unpublished(sandbox string) string {
	_, why := p.pending(sandbox)
	return why
}

// count is the number of sandboxes that are not published.
func (p *publisher) count() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.newest {
		if one.isPending() {
			n++
		}
	}
	return n
}

// await waits until a sandbox is published, for statusTimeout at most. What is published
// after that does not overwrite a later change.
func (p *publisher) await(ctx context.Context, sandbox string) error {
	one, _ := p.pending(sandbox)
	if one == nil {
		return nil
	}
	select {
	case <-one.done:
	case <-ctx.Done():
	case <-time.After(statusTimeout):
	}
	if why := p.unpublished(sandbox); why != "" {
		return fmt.Errorf("network-status of what the pod has is not published: %s", why)
	}
	return nil
}
