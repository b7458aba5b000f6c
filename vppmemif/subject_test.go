package vppmemif

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
)

// subject is an attachment of a test, and the configuration of its network.
type subject struct {
	delegates.Attachment
	Conf json.RawMessage
}

// of is the attachment as the contract has it, parsed by a delegate and with a state.
func (s subject) of(d *Delegate, state json.RawMessage) (*delegates.Attachment, error) {
	a := s.Attachment
	a.State = state
	parser := delegates.Delegate(d)
	if strings.Contains(string(s.Conf), `"type":"userspace"`) {
		parser = userspace.New(userspace.EngineVPP, atSocket{d, s.Conf})
	}
	n, _, err := parser.Parse(a.Name, s.Conf)
	if err == nil {
		a.Network = n
	}
	return &a, err
}

// atSocket takes the API socket from the configuration that was translated: userspace-cni's
// form can name none.
type atSocket struct {
	*Delegate
	conf []byte
}

// ParseAs is userspace.Backend.
func (s atSocket) ParseAs(network string, config []byte, dialect *delegates.Dialect) (delegates.Network, []string, error) {
	n, warnings, err := s.Delegate.ParseAs(network, config, dialect)
	if err == nil {
		var named struct{ APISocket string }
		err = json.Unmarshal(s.conf, &named)
		configOf(&delegates.Attachment{Network: n}).APISocket = named.APISocket
	}
	return n, warnings, err
}

func (d *Delegate) prepare(ctx context.Context, s subject) (json.RawMessage, error) {
	a, err := s.of(d, nil)
	if err != nil {
		return nil, err
	}
	return a.Network.Prepare(ctx, a)
}

// add is Attach of a pod's only attachment.
func add(ctx context.Context, d *Delegate, s subject, state json.RawMessage) (*types100.Result, error) {
	a, err := s.of(d, state)
	if err != nil {
		return nil, err
	}
	err = d.Attach(ctx, []*delegates.Attachment{a})
	return a.Result, err
}

func (d *Delegate) check(ctx context.Context, s subject, state json.RawMessage) error {
	a, err := s.of(d, state)
	if err != nil {
		return err
	}
	return a.Network.Check(ctx, a)
}

func (d *Delegate) restore(ctx context.Context, s subject, state json.RawMessage) ([]string, error) {
	a, err := s.of(d, state)
	if err != nil {
		return nil, err
	}
	return a.Network.Restore(ctx, a)
}

func (d *Delegate) inspect(ctx context.Context, s subject, state json.RawMessage) (map[string]string, error) {
	a, err := s.of(d, state)
	if err != nil {
		return nil, err
	}
	return a.Network.Inspect(ctx, a)
}

func (d *Delegate) describe(s subject, state json.RawMessage) (delegates.Description, error) {
	a, err := s.of(d, state)
	if err != nil {
		return delegates.Description{}, err
	}
	return a.Network.Describe(a)
}

func (d *Delegate) ready(ctx context.Context, config json.RawMessage) error {
	n, _, err := d.Parse("", config)
	if err != nil {
		return err
	}
	return n.Ready(ctx)
}

// del is Detach of one attachment. A record is enough: there is no configuration then.
func (d *Delegate) del(ctx context.Context, s subject, state json.RawMessage) error {
	a, _ := s.of(d, state)
	if state != nil {
		a.Network = nil
	}
	return d.Detach(ctx, []*delegates.Attachment{a})[0]
}

// pod is all attachments of a pod.
type pod struct {
	d   *Delegate
	all []*delegates.Attachment
}

// newPodOf parses attachments, and prepares them up to the first that fails.
func newPodOf(ctx context.Context, d *Delegate, subjects []subject) (p *pod, err error) {
	p = &pod{d: d}
	for _, s := range subjects {
		a, errParse := s.of(d, nil)
		if err == nil {
			err = errParse
		}
		if err == nil {
			a.State, err = a.Network.Prepare(ctx, a)
		}
		p.all = append(p.all, a)
	}
	return p, err
}

func (p *pod) attach(ctx context.Context) error { return p.d.Attach(ctx, p.all) }

func (p *pod) detach(ctx context.Context) []error { return p.d.Detach(ctx, p.all) }

// loseRecord leaves Detach the marks of ownership and the configurations.
func (p *pod) loseRecord() {
	for _, a := range p.all {
		a.State = nil
	}
}

func (p *pod) mustDetach(t testing.TB) {
	t.Helper()
	for i, err := range p.detach(bounded(t)) {
		if err != nil {
			t.Errorf("Detach %s: %v", p.all[i].IfName, err)
		}
	}
}
