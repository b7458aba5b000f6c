package delegates

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/conf"
)

// byEngine is the delegate of type userspace: the backend that the
// configuration's host.engine names.
type byEngine map[string]backend

// backend is what a delegate can do, all of it.
type backend interface {
	Delegate
	Describer
	Validator
	Readier
}

func (b byEngine) of(config json.RawMessage) (backend, error) {
	engine, err := conf.UserspaceEngine(config)
	return b[engine], err
}

// Prepare is Delegate.
func (b byEngine) Prepare(ctx context.Context, a conf.Attachment) (json.RawMessage, error) {
	d, err := b.of(a.Conf)
	if err != nil {
		return nil, err
	}
	return d.Prepare(ctx, a)
}

// Add is Delegate.
func (b byEngine) Add(ctx context.Context, a conf.Attachment, state json.RawMessage) (*types100.Result, error) {
	d, err := b.of(a.Conf)
	if err != nil {
		return nil, err
	}
	return d.Add(ctx, a, state)
}

// Settle is Settler, for the engines that have it.
func (b byEngine) Settle(ctx context.Context, all []conf.Prepared) error {
	of := map[string][]conf.Prepared{}
	for _, p := range all {
		engine, err := conf.UserspaceEngine(p.Conf)
		if err != nil {
			return err
		}
		of[engine] = append(of[engine], p)
	}
	for engine, prepared := range of {
		if s, ok := b[engine].(Settler); ok {
			if err := s.Settle(ctx, prepared); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check is Delegate.
func (b byEngine) Check(ctx context.Context, a conf.Attachment, state json.RawMessage) error {
	d, err := b.of(a.Conf)
	if err != nil {
		return err
	}
	return d.Check(ctx, a, state)
}

// Del is Delegate.
func (b byEngine) Del(ctx context.Context, a conf.Attachment, state json.RawMessage) error {
	d, err := b.of(a.Conf)
	if err != nil {
		return nil // Add refuses it, so it never was
	}
	return d.Del(ctx, a, state)
}

// Describe is Describer.
func (b byEngine) Describe(a conf.Attachment, state json.RawMessage) (conf.Description, error) {
	d, err := b.of(a.Conf)
	if err != nil {
		return conf.Description{}, err
	}
	return d.Describe(a, state)
}

// Validate is Validator.
func (b byEngine) Validate(network string, config json.RawMessage) ([]string, error) {
	d, err := b.of(config)
	if err != nil {
		return nil, err
	}
	return d.Validate(network, config)
}

// Ready is Readier.
func (b byEngine) Ready(ctx context.Context, config json.RawMessage) error {
	d, err := b.of(config)
	if err != nil {
		return err
	}
	return d.Ready(ctx, config)
}

// Close ends the connections of the engines.
func (b byEngine) Close() { closeAll(b) }

// Restore is Restorer, for the engines that have it.
func (b byEngine) Restore(ctx context.Context, a conf.Attachment, state json.RawMessage) ([]string, error) {
	d, err := b.of(a.Conf)
	if err != nil {
		return nil, err
	}
	if r, ok := d.(Restorer); ok {
		return r.Restore(ctx, a, state)
	}
	return nil, nil
}

// Place is Watcher.
func (b byEngine) Place(config json.RawMessage) (string, error) {
	engine, err := conf.UserspaceEngine(config)
	if err != nil {
		return "", err
	}
	w, ok := b[engine].(Watcher)
	if !ok {
		return "", nil
	}
	return w.Place(config)
}

// Watch is Watcher. The socket of VPP's API is a path, OVSDB's address has a scheme.
func (b byEngine) Watch(ctx context.Context, place string) error {
	engine := conf.EngineOVS
	if filepath.IsAbs(place) {
		engine = conf.EngineVPP
	}
	w, ok := b[engine].(Watcher)
	if !ok {
		return fmt.Errorf("engine %.40q is not watched", engine)
	}
	return w.Watch(ctx, place)
}

// Inspect is Inspector, for the engines that have it.
func (b byEngine) Inspect(ctx context.Context, a conf.Attachment, state json.RawMessage) (map[string]string, error) {
	d, err := b.of(a.Conf)
	if err != nil {
		return nil, err
	}
	if i, ok := d.(Inspector); ok {
		return i.Inspect(ctx, a, state)
	}
	return nil, nil
}
