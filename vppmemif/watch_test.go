package vppmemif

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/standin"
)

// sent notifies of each request of a kind.
func (r *rig) sent(message string) <-chan bool {
	told := make(chan bool, 100)
	r.onMessage(func(m standin.Message) {
		if m.Name == message {
			told <- true
		}
	})
	return told
}

// watch starts a Watch. Its reports come by the first channel, its end by the second.
func watch(ctx context.Context, d *Delegate, place string) (reports, ended <-chan error) {
	told, done := make(chan error, 100), make(chan error, 1)
	go func() { done <- d.Watch(ctx, place, func(err error) { told <- err }) }()
	return told, done
}

// wantReport waits for a report that VPP works, or that it does not.
func wantReport(t *testing.T, reports <-chan error, works bool) {
	t.Helper()
	for {
		if err := wantSoon(t, reports); (err == nil) == works {
			return
		}
	}
}

func wantSoon[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-bounded(t).Done():
		t.Fatal("it does not come")
	}
	return got
}

// Watch says when VPP has gone and when it is there again, each time, and sends nothing but
// pings meanwhile, over one connection.
func TestWatch(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	pinged := r.sent("control_ping")
	ctx, cancel := context.WithCancel(bounded(t))
	reports, ended := watch(ctx, d, r.Socket())
	for range 2 {
		wantSoon(t, pinged)
	}
	d.ping(t, r) // one request and its answer: all that Watch would send has been sent
	names := slices.DeleteFunc(r.names(), func(name string) bool { return name == "control_ping" })
	if !slices.Equal(names, []string{"sockclnt_create", "sockclnt_create", "show_version"}) {
		t.Errorf("sent: %q", r.names())
	}
	for range 2 {
		r.restart()
		wantReport(t, reports, false)
		wantReport(t, reports, true)
	}
	cancel()
	if err := wantSoon(t, ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	d.Close()
	if n := r.Count("sockclnt_create") - r.Count("sockclnt_delete"); n != 0 {
		t.Errorf("%d have gone without a goodbye: %q", n, r.names())
	}
}

// Away at first, without a socket, with a stale one, or silent: it is waited for.
func TestWatchAway(t *testing.T) {
	for _, file := range []string{"left", "gone"} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		r.Close()
		if file == "gone" {
			if err := os.Remove(r.Socket()); err != nil {
				t.Fatal(err)
			}
		}
		waits, ctx := waitingFor(t)
		reports, _ := watch(ctx, d, r.Socket())
		wantSoon(t, waits)
		wantReport(t, reports, false)
		pinged := r.sent("control_ping")
		r.start(standin.Options{Faults: []standin.Fault{{Message: "control_ping", Ending: standin.Silence}}})
		wantSoon(t, pinged)
		for len(reports) > 0 {
			if err := <-reports; err == nil {
				t.Error("it is said to work though VPP does not answer")
			}
		}
		r.restart()
		wantReport(t, reports, true)
		d.Close()
	}
}

// waitingFor is a context that notifies when Watch waits for it: an attempt has failed
// then.
func waitingFor(t *testing.T) (<-chan bool, context.Context) {
	told := make(chan bool, 1)
	return told, notifier{bounded(t), told}
}

// Who stops watching says goodbye to VPP.
func TestWatchStopped(t *testing.T) {
	r, d := newRig(t, standin.Options{}), newDelegate(t)
	pinged := r.sent("control_ping")
	ctx, cancel := context.WithCancel(bounded(t))
	_, done := watch(ctx, d, r.Socket())
	wantSoon(t, pinged)
	cancel()
	if err := wantSoon(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if n := r.Count("sockclnt_delete"); n != 1 {
		t.Errorf("%d goodbyes: %q", n, r.names())
	}
	r.Close()
	ctx, cancel = context.WithCancel(bounded(t))
	cancel()
	if err := d.Watch(ctx, r.Socket(), func(error) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("of a VPP that is away: %v", err)
	}
}

// names are the requests that have come in.
func (r *rig) names() (names []string) {
	for _, m := range r.Messages() {
		names = append(names, m.Name)
	}
	return names
}

// ping makes a request without an effect.
func (d *Delegate) ping(t *testing.T, r *rig) {
	t.Helper()
	if err := d.ready(bounded(t), r.attachment(sandboxA, nil).Conf); err != nil {
		t.Fatal(err)
	}
}

// A connection that ends between request and answer ends the request, long before
// its time is over.
func TestCutIsNoticed(t *testing.T) {
	for name, ending := range map[string]standin.Ending{"cut": standin.Cut, "dies": standin.Die} {
		r, d := newRig(t, standin.Options{}), newDelegate(t)
		a := r.attachment(sandboxA, nil)
		raw, err := d.prepare(bounded(t), a)
		if err != nil {
			t.Fatal(err)
		}
		r.faults(standin.Fault{Message: "memif_create_v2", Act: true, Ending: ending})
		begun := time.Now()
		_, err = add(bounded(t), d, a, raw)
		if took := time.Since(begun); took >= replyTimeout {
			t.Errorf("%s: it took %s", name, took)
		}
		wantError(t, err, r.Socket(), "is unreachable", "ended the connection")
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			t.Errorf("%s: not temporary: %v", name, err)
		}
	}
}
