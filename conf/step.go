package conf

import (
	"context"
	"fmt"
)

// Step announces the next change to the world, in words for the operator:
// "net1: insert port vhu12 into br0". Whoever watches the transaction hears of
// it before the change is made: plexusctl prints it, a test stops there. An
// error means that the change must not be made.
func Step(ctx context.Context, format string, args ...any) error {
	observe, ok := ctx.Value(stepKey{}).(func(string) error)
	if !ok {
		return nil
	}
	return observe(fmt.Sprintf(format, args...))
}

// WithSteps returns a context whose steps are told to observe.
func WithSteps(ctx context.Context, observe func(step string) error) context.Context {
	return context.WithValue(ctx, stepKey{}, observe)
}

type stepKey struct{}
