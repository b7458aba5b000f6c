package lock

import "context"

type contextKey struct{}

// With returns a context for work under a lock. What is executed for it inherits the
// lock (Of).
func With(ctx context.Context, l *Lock) context.Context {
	return context.WithValue(ctx, contextKey{}, l)
}

// Of is the lock that the context's work is done under, nil for none.
func Of(ctx context.Context) *Lock {
	l, _ := ctx.Value(contextKey{}).(*Lock)
	return l
}
