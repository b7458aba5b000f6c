// Package delegates does what the plan says: it runs the delegates of a pod's
// networks in one transaction and undoes them.
//
// A delegate is a CNI plugin by another name: built in (Builtin lists them) or
// an executable below CNI_PATH. Engine holds the verbs of the CNI
// specification 1.1.0; add.go is ADD from top to bottom, detach.go is the one
// way back. What DEL needs is in the journal before ADD changes anything.
// Chains, prevResult, capability arguments and versions are libcni's work;
// chain.go gives it the built-ins as if they were executables.
package delegates

import (
	"context"
	"encoding/json"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// Delegate is one backend that plexus runs in-process. Backends satisfy it by
// shape and never import this package.
type Delegate interface {
	// Prepare reads the world and decides; it changes nothing but what a
	// Releaser gives back. What it returns is all that Del will need.
	Prepare(ctx context.Context, a conf.Attachment) (json.RawMessage, error)
	// Add attaches. a.IPAM holds the addresses, if the configuration asks for any.
	Add(ctx context.Context, a conf.Attachment, state json.RawMessage) (*types100.Result, error)
	// Check compares the world with the record; an error names object and difference.
	Check(ctx context.Context, a conf.Attachment, state json.RawMessage) error
	// Del detaches. It is idempotent: absent is success. Without state (the
	// journal is lost) it goes by the marks of ownership.
	Del(ctx context.Context, a conf.Attachment, state json.RawMessage) error
}

// Releaser is a Delegate whose Prepare reserves what it chooses, so that nobody
// else chooses it. Release gives it back when Add is not to come.
type Releaser interface {
	Release(ctx context.Context, a conf.Attachment, state json.RawMessage) error
}

// Settler is a Delegate with a part of Add that costs about the same for one
// attachment and for all of a pod: a vswitch that reconfigures itself, or that is waited
// for. Settle is called once, when Add has been called for every attachment of the pod, and
// returns when the last one works, or with the first one's failure. IPAM holds
// the attachment's result.
type Settler interface {
	Settle(ctx context.Context, all []conf.Prepared) error
}

// Describer is a Delegate that has more to say in network-status than a CNI
// result can.
type Describer interface {
	Describe(a conf.Attachment, state json.RawMessage) (conf.Description, error)
}

// Validator is a Delegate that checks a configuration without looking at the
// world.
type Validator interface {
	Validate(network string, config json.RawMessage) (warnings []string, err error)
}

// Readier is a Delegate that answers STATUS for a configuration.
type Readier interface {
	Ready(ctx context.Context, config json.RawMessage) error
}

// Sweeper is a Delegate that finds what carries its mark. Sweep looks at its
// default endpoint and at those of the endpoints that are of its kind, all at
// once, and removes what belongs to owner and whose attachment is not to be kept.
// A mark may hold the first 24 bytes of a container ID, or more of it. A mark is
// no licence to touch a path: bounds say which folders are the node's for this. It
// returns an error for each endpoint that failed. keep is called by several
// goroutines.
type Sweeper interface {
	Sweep(ctx context.Context, owner string, endpoints []string, bounds conf.Bounds, keep func(sandbox, ifName string) bool) []error
}

// Restorer is a Delegate whose datapath may lose what Add made and keep the pod's
// side: a vswitch that was restarted.
type Restorer interface {
	// Restore makes again what is missing of an attachment and leaves alone what
	// is there, so that frames flow without touching the pod. a.IPAM holds the
	// recorded addresses. It says what it made, nothing when all was there.
	Restore(ctx context.Context, a conf.Attachment, state json.RawMessage) (made []string, err error)
}

// Watcher is a Delegate that notices when what it attaches to was away.
type Watcher interface {
	// Place is the address of what a configuration attaches to, a vswitch.
	Place(config json.RawMessage) (string, error)
	// Watch returns nil when the place has gone and answers again, and ctx's
	// error when that is done. A place that does not answer at first is waited for.
	Watch(ctx context.Context, place string) error
}

// Inspector is a Delegate that tells what the datapath has of an attachment, for
// people: keys and values in the words of its own tools.
type Inspector interface {
	Inspect(ctx context.Context, a conf.Attachment, state json.RawMessage) (map[string]string, error)
}
