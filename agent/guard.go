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

// guard lets requests through whose bearer token the API server allows. Anybody who
// reaches the port may send tokens: what a flood of them costs the API server is
// bounded, and readers whom it has allowed before are served beside the flood.
type guard struct {
	next    http.Handler
	allowed func(ctx context.Context, token, path string) error
	now     clock

	// What the API server has said, by digest of token and path. allowedUntil has a
	// time.Time, refusals have the reason.
	allowedUntil, refusals *cache.LRUExpireCache
	readers, strangers     *budget // of questions to the API server
}

// Bounds of the guard.
const (
	allowedFor   = time.Minute
	refusedFor   = 10 * time.Second // as kube-apiserver remembers it itself
	readerFor    = time.Hour        // since it was allowed: then it is a stranger again
	maxKnown     = 1000             // of each memory
	maxToken     = 16 << 10         // bytes
	reviewRate   = 5                // a second, of readers and of strangers
	reviewBurst  = 20
	reviewsBeing = 4 // at once
	retryAfterBy = "1"
)

// clock is cache.Clock.
type clock func() time.Time

// Now is cache.Clock.
func (c clock) Now() time.Time { return c() }

// budget bounds questions in time and at once.
type budget struct {
	rate   *rate.Limiter
	places chan struct{}
}

func newBudget() *budget {
	return &budget{rate.NewLimiter(reviewRate, reviewBurst), make(chan struct{}, reviewsBeing)}
}

// take takes a place for a question until it is given back; false when there is none.
func (b *budget) take(now time.Time) (giveBack func(), ok bool) {
	select {
	case b.places <- struct{}{}:
	default:
		return nil, false
	}
	giveBack = func() { <-b.places }
	if !b.rate.AllowN(now, 1) {
		giveBack()
		return nil, false
	}
	return giveBack, true
}

func newGuard(next http.Handler, allowed func(ctx context.Context, token, path string) error, now clock) *guard {
	return &guard{
		next: next, allowed: allowed, now: now, readers: newBudget(), strangers: newBudget(),
		allowedUntil: cache.NewLRUExpireCacheWithClock(maxKnown, now), refusals: cache.NewLRUExpireCacheWithClock(maxKnown, now),
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
	giveBack, ok := budget.take(g.now())
	if !ok {
		return http.StatusTooManyRequests, "the API server is being asked about too many tokens: try again later"
	}
	defer giveBack()
	var refused *kube.RefusedError
	switch err := g.allowed(ctx, token, path); {
	case err == nil:
		g.allowedUntil.Add(key, g.now().Add(allowedFor), readerFor)
		return http.StatusOK, ""
	case errors.As(err, &refused):
		g.allowedUntil.Remove(key)
		g.refusals.Add(key, refused.Error(), refusedFor)
		return http.StatusForbidden, refused.Error()
	default: // nobody has decided
		return http.StatusServiceUnavailable, err.Error()
	}
}
