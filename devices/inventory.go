package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Switch is a vswitch whose sockets are devices.
type Switch interface {
	// Ready returns nil when a pod could be attached now.
	Ready(ctx context.Context) error
	// Watch calls report with the reason when the vswitch does not work, and with nil when it
	// works again, until ctx is done.
	Watch(ctx context.Context, report func(error)) error
}

// Inventory is the resources of a node, offered to its kubelet.
type Inventory struct {
	Resources []Resource
	Places    Places
	// InUse reports whether the node itself needs an interface: it has a default route.
	InUse func(ifName string) bool
	// Switch finds the vswitch of a network configuration of a kind.
	Switch func(kind string, config json.RawMessage) (Switch, error)
	Log    *slog.Logger
}

// Times between two looks.
const (
	lookAtFunctions = time.Second
	lookAtSwitch    = 2 * time.Second // one that does not work
	readyTimeout    = 5 * time.Second
)

// Run offers the resources until ctx is done. A resource that is wrong is logged, and the
// others are offered.
func (v *Inventory) Run(ctx context.Context) error {
	all, err := ReadFunctions(v.Places.Sysfs, v.InUse)
	if err != nil {
		v.Log.Error("PCI functions cannot be read: their resources are not offered", "why", err.Error())
	}
	given, errs := Assign(v.Resources, all)
	for _, err := range errs {
		v.Log.Error("a resource is not offered", "why", err.Error())
	}
	group, ctx := errgroup.WithContext(ctx)
	offered := map[string]bool{}
	for i := range v.Resources {
		r := &v.Resources[i]
		functions, ok := given[r.Name]
		if offered[r.Name] || r.Socket == nil && !ok {
			continue
		}
		if r.Socket == nil && len(functions) == 0 {
			v.Log.Warn("a resource has no devices: no PCI function of this node is selected", "resource", r.Name)
			continue
		}
		offered[r.Name] = true
		p := newPlugin(r, functions, &v.Places, v.Log)
		if err := p.restore(); err != nil {
			v.Log.Error("devices of running pods are not made again", "resource", r.Name, "why", err.Error())
		}
		group.Go(func() error { return p.Run(ctx) })
		group.Go(func() error { return v.follow(ctx, p) })
	}
	return group.Wait()
}

// follow keeps the health of a resource's devices up to date.
func (v *Inventory) follow(ctx context.Context, p *plugin) error {
	if p.resource.Socket != nil {
		return v.followSwitch(ctx, p)
	}
	s := reader{dir: filepath.Join(v.Places.Sysfs, "bus/pci/devices")}
	for {
		p.setHealth(func(id string) error {
			f := p.functions[id]
			return s.state(&f)
		})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(lookAtFunctions):
		}
	}
}

func (v *Inventory) followSwitch(ctx context.Context, p *plugin) error {
	s, err := v.Switch(p.resource.Socket.Kind, p.resource.Socket.Config)
	if err != nil {
		v.Log.Error("a resource has no healthy devices", "resource", p.resource.Name, "why", err.Error())
		return nil
	}
	reports := make(chan error, 1)
	tell := func(err error) { // the last one counts
		select {
		case <-reports:
		default:
		}
		reports <- err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := s.Watch(ctx, tell); ctx.Err() == nil {
			return fmt.Errorf("watch %s: %w", p.resource.Socket.Where, err)
		}
		return nil
	})
	group.Go(func() error {
		var down error
		for {
			why := down
			if down == nil {
				within, cancel := context.WithTimeout(ctx, readyTimeout)
				why = s.Ready(within)
				cancel()
			}
			if ctx.Err() != nil {
				return nil
			}
			p.setHealth(func(string) error { return why })
			var again <-chan time.Time
			if why != nil && down == nil {
				again = time.After(lookAtSwitch)
			}
			select {
			case <-ctx.Done():
				return nil
			case down = <-reports:
			case <-again:
			}
		}
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
