// Package delegates is the contract between the engine and a backend that attaches pods to
// networks in-process. Backends import it; the
// engine has the table of them.
package delegates

import (
	"context"
	"encoding/json"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// Delegate is a backend. It is used by several goroutines at once. Base has no-ops for
// methods that a backend does not need.
type Delegate interface {
	// Parse reads a configuration, with name, cniVersion, runtimeConfig and args. It
	// reads nothing else. warnings are for people.
	Parse(network string, config []byte) (n Network, warnings []string, err error)
	// Attach makes attachments of one pod and fills Result. After an error some of them
	// may be made; Detach undoes them. An error about one attachment begins with its
	// interface and network. Attachments of one endpoint are made together.
	Attach(ctx context.Context, all []*Attachment) error
	// Detach undoes attachments of one pod, the last one first; they are given in the
	// order of Attach. It returns an error for each of them, nil for success. Absent is
	// success. Attachments of one endpoint are undone together. Detach uses State; without
	// it (the journal is lost) it finds an attachment by its marks of ownership and by its
	// Network.
	Detach(ctx context.Context, all []*Attachment) []error
	// Sweep looks for objects with owner's mark, at its default endpoint and at those of
	// the endpoints that are of its kind, in parallel, and removes the objects of
	// attachments that keep does not keep. A mark may hold the first 24 bytes of a container
	// ID, or more of it. A mark is no licence to touch a path: bounds say which
	// folders are the node's for this. It returns an error for each endpoint that
	// failed. keep is called by several goroutines.
	Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error
	// Watch follows an endpoint until ctx is done, and returns ctx's error. It calls report
	// with the reason when the endpoint does not work, with nil when it works again, and
	// with nil when it may have lost something meanwhile. Before the first report it works.
	// report does not block, and is not called by two goroutines at once.
	Watch(ctx context.Context, endpoint string, report func(error)) error
	// Close ends the connections. Requests under way fail.
	Close()
}

// Network is one parsed configuration of a backend. Its attachments have it in
// Attachment.Network.
type Network interface {
	// Endpoint is the address of the vswitch, which may be away and is watched; ""
	// where there is none.
	Endpoint() string
	// Hints are what a user may want to know of a configuration that is well: validate tells
	// them, ADD does not.
	Hints() []string
	// Ready answers STATUS: nil when ADD would work.
	Ready(ctx context.Context) error
	// Prepare reads the datapath and returns the state that Detach will need. Its only
	// changes are reservations, which Release gives back.
	Prepare(ctx context.Context, a *Attachment) (json.RawMessage, error)
	// Release gives back the reservations of Prepare for an attachment that will not be
	// made.
	Release(ctx context.Context, a *Attachment) error
	// InterfaceFirst reports whether Attach makes a kernel interface that an IPAM plugin may
	// need, as DHCP does. Attach then calls Attachment.Allocate for the addresses.
	InterfaceFirst() bool
	// Check compares the datapath with the record; an error names object and difference.
	Check(ctx context.Context, a *Attachment) error
	// Restore makes the parts of an attachment again that a datapath has lost, and leaves
	// the others alone, so that frames flow without touching the pod. It returns a
	// description of each part that it made.
	Restore(ctx context.Context, a *Attachment) (made []string, err error)
	// Inspect returns the datapath's state of an attachment, for people: keys and values
	// in the words of the datapath's own tools.
	Inspect(ctx context.Context, a *Attachment) (map[string]string, error)
	// Describe returns the parts of network-status that a CNI result does not have.
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

	// Device describes the device that a device plugin has given for this network. Only Prepare
	// gets it; nil for none.
	Device *conf.DeviceInfo
	// Comparison is shared with the attachments that are compared together; nil alone.
	Comparison *Comparison
	// Changed is when the record was last written, of an attachment with a Comparison.
	Changed time.Time

	// Network is the parsed configuration; nil for a recorded attachment whose
	// configuration Parse now refuses.
	Network Network
	// State is the result of Prepare; nil when the journal is lost.
	State json.RawMessage
	// IPAM is the result of the configuration's ipam; nil without one, and for a recorded
	// attachment.
	IPAM *types100.Result
	// Allocate runs an ipam that is an executable, and fills IPAM; Attach calls it when the
	// interface is in the pod and up. nil when IPAM is there before Attach.
	Allocate func(ctx context.Context) error
	// Result is the result of Attach, with the addresses of IPAM; for a recorded
	// attachment, the result of its whole list.
	Result *types100.Result
}

// Description is what a backend adds to the pod's network-status.
type Description struct {
	DeviceInfo *conf.DeviceInfo // nil for none
	// Annotations of the pod; a value that is a JSON list is appended to the
	// list of the pod's other attachments under the same key.
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
func (Base) Watch(ctx context.Context, _ string, _ func(error)) error {
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

// Hints is Network.
func (BaseNetwork) Hints() []string { return nil }

// Ready is Network.
func (BaseNetwork) Ready(context.Context) error { return nil }

// Prepare is Network.
func (BaseNetwork) Prepare(context.Context, *Attachment) (json.RawMessage, error) {
	return json.RawMessage("{}"), nil
}

// Release is Network.
func (BaseNetwork) Release(context.Context, *Attachment) error { return nil }

// InterfaceFirst is Network.
func (BaseNetwork) InterfaceFirst() bool { return false }

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
