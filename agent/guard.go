package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/util/cache"

	"github.com/plexus-cni/plexus/kube"
)

// guard lets requests through whose bearer token the API server allows. Anybody can
// reach the port and send tokens: the reviews that a flood of them costs the API server
// are bounded, and readers that were allowed before are served beside the flood.
type guard struct {
	next    http.Handler
	allowed func(ctx context.Context, token, path string) error
	now     clock

	// The API server's answers, by digest of token and path. allowedUntil has a time.Time,
	// refusals have the reason.
	allowedUntil, refusals *cache.LRUExpireCache
	readers, strangers     *budget // of reviews by the API server
}

// Bounds of the guard.
const (
	allowedFor      = time.Minute
	refusedFor      = 10 * time.Second // as kube-apiserver remembers it itself
	readerFor       = time.Hour        // since it was allowed: after that it is a stranger again
	maxEntries      = 1000             // of each cache
	maxToken        = 16 << 10         // bytes
	reviewRate      = 5                // a second, of readers and of strangers
	reviewBurst     = 20
	parallelReviews = 4   // at once
	retryAfterBy    = "1" // seconds
)

// clock is cache.Clock.
type clock func() time.Time

// Now is cache.Clock.
func (c clock) Now() time.Time { return c() }

// budget bounds reviews, in time and those at once.
type budget struct {
	rate  *rate.Limiter
	slots chan struct{}
}

func newBudget() *budget {
	return &budget{rate.NewLimiter(reviewRate, reviewBurst), make(chan struct{}, parallelReviews)}
}

// acquire takes a slot for one review until release is called; false when there is none.
func (b *budget) acquire(now time.Time) (release func(), ok bool) {
	select {
	case b.slots <- struct{}{}:
	default:
		return nil, false
	}
	release = func() { <-b.slots }
	if !b.rate.AllowN(now, 1) {
		release()
		return nil, false
	}
	return release, true
}

func newGuard(next http.Handler, allowed func(ctx context.Context, token, path string) error, now clock) *guard {
	return &guard{
		next: next, allowed: allowed, now: now, readers: newBudget(), strangers: newBudget(),
		allowedUntil: cache.NewLRUExpireCacheWithClock(maxEntries, now), refusals: cache.NewLRUExpireCacheWithClock(maxEntries, now),
	}
}

// ServeHTTP is http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		g.next.ServeHTTP(w, r)
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" || len(token) > maxToken {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "a bearer token that the API server knows is needed", http.StatusUnauthorized)
		return
	}
	if status, why := g.decide(r.Context(), token, r.URL.Path); status != http.StatusOK {
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", retryAfterBy)
		}
		http.Error(w, why, status)
		return
	}
	g.next.ServeHTTP(w, r)
}

// decide returns http.StatusOK when a token may read a path, else a status and the reason.
func (g *guard) decide(ctx context.Context, token, path string) (status int, why string) {
	key := sha256.Sum256([]byte(token + "\x00" + path)) // no token is kept
	budget := g.strangers
	if until, ok := g.allowedUntil.Get(key); ok {
		if g.now().Before(until.(time.Time)) {
			return http.StatusOK, ""
		}
		budget = g.readers
	}
	if why, ok := g.refusals.Get(key); ok {
		return http.StatusForbidden, why.(string)
	}
	release, ok := budget.acquire(g.now())
	if !ok {
		return http.StatusTooManyRequests, "the API server is being asked about too many tokens: try again later"
	}
	defer release()
	var refused *kube.RefusedError
	switch err := g.allowed(ctx, token, path); {
	case err == nil:
		g.allowedUntil.Add(key, g.now().Add(allowedFor), readerFor)
		return http.StatusOK, ""
	case errors.As(err, &refused):
		g.allowedUntil.Remove(key)
		g.refusals.Add(key, refused.Error(), refusedFor)
		return http.StatusForbidden, refused.Error()
	default: // the API server has not decided
		return http.StatusServiceUnavailable, err.Error()
	}
}
