package delegates_test

import (
	"context"
	"errors"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

// A step is told before the change is made, and can forbid it.
func TestStep(t *testing.T) {
	if err := delegates.Step(context.Background(), "net1: %s", "x"); err != nil {
		t.Errorf("nobody watches: %v", err)
	}
	var heard string
	stop := errors.New("stop")
	ctx := delegates.WithSteps(context.Background(), func(step string) error {
		heard = step
		return stop
	})
	if err := delegates.Step(ctx, "net1: insert port %s into %s", "vhu12", "br0"); !errors.Is(err, stop) {
		t.Errorf("the watcher is not heard: %v", err)
	}
	if heard != "net1: insert port vhu12 into br0" {
		t.Errorf("told %q", heard)
	}
}
