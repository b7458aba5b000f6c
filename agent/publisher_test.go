package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
)

// publishing is a publisher whose API server is what a test says: again is called from the
// second try on. end ends it as an agent does that has answered all requests, and waits
// until it has ended; with a context it is cut short.
type publishing struct {
	*publisher
	log   *logged
	t     *testing.T
	stop  context.CancelFunc
	ended chan error
}

func newPublishing(t *testing.T, again func(ctx context.Context, sandbox string) error) *publishing {
	p := &publishing{log: &logged{}, t: t, ended: make(chan error, 1)}
	log := slog.New(slog.NewTextHandler(p.log, nil))
	shown := &telemetry{history: &history{now: time.Now}, log: log}
	p.publisher = newPublisher(&kube.Cluster{Kubeconfig: "/none", Log: log}, shown, again)
	shown.metrics = newMetrics(newStore(journal.Open(t.TempDir())), p.count)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() { p.ended <- p.Run(ctx) }()
	t.Cleanup(stop)
	return p
}

// idle waits until nothing is pending or under way.
func (p *publishing) idle() {
	for {
		p.mu.Lock()
		idle := len(p.newest) == 0
		p.mu.Unlock()
		if idle {
			synctest.Wait()
			return
		}
		time.Sleep(time.Second) // of the bubble's clock
	}
}

func (p *publishing) end() {
	p.close()
	if err := <-p.ended; err != nil {
		p.t.Error(err)
	}
	p.stop()
}

func podCalled(uid string) *conf.Pod { return &conf.Pod{Namespace: "shop", Name: "web", UID: uid} }

func never(context.Context, string) error { return errors.New("not to be tried again") }

func failing(context.Context) error { return errors.New("the API server is away") }

// What cannot be published is tried again until it can, and logged once; meanwhile the
// reason shows.
func TestPublishIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, began := 1, time.Now()
		p := newPublishing(t, func(context.Context, string) error {
			if tries++; tries == 10 {
				panic("a defect")
			}
			if tries <= 20 {
				return fmt.Errorf("dial from port %d", tries)
			}
			return nil
		})
		defer p.end()
		p.publish("s1", "eth0", podCalled("u1"), failing)
		if p.count() != 1 || p.unpublished("s1") == "" {
			t.Error("what is not published does not show")
		}
		time.Sleep(2 * answerFirst)
		if why := p.unpublished("s1"); why != "the API server is away" {
			t.Errorf("why: %q", why)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.await(short, "s1"); err == nil || !strings.Contains(err.Error(), "not published: dial from port 2") {
			t.Errorf("await: %v", err)
		}
		p.idle()
		if tries != 21 || p.count() != 0 || p.unpublished("s1") != "" || p.await(t.Context(), "s1") != nil {
			t.Errorf("%d tries, %d pending, %q", tries, p.count(), p.unpublished("s1"))
		}
		if took := time.Since(began); took < 15*lastRetry || took > 20*lastRetry {
			t.Errorf("tried for %v", took)
		}
		if n := strings.Count(p.log.String(), "publish: it is tried again"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, p.log)
		}
		if h := p.telemetry.history.last("s1", 100); len(h) != 2 || h[0].Verb != "PUBLISH" || h[0].Error != "" || h[1].Error == "" {
			t.Errorf("history: %+v", h)
		}
	})
}

// Nothing is published of a pod that is deleted; whether the pod has only another UID by
// now, as a static pod's mirror may, is read first.
func TestPublishOfAPodThatIsGone(t *testing.T) {
	gone := fmt.Errorf("pod shop/web %w", kube.ErrPodGone)
	for _, errAgain := range []error{gone, nil} {
		synctest.Test(t, func(t *testing.T) {
			tries := 0
			p := newPublishing(t, func(context.Context, string) error { tries++; return errAgain })
			defer p.end()
			p.publish("s1", "eth0", podCalled("u1"), func(context.Context) error { return gone })
			p.idle()
			if p.count() != 0 || p.log.String() != "" || tries != 1 {
				t.Errorf("%d pending, %d more tries:\n%s", p.count(), tries, p.log)
			}
		})
	}
}

// A sandbox that is detached is not published any more, whether that waits, is under
// way, or has not begun; a DEL of another of its interfaces changes nothing.
func TestPublishOfASandboxThatIsDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublishing(t, never)
		defer p.end()
		sent := map[string]int{}
		for _, sandbox := range []string{"waits", "hangs", "before"} {
			p.publish(sandbox, "eth0", podCalled("of-"+sandbox), func(ctx context.Context) error {
				sent[sandbox]++
				if sandbox == "hangs" {
					<-ctx.Done()
				}
				return errors.New("no")
			})
			if sandbox != "before" {
				time.Sleep(2 * answerFirst)
			}
			synctest.Wait()
			if p.drop(sandbox, "eth1"); p.count() != 1 {
				t.Errorf("%s: another interface's end has ended it", sandbox)
			}
			p.drop(sandbox, "eth0")
		}
		p.idle()
		if p.count() != 0 || sent["waits"] != 1 || sent["hangs"] != 1 || sent["before"] != 0 {
			t.Errorf("%d pending, sent %v", p.count(), sent)
		}
	})
}

// hanging is a publication that hangs until it is canceled, and then a second long, as a
// request does that is on the wire.
func hanging(name string, order *[]string) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(time.Second)
		*order = append(*order, name)
		return ctx.Err()
	}
}

// A pod's newest sandbox is published after the requests of its former ones have ended,
// and those never again, one that had not begun among them.
func TestPublishOfANewerSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublishing(t, never)
		defer p.end()
		var order []string
		p.publish("old", "eth0", podCalled("u1"), hanging("old", &order))
		time.Sleep(2 * answerFirst)
		for _, ifName := range []string{"eth0", "eth1"} {
			p.publish("middle", ifName, podCalled("u1"), func(context.Context) error { order = append(order, "middle"); return nil })
		}
		p.publish("new", "eth0", podCalled("u1"), func(context.Context) error { order = append(order, "new"); return nil })
		p.idle()
		if fmt.Sprint(order) != "[old new]" || p.count() != 0 {
			t.Errorf("%v, %d pending", order, p.count())
		}
	})
}

// So is a sandbox that comes when its pod's former one has been detached.
func TestPublishAfterADetachedSandbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublishing(t, never)
		defer p.end()
		var order []string
		p.publish("old", "eth0", podCalled("u1"), hanging("old", &order))
		time.Sleep(2 * answerFirst)
		p.drop("old", "eth0")
		p.publish("failed", "eth0", podCalled("u1"), failing)
		p.publish("new", "eth0", podCalled("u1"), func(context.Context) error { order = append(order, "new"); return nil })
		p.idle()
		if fmt.Sprint(order) != "[old new]" || p.count() != 0 {
			t.Errorf("%v, %d pending", order, p.count())
		}
	})
}

// An agent that ends lets what is under way go out, and tries nothing again; what hangs
// is canceled when the time to drain is over.
func TestPublishWhileTheAgentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPublishing(t, never)
		done, canceled, tries := false, false, 0
		p.publish("slow", "eth0", podCalled("u1"), func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				done = true
			}
			return nil
		})
		p.publish("failing", "eth0", podCalled("u2"), func(context.Context) error { tries++; return errors.New("no") })
		p.publish("hanging", "eth0", podCalled("u3"), func(ctx context.Context) error { <-ctx.Done(); canceled = true; return ctx.Err() })
		time.Sleep(2 * answerFirst)
		p.stop()
		p.end()
		if !done || !canceled || tries != 1 {
			t.Errorf("the slow one is done: %v, the hanging one is canceled: %v; %d tries", done, canceled, tries)
		}
	})
}

// network-status goes from ADD to the API server after the answer, by the publisher alone.
func TestAddIsPublished(t *testing.T) {
	inner := apiOf(t, `{"metadata":{"namespace":"ns","name":"pod","uid":"u1"},"spec":{"nodeName":"n"},"status":{"phase":"Running"}}`).Config.Handler
	patches := make(chan string, 10)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPatch {
			inner.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		patches <- r.URL.Path + " " + string(body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"namespace":"ns","name":"pod","uid":"u1"}}`)
	}))
	t.Cleanup(api.CloseClientConnections)
	a, log := unservedWith(t, api.URL)
	follow(t, a)
	ended := make(chan error, 1)
	go func() { ended <- a.publisher.Run(t.Context()) }()
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","dataDir":%q,"delegates":[{"type":"passthru"}]}`, a.store.journal.DataDir())
	answer := handled(t, a, requestBody(stdin, "version=1", "as=plexus", "CNI_COMMAND=ADD", "CNI_CONTAINERID=aaaa", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0",
		"CNI_ARGS=K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u1"))
	if answer.Status != 0 {
		t.Fatalf("%+v\n%s", answer, log)
	}
	select {
	case patch := <-patches:
		if !strings.HasPrefix(patch, "/api/v1/namespaces/ns/pods/pod") || !strings.Contains(patch, "network-status") {
			t.Error(patch)
		}
	case <-bound(t).Done():
		t.Fatalf("nothing is published\n%s", log)
	}
	a.publisher.close()
	if err := <-ended; err != nil || a.publisher.count() != 0 || len(patches) != 0 {
		t.Errorf("%v, %d pending, %d more patches", err, a.publisher.count(), len(patches))
	}
	if a.store.ofPod("u1") == nil {
		t.Error("the sandbox is not in the store")
	}
}
