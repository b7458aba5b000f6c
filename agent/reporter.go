package agent

import (
	"context"
	"maps"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// reporter counts the findings of reconciliations, logs them, and reports them on their
// pods. A difference that stays is reported once.
type reporter struct {
	store     *store
	cluster   cluster
	telemetry *telemetry
}

// observe compares a sandbox and reports what is found; an error is a finding too. A
// comparison without findings is not kept in the history.
func (r *reporter) observe(ctx context.Context, rec *journal.Record, compare func(context.Context) ([]engine.Finding, error)) []engine.Finding {
	t := r.telemetry.history.begin("RECONCILE", rec.Sandbox, podOf(rec))
	findings, err := compare(delegates.WithSteps(ctx, t.step))
	switch {
	case journal.IsLocked(err):
		findings = append(findings, engine.Finding{Sandbox: rec.Sandbox, Kind: engine.KindLocked, What: "skipped: " + err.Error()})
	case err != nil && ctx.Err() == nil:
		findings = append(findings, engine.Finding{Sandbox: rec.Sandbox, Kind: engine.KindFailed, What: err.Error()})
	}
	if len(findings) > 0 {
		t.end(err)
	} else {
		r.telemetry.history.forget(t)
	}
	r.report(rec.Sandbox, findings)
	return findings
}

// report reports the findings of one comparison of a sandbox.
func (r *reporter) report(sandbox string, findings []engine.Finding) {
	var before map[string]bool
	now := map[string]bool{}
	r.store.update(sandbox, func(k *knownSandbox) { before = k.differences })
	for _, f := range findings {
		if f.Kind == engine.KindLocked {
			maps.Copy(now, before) // the sandbox was not compared
		}
		r.telemetry.metrics.reconcile.WithLabelValues(string(f.Kind)).Inc()
		key := f.IfName + " " + f.What
		switch f.Kind {
		case engine.KindDifferent, engine.KindGone, engine.KindFailed, engine.KindDamaged:
			now[key] = true
		}
		if !before[key] {
			r.announce(&f)
		}
	}
	r.store.update(sandbox, func(k *knownSandbox) { k.differences = now })
}

// announce logs a finding and reports it on the pod.
func (r *reporter) announce(f *engine.Finding) {
	r.telemetry.log.Warn("reconcile", "kind", string(f.Kind), "sandbox", f.Sandbox, "pod", f.Pod.String(), "interface", f.IfName, "network", f.Network, "what", f.What)
	if f.Pod == nil || f.Kind == engine.KindGone || f.Kind == engine.KindLocked {
		return
	}
	text := f.What
	if f.IfName != "" {
		text = f.IfName + " (" + f.Network + "): " + text
	}
	switch f.Kind {
	case engine.KindMissing, engine.KindUnfinished:
		r.cluster.Event(f.Pod, false, reasonRestored, text)
	case engine.KindAbandoned:
		r.cluster.Event(f.Pod, true, reasonAbandoned, text)
	default:
		r.cluster.Event(f.Pod, true, reasonDifferent, text)
	}
}
