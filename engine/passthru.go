package engine

import (
	"context"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
)

// passthru is the backend that does nothing. It stands first in a list whose other plugins
// need a prevResult, as Multus' plugin of that name does.
type passthru struct{ delegates.Base }

// Parse is delegates.Delegate.
func (passthru) Parse(string, []byte) (delegates.Network, []string, error) {
	return delegates.BaseNetwork{}, nil, nil
}

// Attach is delegates.Delegate.
func (passthru) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	}
	return nil
}

// Detach is delegates.Delegate.
func (passthru) Detach(_ context.Context, all []*delegates.Attachment) []error {
	return make([]error, len(all))
}
