package lock

import "context"

type contextKey struct{}

// With returns a context for work under a lock. Processes executed for it inherit the lock (Of).
func With(ctx context.Context, l *Lock) context.Context {
	return context.WithValue(ctx, contextKey{}, l)
}

// Of is the lock of a context (With), nil for none.
func Of(ctx context.Context) *Lock {
	l, _ := ctx.Value(contextKey{}).(*Lock)
	return l
}
