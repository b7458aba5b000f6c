package toy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
)

// network is a parsed configuration.
type network struct {
	b        *Backend
	endpoint string
	describe bool
	first    bool
}

// Endpoint is delegates.Network.
func (n *network) Endpoint() string { return n.endpoint }

// Hints is delegates.Network.
func (n *network) Hints() []string { return nil }

// Ready is delegates.Network.
func (n *network) Ready(context.Context) error { return n.b.world.reach(n.endpoint) }

// InterfaceFirst is delegates.Network.
func (n *network) InterfaceFirst() bool { return n.first }

// Prepare is delegates.Network. It reserves the port's name.
func (n *network) Prepare(ctx context.Context, a *delegates.Attachment) (json.RawMessage, error) {
	if err := errors.Join(n.b.alive(), a.Bounds.Endpoint("endpoint", n.endpoint, DefaultEndpoint)); err != nil {
		return nil, err
	}
	m := markOf(a)
	s := state{n.endpoint, m.sandbox + "-" + a.IfName}
	if err := delegates.Step(ctx, "%s: reserve port %s of %s", a.IfName, s.Port, s.Endpoint); err != nil {
		return nil, err
	}
	if err := errors.Join(n.b.alive(), n.b.world.fault("prepare", a.IfName)); err != nil {
		return nil, err
	}
	if err := n.b.world.reserve(s, m); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Release is delegates.Network.
func (n *network) Release(ctx context.Context, a *delegates.Attachment) error {
	s, err := n.b.stateOf(a)
	if err != nil {
		return err
	}
	if err := delegates.Step(ctx, "%s: release port %s of %s", a.IfName, s.Port, s.Endpoint); err != nil {
		return err
	}
	return n.b.world.remove(s.Endpoint, s.Port)
}

// Check is delegates.Network.
func (n *network) Check(_ context.Context, a *delegates.Attachment) error {
	s, err := n.b.stateOf(a)
	if err != nil {
		return err
	}
	marks, err := n.b.world.marks(s.Endpoint)
	if err != nil {
		return err
	}
	if m, has := marks[s.Port]; !has || m.reserved {
		return fmt.Errorf("port %s is not at %s", s.Port, s.Endpoint)
	}
	return n.b.world.fault("check", a.IfName)
}

// Restore is delegates.Network.
func (n *network) Restore(ctx context.Context, a *delegates.Attachment) ([]string, error) {
	err := n.Check(ctx, a)
	if err == nil || delegates.AllUnavailable(err) != nil {
		return nil, err
	}
	s, err := n.b.stateOf(a)
	if err == nil {
		err = delegates.Step(ctx, "%s: make port %s at %s again", a.IfName, s.Port, s.Endpoint)
	}
	if err == nil {
		err = n.b.world.insert(s, markOf(a))
	}
	if err != nil {
		return nil, err
	}
	return []string{"port " + s.Port}, nil
}

// Inspect is delegates.Network.
func (n *network) Inspect(_ context.Context, a *delegates.Attachment) (map[string]string, error) {
	s, err := n.b.stateOf(a)
	if err != nil {
		return nil, err
	}
	marks, err := n.b.world.marks(s.Endpoint)
	if err != nil {
		return nil, err
	}
	m, has := marks[s.Port]
	if !has {
		return nil, nil
	}
	return map[string]string{"port": s.Port, "owner": m.owner}, nil
}

// Describe is delegates.Network.
func (n *network) Describe(a *delegates.Attachment) (delegates.Description, error) {
	if !n.describe {
		return delegates.Description{}, nil
	}
	text, err := json.Marshal([]string{a.IfName + " " + strings.Join(addresses(a.Result), " ")})
	return delegates.Description{Annotations: map[string]string{"toy/ports": string(text)}}, err
}

func addresses(r *types100.Result) (all []string) {
	for _, ip := range r.IPs {
		all = append(all, ip.Address.String())
	}
	return all
}
