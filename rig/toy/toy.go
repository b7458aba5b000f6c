// Package toy is a backend in memory. Tests of the engine attach pods to it: it does all
// that the contract of delegates allows a backend to do, and it can be told to fail.
package toy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// DefaultEndpoint is the vswitch of a configuration that names none.
const DefaultEndpoint = "/run/toy/default"

// Backend is a delegates.Delegate on a world. The world stays when the backend goes.
type Backend struct {
	// RefuseKey is a key that Parse refuses; "" for none.
	RefuseKey string

	world *World
	dead  atomic.Bool
}

// New is a backend on a world.
func New(w *World) *Backend { return &Backend{world: w} }

// Kill has every later call fail, as if the process were no more.
func (b *Backend) Kill() { b.dead.Store(true) }

var errKilled = errors.New("the process is killed")

func (b *Backend) alive() error {
	if b.dead.Load() {
		return errKilled
	}
	return nil
}

// state is what Detach needs.
type state struct {
	Endpoint string `json:"endpoint"`
	Port     string `json:"port"`
}

// Parse is delegates.Delegate. The keys are endpoint; describe, a boolean that has the pod get
// an annotation; and interfaceFirst, the answer of the method.
func (b *Backend) Parse(_ string, config []byte) (delegates.Network, []string, error) {
	var keys map[string]json.RawMessage
	var c struct {
		Endpoint string `json:"endpoint"`
		Describe bool   `json:"describe"`
		First    bool   `json:"interfaceFirst"`
	}
	if err := errors.Join(json.Unmarshal(config, &keys), json.Unmarshal(config, &c)); err != nil {
		return nil, nil, err
	}
	if _, has := keys[b.RefuseKey]; has {
		return nil, nil, fmt.Errorf("key %q: the toy does not know it", b.RefuseKey)
	}
	if c.Endpoint == "" {
		c.Endpoint = DefaultEndpoint
	}
	var warnings []string
	if _, old := keys["old"]; old {
		warnings = append(warnings, `key "old" means nothing`)
	}
	return &network{b, c.Endpoint, c.Describe, c.First}, warnings, nil
}

// Attach is delegates.Delegate.
func (b *Backend) Attach(ctx context.Context, all []*delegates.Attachment) error {
	b.world.note("attach", all)
	for _, a := range all {
		s, err := b.stateOf(a)
		if err == nil {
			err = delegates.Step(ctx, "%s: make port %s at %s", a.IfName, s.Port, s.Endpoint)
		}
		if err == nil {
			err = b.world.insert(s, markOf(a))
		}
		if err == nil && a.Allocate != nil {
			err = a.Allocate(ctx)
		}
		if err == nil {
			err = b.world.fault("attach", a.IfName)
		}
		if err != nil {
			return fmt.Errorf("%s (network %s): %w", a.IfName, a.Name, err)
		}
		a.Result = b.result(a, s)
	}
	return nil
}

func (b *Backend) result(a *delegates.Attachment, s state) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns, SocketPath: b.world.socket(s.Port)}},
	}
	if a.IPAM != nil {
		for _, ip := range a.IPAM.IPs {
			ip = ip.Copy()
			ip.Interface = types100.Int(0)
			r.IPs = append(r.IPs, ip)
		}
		r.Routes, r.DNS = a.IPAM.Routes, a.IPAM.DNS
	}
	return r
}

// Detach is delegates.Delegate.
func (b *Backend) Detach(ctx context.Context, all []*delegates.Attachment) []error {
	b.world.note("detach", all)
	errs := make([]error, len(all))
	for i, a := range slices.Backward(all) {
		errs[i] = b.detach(ctx, a)
	}
	return errs
}

func (b *Backend) detach(ctx context.Context, a *delegates.Attachment) error {
	if a.State == nil {
		if a.Network == nil {
			return nil
		}
		return errors.Join(b.sweepOne(ctx, a.Network.Endpoint(), a.Owner, func(m mark) bool { return m != markOf(a) })...)
	}
	s, err := b.stateOf(a)
	if err != nil {
		return err
	}
	if err := delegates.Step(ctx, "%s: remove port %s of %s", a.IfName, s.Port, s.Endpoint); err != nil {
		return err
	}
	if err := b.world.fault("detach", a.IfName); err != nil {
		return err
	}
	return b.world.remove(s.Endpoint, s.Port)
}

func (b *Backend) stateOf(a *delegates.Attachment) (s state, err error) {
	if err := b.alive(); err != nil {
		return s, err
	}
	err = json.Unmarshal(a.State, &s)
	return s, err
}

// Sweep is delegates.Delegate.
func (b *Backend) Sweep(ctx context.Context, owner string, endpoints []string, _ conf.Bounds, keep func(sandbox, ifName string) bool) []error {
	var errs []error
	for _, endpoint := range b.world.known(append([]string{DefaultEndpoint}, endpoints...)) {
		errs = append(errs, b.sweepOne(ctx, endpoint, owner, func(m mark) bool { return keep(m.sandbox, m.ifName) })...)
	}
	return errs
}

// sweepOne removes what carries the owner's mark at an endpoint and is not to be kept.
func (b *Backend) sweepOne(ctx context.Context, endpoint, owner string, keep func(mark) bool) []error {
	if err := b.alive(); err != nil {
		return []error{err}
	}
	marks, err := b.world.marks(endpoint)
	if err != nil {
		return []error{err}
	}
	var errs []error
	for port, m := range marks {
		if m.owner != owner || keep(m) {
			continue
		}
		err := delegates.Step(ctx, "sweep port %s of %s", port, endpoint)
		if err == nil {
			err = b.alive()
		}
		if err == nil {
			err = b.world.remove(endpoint, port)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// Watch is delegates.Delegate.
func (b *Backend) Watch(ctx context.Context, endpoint string, report func(error)) error {
	if err := b.world.watch(ctx, endpoint); err != nil {
		return err
	}
	report(nil)
	<-ctx.Done()
	return ctx.Err()
}

// Close is delegates.Delegate.
func (b *Backend) Close() { b.Kill() }
