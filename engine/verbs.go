package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// Check compares every attachment of a request with its record: first by each plugin's own
// CHECK, then by the links, addresses and default routes in the pod. It reports all
// differences.
func (e *Engine) Check(ctx context.Context, r *Request) error {
	if err := r.checkIdentity(); err != nil {
		return err
	}
	ctx, unlock, err := e.lock(ctx, r.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := e.Journal.Read(r.Sandbox)
	if err != nil {
		return err
	}
	tx := rec.Find(r.IfName)
	if tx == nil {
		return delegates.Coded(delegates.CodeUnknownContainer, fmt.Errorf("sandbox %s: interface %s is not attached by plexus", r.Sandbox, r.IfName))
	}
	if rec.Damage != "" {
		return fmt.Errorf("sandbox %s: interface %s: %s; recorded is that it is %s: DEL it", r.Sandbox, r.IfName, rec.Damage, tx.Phase)
	}
	if tx.Phase != journal.PhaseAttached {
		return fmt.Errorf("sandbox %s: interface %s: the last request was cut short (%s): DEL it", r.Sandbox, r.IfName, tx.Phase)
	}
	netns := liveNetns(tx, r.Netns)
	if netns == "" {
		return fmt.Errorf("sandbox %s: its network namespace %s is gone", r.Sandbox, tx.Netns)
	}
	tx.Path = plugin.SearchPath(e.path(r), tx.Path)
	var errs []error
	for _, entry := range tx.Attachments {
		err := fmt.Errorf("a change of the pod's networks was cut short (%s)", entry.Phase)
		if entry.Phase == "" {
			err = e.checkOne(ctx, r.Sandbox, tx, entry, netns)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("check %s (network %s): %w", entry.IfName, entry.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) checkOne(ctx context.Context, sandbox string, tx *journal.Transaction, entry *journal.Entry, netns string) error {
	result, err := entry.ParseResult()
	if err != nil {
		return err
	}
	a, err := e.open(sandbox, tx, entry, netns)
	if err != nil {
		return err
	}
	return errors.Join(a.chain.Check(ctx), podnet.CompareLinks(netns, result), podnet.CompareDefault(netns, entry.IfName, entry.DefaultRoute))
}

// Status reports whether ADD can be served: it runs STATUS of the cluster network and of the
// other networks that the configuration itself names. A network that only pods name reports
// its state at ADD.
func (e *Engine) Status(ctx context.Context, r *Request) error {
	if r.Conf != nil && r.Conf.ReadinessIndicatorFile != "" {
		if _, err := os.Stat(r.Conf.ReadinessIndicatorFile); errors.Is(err, fs.ErrNotExist) {
			return delegates.Coded(delegates.CodeNotReady, fmt.Errorf("the cluster network is not ready: readinessindicatorfile %s does not exist", r.Conf.ReadinessIndicatorFile))
		}
	}
	plan, err := e.configuredPlan(ctx, r)
	if err != nil {
		return &delegates.Error{Code: delegates.CodeNotReady, Err: err}
	}
	for _, n := range plan.Networks {
		c, err := e.network(n, e.path(r))
		if err == nil {
			err = c.Status(ctx)
		}
		if err != nil {
			return &delegates.Error{Code: delegates.CodeNotReady, Err: fmt.Errorf("network %s is not ready: %w", n.Name, err)}
		}
	}
	return nil
}

// configuredPlan is the plan of a pod without annotations.
func (e *Engine) configuredPlan(ctx context.Context, r *Request) (*conf.Plan, error) {
	anyone := *r
	anyone.IfName, anyone.Args = "eth0", nil
	_, plan, err := e.Plan(ctx, &anyone)
	return plan, err
}
