package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/plexus-cni/plexus/kube"
)

// try publishes until it succeeds, the publication is canceled, or the publisher is
// closed.
func (p *publisher) try(one *publication) {
	defer p.finish(one)
	if one.before != nil {
		<-one.before.done // it is canceled
		one.before = nil
	}
	select {
	case <-one.ctx.Done():
	case <-time.After(answerFirst):
	}
	for tries, wait := 1, firstRetry; one.isPending(); tries, wait = tries+1, min(2*wait, lastRetry) {
		byName, err := p.once(one)
		if err == nil || !one.isPending() {
			break
		}
		gone := errors.Is(err, kube.ErrPodGone)
		if gone && byName {
			break
		}
		p.mu.Lock()
		one.why = err.Error()
		p.mu.Unlock()
		if tries == 1 && !gone { // later ones fail for the same reason, mostly
			p.telemetry.log.Warn("publish: it is tried again", "sandbox", one.sandbox, "pod", one.pod.String(), "why", err.Error())
			p.cluster.Event(one.pod, true, reasonUnpublished, err.Error())
		}
		select {
		case <-one.ctx.Done():
		case <-p.closed:
			return
		case <-time.After(wait):
		}
	}
}

// finish ends a publication that was tried.
func (p *publisher) finish(one *publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.newest[one.pod.UID] == one {
		delete(p.newest, one.pod.UID)
	}
	one.cancel()
	close(one.done)
}

// once tries once. byName: the pod was read by its name, so a mirror of a static pod that
// was made anew would have been found.
func (p *publisher) once(one *publication) (byName bool, err error) {
	publish := one.publish
	if one.publish = nil; publish == nil {
		byName, publish = true, func(ctx context.Context) error { return p.again(ctx, one.sandbox) }
	}
	event, err := p.telemetry.observe(one.ctx, "PUBLISH", one.sandbox, one.pod.String(), func(ctx context.Context) error {
		return unpanicked(p.telemetry.log, func() error { return publish(ctx) })
	})
	if byName && err != nil {
		p.telemetry.history.forget(event) // the failure of the first try is in the history
	}
	return byName, err
}

// unpanicked makes a panic an error: it ends one try, not the agent. The stack goes to
// the log alone, for an error reaches the pod's events.
func unpanicked(log *slog.Logger, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Error("panic", "what", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return do()
}
