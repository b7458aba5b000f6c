package agent

import (
	"context"
	"errors"

	"github.com/plexus-cni/plexus/conf"
)

// cluster is what the agent's tasks need of the API server. kube.Cluster implements it,
// and documents the methods; standalone does for a node without an API server.
type cluster interface {
	// OpenEvents lets Event return before the event is sent; done ends that.
	OpenEvents() (done func())
	Follow(ctx context.Context, changed func(*conf.Pod)) error
	AwaitPods(ctx context.Context) bool
	Synced() error
	CachedPod(namespace, name, uid string) (pod *conf.Pod, known bool)
	FetchPod(ctx context.Context, namespace, name, uid string) (*conf.Pod, error)
	Event(pod *conf.Pod, warning bool, reason, message string)
	// Allowed reports by a nil error whether the bearer of a token may read a path.
	Allowed(ctx context.Context, token, path string) error
}

// standalone is the cluster of a node without an API server: it has no pods.
type standalone struct{}

func (standalone) OpenEvents() func()                            { return func() {} }
func (standalone) Follow(context.Context, func(*conf.Pod)) error { return nil }
func (standalone) AwaitPods(context.Context) bool                { return false }
func (standalone) Synced() error                                 { return nil }
func (standalone) CachedPod(string, string, string) (*conf.Pod, bool) {
	return nil, true
}
func (standalone) Event(*conf.Pod, bool, string, string) {}

var errStandalone = errors.New("the agent is standalone: it has no API server")

func (standalone) FetchPod(context.Context, string, string, string) (*conf.Pod, error) {
	return nil, errStandalone
}
func (standalone) Allowed(context.Context, string, string) error { return errStandalone }

// Reasons of events on pods.
const (
	reasonAdded       = "AddedInterface" // Multus' own, for those who watch for it
	reasonFailed      = "NetworksFailed"
	reasonChanged     = "NetworksChanged"
	reasonRestored    = "NetworkRestored"
	reasonDifferent   = "NetworkDiffers"
	reasonDown        = "VswitchDown"
	reasonReclaimed   = "NetworksReclaimed"
	reasonAbandoned   = "NetworkAbandoned"
	reasonUnpublished = "NetworkStatusUnpublished"
)
