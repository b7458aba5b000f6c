package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/kube"
)

// publishing is a publisher whose API server is what a test says: again is asked from the
// second try on.
func publishing(t *testing.T, again func(ctx context.Context, sandbox string) error) (*publisher, *logged) {
	log := &logged{}
	n := &Node{history: &history{now: time.Now}, cluster: &kube.Cluster{Kubeconfig: "/none", Log: slog.New(slog.NewTextHandler(log, nil))}}
	n.publisher = newPublisher(n)
	n.publisher.again = again
	n.metrics = newMetrics(delegates.OpenJournal(t.TempDir()), n.publisher.count)
	return n.publisher, log
}

func podCalled(uid string) *conf.Pod { return &conf.Pod{Namespace: "shop", Name: "web", UID: uid} }

func never(context.Context, string) error { return errors.New("not to be tried again") }

func failing(context.Context) error { return errors.New("the API server is away") }

// What cannot be published is tried again until it can, and complained of once;
// meanwhile it can be seen why.
func TestPublishIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, began := 1, time.Now()
		p, log := publishing(t, func(context.Context, string) error {
			if tries++; tries == 10 {
				panic("a defect")
			}
			if tries <= 20 {
				return fmt.Errorf("dial from port %d", tries)
			}
			return nil
		})
		one := p.add("s1", "eth0", podCalled("u1"), failing)
		if p.count() != 1 || p.unpublished("s1") == "" {
			t.Error("what is not published does not show")
		}
		p.run(one)
		p.run(one) // a request that is made again
		synctest.Wait()
		if why := p.unpublished("s1"); why != "the API server is away" {
			t.Errorf("why: %q", why)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.settled(short, "s1"); err == nil || !strings.Contains(err.Error(), "not published: dial from port 2") {
			t.Errorf("settled: %v", err)
		}
		p.trying.Wait()
		p.run(one)
		if tries != 21 || p.count() != 0 || p.unpublished("s1") != "" || p.settled(t.Context(), "s1") != nil {
			t.Errorf("%d tries, %d wait, %q", tries, p.count(), p.unpublished("s1"))
		}
		if took := time.Since(began); took < 15*lastRetry || took > 20*lastRetry {
			t.Errorf("tried for %v", took)
		}
		if n := strings.Count(log.String(), "publish: it is tried again"); n != 1 {
			t.Errorf("%d complaints:\n%s", n, log)
		}
		if h := p.history.last("s1", 100); len(h) != 2 || h[0].Verb != "PUBLISH" || h[0].Error != "" || h[1].Error == "" {
			t.Errorf("history: %+v", h)
		}
	})
}

// Of a pod that is no more nobody has to be told; whether the pod has only another
// UID by now, as a static pod's mirror may, is asked first.
func TestPublishOfAPodThatIsGone(t *testing.T) {
	gone := fmt.Errorf("pod shop/web %w", kube.ErrPodGone)
	for _, errAgain := range []error{gone, nil} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			p, log := publishing(t, func(context.Context, string) error { tries++; return errAgain })
			p.run(p.add("s1", "eth0", podCalled("u1"), func(context.Context) error { return gone }))
			p.trying.Wait()
			if p.count() != 0 || log.String() != "" || tries != 1 {
				t.Errorf("%d wait, %d more tries:\n%s", p.count(), tries, log)
			}
		})
	}
}

// A sandbox that is detached is not published any more, whether that waits, is under
// way, or has not begun; another of its interfaces changes nothing.
func TestPublishOfASandboxThatIsDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t, never)
		sent := map[string]int{}
		for _, sandbox := range []string{"waits", "hangs", "before"} {
			one := p.add(sandbox, "eth0", podCalled("of-"+sandbox), func(ctx context.Context) error {
				sent[sandbox]++
				if sandbox == "hangs" {
					<-ctx.Done()
				}
				return errors.New("no")
			})
			if sandbox != "before" {
				p.run(one)
			}
			synctest.Wait()
			if p.drop(sandbox, "eth1"); p.count() != 1 {
				t.Errorf("%s: another interface's end has ended it", sandbox)
			}
			p.drop(sandbox, "eth0")
			p.run(one)
		}
		p.trying.Wait()
		if p.count() != 0 || sent["waits"] != 1 || sent["hangs"] != 1 || sent["before"] != 0 {
			t.Errorf("%d wait, sent %v", p.count(), sent)
		}
	})
}

// A pod's newest sandbox is published after the requests of its former ones have ended,
// and those never again, one that had not begun among them.
func TestPublishOfANewerSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t, never)
		var order []string
		old := p.add("old", "eth0", podCalled("u1"), func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second) // the request is on the wire
			order = append(order, "old")
			return ctx.Err()
		})
		p.run(old)
		synctest.Wait()
		middle := p.add("middle", "eth0", podCalled("u1"), failing)
		unbegun := p.add("middle", "eth1", podCalled("u1"), failing)
		p.run(middle)
		last := p.add("new", "eth0", podCalled("u1"), func(context.Context) error { order = append(order, "new"); return nil })
		p.run(unbegun)
		p.run(old)
		p.run(last)
		p.trying.Wait()
		if fmt.Sprint(order) != "[old new]" || p.count() != 0 || len(p.former) != 0 {
			t.Errorf("%v, %d wait", order, p.count())
		}
	})
}

// So is a sandbox that comes when its pod's former one has been detached.
func TestPublishAfterADetachedSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t, never)
		var order []string
		p.run(p.add("old", "eth0", podCalled("u1"), func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second) // the request is on the wire
			order = append(order, "old")
			return ctx.Err()
		}))
		synctest.Wait()
		p.drop("old", "eth0")
		failed := p.add("failed", "eth0", podCalled("u1"), failing)
		last := p.add("new", "eth0", podCalled("u1"), func(context.Context) error { order = append(order, "new"); return nil })
		p.forget(failed) // another took its place
		p.run(last)
		p.trying.Wait()
		if fmt.Sprint(order) != "[old new]" || p.count() != 0 || len(p.former) != 0 {
			t.Errorf("%v, %d wait, %d former", order, p.count(), len(p.former))
		}
	})
}

// An agent that ends lets what is under way go out, and tries nothing again; what
// hangs is cut short when its time is over.
func TestPublishWhileTheAgentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t, never)
		done, tries := false, 0
		slow := p.add("slow", "eth0", podCalled("u1"), func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				done = true
			}
			return nil
		})
		second := p.add("failing", "eth0", podCalled("u2"), func(context.Context) error { tries++; return errors.New("no") })
		third := p.add("hanging", "eth0", podCalled("u3"), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		for _, one := range []*publication{slow, second, third} {
			p.run(one)
		}
		synctest.Wait()
		bounded, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.end(bounded)
		if !done || tries != 1 {
			t.Errorf("the slow one is done: %v; %d tries", done, tries)
		}
	})
}
