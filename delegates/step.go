package delegates

import (
	"context"
	"fmt"
)

// Step announces the next change to the world, in words for the operator:
// "net1: insert port vhu12 into br0". The observer of the context is called
// before the change is made: plexusctl prints the step, a test stops there. After an error the
// change must not be made.
func Step(ctx context.Context, format string, args ...any) error {
	observe, ok := ctx.Value(stepKey{}).(func(string) error)
	if !ok {
		return nil
	}
	return observe(fmt.Sprintf(format, args...))
}

// WithSteps returns a context whose steps are passed to observe.
func WithSteps(ctx context.Context, observe func(step string) error) context.Context {
	return context.WithValue(ctx, stepKey{}, observe)
}

// Undoing returns a context whose steps are marked as the undo of a failure.
func Undoing(ctx context.Context) context.Context {
	observe, ok := ctx.Value(stepKey{}).(func(string) error)
	if !ok {
		return ctx
	}
	return WithSteps(ctx, func(step string) error { return observe(UndoMark + step) })
}

// UndoMark begins the words of a step that undoes a failure.
const UndoMark = "undo: "

type stepKey struct{}
