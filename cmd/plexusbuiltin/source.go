package main

import (
	"context"
	"fmt"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/kube/statusfile"
)

// noPods is the source of a plugin whose network is the configuration itself.
type noPods struct{}

var _ engine.Source = noPods{}

// Pod is engine.Source.
func (noPods) Pod(context.Context, string, string, string) (*conf.Pod, error) { return nil, nil }

// Recall is engine.Source.
func (noPods) Recall(context.Context, string, string, string) (*conf.Pod, error) { return nil, nil }

// Network is engine.Source.
func (noPods) Network(_ context.Context, w conf.Reference) (*conf.Definition, error) {
	return nil, fmt.Errorf("network %s: a built-in delegate that is executed alone knows no other networks", w.Name)
}

// StatusPlace is engine.Source.
func (noPods) StatusPlace(*conf.Pod) string { return "" }

// Publish is engine.Source.
func (noPods) Publish(context.Context, *conf.Pod, string, map[string]string) error { return nil }

// Retract is engine.Source: an interface that plexus has attached may be undone under the name
// of a built-in delegate too.
func (noPods) Retract(_ context.Context, place, sandbox string) error {
	return statusfile.Retract(place, sandbox)
}
