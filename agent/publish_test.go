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

// publishing is a publisher whose API server is what a test says.
func publishing(t *testing.T) (*publisher, *logged) {
	log := &logged{}
	n := &Node{history: &history{now: time.Now}, cluster: &kube.Cluster{Kubeconfig: "/none", Log: slog.New(slog.NewTextHandler(log, nil))}}
	n.publisher = newPublisher(n)
	n.metrics = newMetrics(delegates.OpenJournal(t.TempDir()), n.publisher.count)
	return n.publisher, log
}

func podCalled(uid string) *conf.Pod { return &conf.Pod{Namespace: "shop", Name: "web", UID: uid} }

// What cannot be published is tried again until it can, and complained of once for
// each cause; meanwhile it can be seen why.
func TestPublishIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := publishing(t)
		tries, began := 0, time.Now()
		p.add("s1", podCalled("u1"), func(context.Context) error {
			if tries++; tries <= 20 {
				return errors.New("the API server is away")
			}
			return nil
		})
		if p.count() != 1 || p.unpublished("s1") == "" {
			t.Error("what is not published does not show")
		}
		p.run("s1")
		synctest.Wait()
		if why := p.unpublished("s1"); why != "the API server is away" {
			t.Errorf("why: %q", why)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.settled(short, "s1"); err == nil || !strings.Contains(err.Error(), "the API server is away") {
			t.Errorf("settled: %v", err)
		}
		p.trying.Wait()
		if tries != 21 || p.count() != 0 || p.unpublished("s1") != "" || p.settled(t.Context(), "s1") != nil {
			t.Errorf("%d tries, %d wait, %q", tries, p.count(), p.unpublished("s1"))
		}
		if took := time.Since(began); took < 15*lastRetry || took > 20*lastRetry {
			t.Errorf("tried for %v", took)
		}
		if n := strings.Count(log.String(), "publish: it is tried again"); n != 1 {
			t.Errorf("%d complaints:\n%s", n, log)
		}
		if h := p.history.last("s1", 100); len(h) != 21 || h[0].Verb != "PUBLISH" || h[0].Error != "" || h[1].Error == "" {
			t.Errorf("history: %+v", h)
		}
	})
}

// Of a pod that is no more nobody has to be told.
func TestPublishOfAPodThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, log := publishing(t)
		p.add("s1", podCalled("u1"), func(context.Context) error { return fmt.Errorf("pod shop/web %w", kube.ErrPodGone) })
		p.run("s1")
		p.trying.Wait()
		if p.count() != 0 || log.String() != "" {
			t.Errorf("%d wait:\n%s", p.count(), log)
		}
	})
}

// A sandbox that is detached is not published any more, whether that waits, is under
// way, or has not begun.
func TestPublishOfASandboxThatIsDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t)
		sent := map[string]int{}
		for _, sandbox := range []string{"waits", "hangs", "before"} {
			p.add(sandbox, podCalled("of-"+sandbox), func(ctx context.Context) error {
				sent[sandbox]++
				if sandbox == "hangs" {
					<-ctx.Done()
				}
				return errors.New("no")
			})
			if sandbox != "before" {
				p.run(sandbox)
			}
			synctest.Wait()
			p.drop(sandbox)
		}
		p.run("before")
		p.trying.Wait()
		if p.count() != 0 || sent["waits"] != 1 || sent["hangs"] != 1 || sent["before"] != 0 {
			t.Errorf("%d wait, sent %v", p.count(), sent)
		}
	})
}

// A pod's newer sandbox is published after its former one's request has ended, and the
// former one never again.
func TestPublishOfANewerSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t)
		var order []string
		p.add("old", podCalled("u1"), func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second) // the request is on the wire
			order = append(order, "old")
			return ctx.Err()
		})
		p.run("old")
		synctest.Wait()
		p.add("new", podCalled("u1"), func(context.Context) error { order = append(order, "new"); return nil })
		p.run("old")
		p.run("new")
		p.trying.Wait()
		if fmt.Sprint(order) != "[old new]" || p.count() != 0 {
			t.Errorf("%v, %d wait", order, p.count())
		}
	})
}

// An agent that ends lets what is under way go out, and tries nothing again; what
// hangs is cut short when its time is over.
func TestPublishWhileTheAgentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := publishing(t)
		done, tries := false, 0
		p.add("slow", podCalled("u1"), func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				done = true
			}
			return nil
		})
		p.add("failing", podCalled("u2"), func(context.Context) error { tries++; return errors.New("no") })
		p.add("hanging", podCalled("u3"), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		for _, sandbox := range []string{"slow", "failing", "hanging"} {
			p.run(sandbox)
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
