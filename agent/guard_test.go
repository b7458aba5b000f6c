package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/kube"
)

// guarded is a guard whose clock stands still, and an API server that counts.
type guarded struct {
	t *testing.T
	*guard
	mu       sync.Mutex
	at       time.Time
	reviewed int
	hold     chan struct{} // reviews of the token "held" wait for it
}

func newGuarded(t *testing.T) *guarded {
	g := &guarded{t: t, at: time.Unix(1700000000, 0), hold: make(chan struct{})}
	in := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "in "+r.URL.Path) })
	g.guard = newGuard(in, func(_ context.Context, token, path string) error {
		g.mu.Lock()
		g.reviewed++
		g.mu.Unlock()
		switch {
		case token == "held":
			<-g.hold
			return errors.New("no answer")
		case token == "away":
			return errors.New("the API server does not answer")
		case strings.HasPrefix(token, "good") && path != "/v1/attachments":
			return nil
		}
		return fmt.Errorf("review: %w", &kube.RefusedError{Why: "no"})
	}, func() time.Time { g.mu.Lock(); defer g.mu.Unlock(); return g.at })
	return g
}

func (g *guarded) later(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at = g.at.Add(d)
}

func (g *guarded) reviews() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reviewed
}

func (g *guarded) ask(path, header string) *kept {
	r, err := http.NewRequest(http.MethodGet, "http://a"+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	w := &kept{header: http.Header{}, status: 200}
	g.ServeHTTP(w, r)
	if w.status == 401 && w.header.Get("WWW-Authenticate") != "Bearer" {
		g.t.Errorf("%s: a 401 that does not say how", path)
	}
	if (w.status == 429) != (w.header.Get("Retry-After") != "") {
		g.t.Errorf("%s: %d, Retry-After %q", path, w.status, w.header.Get("Retry-After"))
	}
	if in := w.status == 200; in != strings.HasPrefix(w.body.String(), "in ") {
		g.t.Errorf("%s: %d %q", path, w.status, &w.body)
	}
	return w
}

type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) WriteHeader(status int)      { k.status = status }
func (k *kept) Write(p []byte) (int, error) { return k.body.Write(p) }

// What the API server has said holds for the same token and path, for a while; nobody
// else is let in by it, or kept out.
func TestGuard(t *testing.T) {
	g := newGuarded(t)
	for _, c := range []struct {
		path, header  string
		want, reviews int
	}{
		{"/healthz", "", 200, 0}, {"/metrics", "", 401, 0}, {"/metrics", "Basic Zzo=", 401, 0}, {"/metrics", "Bearer", 401, 0}, {"/metrics", "Bearer ", 401, 0}, {"/metrics", "bearer good", 401, 0},
		{"/metrics", "Bearer bad", 403, 1}, {"/metrics", "Bearer bad", 403, 1}, {"/metrics", "Bearer good", 200, 2}, {"/metrics", "Bearer good", 200, 2}, {"/metrics?x=1", "Bearer good", 200, 2},
		{"/v1/node", "Bearer good", 200, 3}, {"/v1/attachments", "Bearer good", 403, 4}, {"/v1/attachments", "Bearer good", 403, 4}, {"/metrics", "Bearer goo", 403, 5}, {"/healthz/", "", 401, 5}, {"//healthz", "", 401, 5},
		{"/metrics", "Bearer away", 503, 6}, {"/metrics", "Bearer away", 503, 7}, {"/metrics", "Bearer " + strings.Repeat("x", maxToken+1), 401, 7}, {"/metrics", "Bearer " + strings.Repeat("x", maxToken), 403, 8},
	} {
		if got := g.ask(c.path, c.header).status; got != c.want || g.reviews() != c.reviews {
			t.Errorf("%s %.80q: %d after %d reviews, want %d after %d", c.path, c.header, got, g.reviews(), c.want, c.reviews)
		}
	}
	g.later(allowedFor)
	if before := g.reviews(); g.ask("/metrics", "Bearer good").status != 200 || g.reviews() != before+1 {
		t.Error("what was allowed holds for ever")
	}
	if before := g.reviews(); g.ask("/metrics", "Bearer bad").status != 403 || g.reviews() != before+1 {
		t.Error("what was refused holds for ever")
	}
}

// A flood of tokens costs the API server what the limit says, and those whom it has
// allowed before are served all the while, also when it has to review them again.
func TestFloodOfTokens(t *testing.T) {
	g := newGuarded(t)
	if got := g.ask("/metrics", "Bearer good").status; got != 200 {
		t.Fatal(got)
	}
	const flood, each = 10000, 10 * time.Millisecond // 100 s of it
	before, refused, turned := g.reviews(), 0, 0
	renewed := 0
	for i := range flood {
		switch got := g.ask("/metrics", fmt.Sprintf("Bearer %d", i)).status; got {
		case 403:
			refused++
		case 429:
			turned++
		default:
			t.Fatal(got)
		}
		earlier := g.reviews()
		if got := g.ask("/metrics", "Bearer good").status; got != 200 {
			t.Fatalf("after %d tokens a reader that is known gets %d", i, got)
		}
		renewed += g.reviews() - earlier
		g.later(each)
	}
	most := reviewBurst + int(flood*each/time.Second)*reviewRate + 1
	if reviews := g.reviews() - before - renewed; reviews > most || reviews != refused || refused+turned != flood {
		t.Errorf("%d reviews, want %d at most; %d refused, %d turned away", reviews, most, refused, turned)
	}
	if renewed != 1 {
		t.Errorf("the reader was reviewed %d times in 100 s", renewed)
	}
	t.Logf("%d tokens: %d reviews, %d turned away", flood, refused, turned)
	for _, memory := range [][]any{g.allowedUntil.Keys(), g.refusals.Keys()} {
		if len(memory) > maxEntries {
			t.Errorf("it remembers %d", len(memory))
		}
	}
}

// Reviews that hang take the places of strangers, and no reader's.
func TestReviewsAtOnce(t *testing.T) {
	g := newGuarded(t)
	if got := g.ask("/metrics", "Bearer good").status; got != 200 {
		t.Fatal(got)
	}
	g.later(allowedFor + time.Minute)
	before := g.reviews()
	var group sync.WaitGroup
	for range parallelReviews {
		group.Go(func() {
			if got := g.ask("/metrics", "Bearer held").status; got != 503 {
				t.Errorf("held: %d", got)
			}
		})
	}
	for ctx := bound(t); g.reviews() < before+parallelReviews; {
		if ctx.Err() != nil {
			t.Fatal("they are not reviewed")
		}
		time.Sleep(time.Millisecond)
	}
	if got := g.ask("/metrics", "Bearer good2").status; got != 429 {
		t.Errorf("a stranger beside %d: %d", parallelReviews, got)
	}
	if got := g.ask("/metrics", "Bearer good").status; got != 200 {
		t.Errorf("a reader that is known: %d", got)
	}
	close(g.hold)
	group.Wait()
	if got := g.ask("/metrics", "Bearer good2").status; got != 200 {
		t.Errorf("a stranger when there is a place: %d", got)
	}
}

// Memories are bounded, and what goes is what is oldest.
func TestGuardsMemory(t *testing.T) {
	g := newGuarded(t)
	for i := range 3 * maxEntries {
		g.ask(fmt.Sprintf("/p%d", i), "Bearer good")
		g.later(time.Second / reviewRate)
	}
	if n := len(g.allowedUntil.Keys()); n != maxEntries {
		t.Errorf("it remembers %d, want %d", n, maxEntries)
	}
	last := fmt.Sprintf("/p%d", 3*maxEntries-1)
	if before := g.reviews(); g.ask(last, "Bearer good").status != 200 || g.reviews() != before {
		t.Error("the newest is forgotten")
	}
}
