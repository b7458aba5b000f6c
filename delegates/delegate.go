// Package delegates is the contract between the engine and a backend: what a backend
// has to be able to do to attach pods to networks in-process. Backends import it; the
// engine has the table of them.
package delegates

import (
	"context"
	"encoding/json"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// Delegate is a backend. It is used by several goroutines at once. Base has what a
// backend does not need.
type Delegate interface {
	// Parse reads a configuration: name, cniVersion, runtimeConfig and args are in
	// place. It looks at nothing else. warnings are for people.
	Parse(network string, config []byte) (n Network, warnings []string, err error)
	// Attach makes attachments of one pod, all of them or, with an error, any of them;
	// what it has made then is undone by Detach. It fills Result. An error that is about
	// one of them begins with its interface and network. Attachments of one
	// endpoint are made together.
	Attach(ctx context.Context, all []*Attachment) error
	// Detach undoes attachments of one pod, given in the order of Attach, the last one
	// first, and returns an error for each of them, nil for those that are gone. Absent is success. Attachments of one endpoint are
	// undone together. It goes by State. An attachment without (the journal is lost)
	// is found by its marks of ownership, and by its Network; without either it never
	// was.
	Detach(ctx context.Context, all []*Attachment) []error
	// Sweep looks for what carries owner's mark, at its default endpoint and at those
	// of the endpoints that are of its kind, all at once, and removes that whose
	// attachment is not to be kept. A mark may hold the first 24 bytes of a container
	// ID, or more of it. A mark is no licence to touch a path: bounds say which
	// folders are the node's for this. It returns an error for each endpoint that
	// failed. keep is called by several goroutines.
	Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error
	// Watch returns nil when an endpoint has gone and answers again, and ctx's error
	// when that is done. An endpoint that does not answer at first is waited for.
	Watch(ctx context.Context, endpoint string) error
	// Close ends the connections. Requests under way fail.
	Close()
}

// Network is one parsed configuration of a backend. Its attachments have it in
// Attachment.Network.
type Network interface {
	// Endpoint is the address of the vswitch, which may be away and is watched; ""
	// where there is none.
	Endpoint() string
	// Ready answers STATUS: nil when ADD would work.
	Ready(ctx context.Context) error
	// Prepare reads the world and decides all that Detach will need. It changes
	// nothing but what Release gives back.
	Prepare(ctx context.Context, a *Attachment) (json.RawMessage, error)
	// Release gives back what Prepare has reserved for an attachment that is not to
	// be made.
	Release(ctx context.Context, a *Attachment) error
	// Check compares the world with the record; an error names object and difference.
	Check(ctx context.Context, a *Attachment) error
	// Restore makes again what a datapath has lost of an attachment and leaves alone
	// what is there, so that frames flow without touching the pod. It says what it
	// made, nothing when all was there.
	Restore(ctx context.Context, a *Attachment) (made []string, err error)
	// Inspect tells what the datapath has of an attachment, for people: keys and
	// values in the words of its own tools.
	Inspect(ctx context.Context, a *Attachment) (map[string]string, error)
	// Describe is what network-status says of an attachment and a CNI result cannot.
	Describe(a *Attachment) (Description, error)
}

// Attachment is one interface of a pod at a network of a backend.
type Attachment struct {
	Sandbox string      // container ID
	Netns   string      // path; may be gone or empty when the attachment is undone
	NetnsID string      // of the namespace that ADD named, see package podnet
	IfName  string      // CNI_IFNAME
	Name    string      // of the network, as network-status calls it
	Owner   string      // the data folder of the plexus that acts; tells two installations apart
	Pod     *conf.Pod   // nil when the request names none
	Args    conf.Args   // CNI_ARGS
	Bounds  conf.Bounds // of the paths and addresses that the configuration may name

	// Network is what Parse of the same backend has made of the configuration; nil for
	// a recorded attachment whose configuration is refused by now.
	Network Network
	// State is what Prepare has returned; nil when the journal is lost.
	State json.RawMessage
	// IPAM is what the configuration's ipam answered; nil without one, and once the
	// attachment is recorded.
	IPAM *types100.Result
	// Result is what Attach has made, with the addresses of IPAM; or the result of the
	// attachment's whole list, as it is recorded.
	Result *types100.Result
}

// Description is what a backend adds to the pod's network-status.
type Description struct {
	DeviceInfo *conf.DeviceInfo // nil for none
	// Annotations of the pod; a value that is a JSON list is appended to what
	// the pod's other attachments say under the same key.
	Annotations map[string]string
}

// Base is embedded in a Delegate that has no marks to sweep, no endpoint to watch and no
// connections.
type Base struct{}

// Sweep is Delegate.
func (Base) Sweep(context.Context, string, []string, conf.Bounds, func(sandbox, ifName string) bool) []error {
	return nil
}

// Watch is Delegate.
func (Base) Watch(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// Close is Delegate.
func (Base) Close() {}

// BaseNetwork is embedded in a Network that has no endpoint, reserves nothing, loses
// nothing and has nothing to tell.
type BaseNetwork struct{}

// Endpoint is Network.
func (BaseNetwork) Endpoint() string { return "" }

// Ready is Network.
func (BaseNetwork) Ready(context.Context) error { return nil }

// Prepare is Network.
func (BaseNetwork) Prepare(context.Context, *Attachment) (json.RawMessage, error) {
	return json.RawMessage("{}"), nil
}

// Release is Network.
func (BaseNetwork) Release(context.Context, *Attachment) error { return nil }

// Check is Network.
func (BaseNetwork) Check(context.Context, *Attachment) error { return nil }

// Restore is Network.
func (BaseNetwork) Restore(context.Context, *Attachment) ([]string, error) { return nil, nil }

// Inspect is Network.
func (BaseNetwork) Inspect(context.Context, *Attachment) (map[string]string, error) {
	return nil, nil
}

// Describe is Network.
func (BaseNetwork) Describe(*Attachment) (Description, error) { return Description{}, nil }
