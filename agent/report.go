package agent

import (
	"maps"

	"github.com/plexus-cni/plexus/delegates"
)

// report counts, logs and tells on the pod what was found. A difference that
// stays is told once.
func (k *keeper) report(rec *delegates.Record, found []delegates.Finding) {
	k.mu.Lock()
	before, now := k.told[rec.Sandbox], map[string]bool{}
	k.mu.Unlock()
	for _, f := range found {
		if f.Kind == delegates.FoundLocked {
			maps.Copy(now, before) // which could not be looked at again
		}
		k.metrics.reconcile.WithLabelValues(string(f.Kind)).Inc()
		key := f.IfName + " " + f.What
		if f.Kind == delegates.FoundDifferent || f.Kind == delegates.FoundGone || f.Kind == delegates.FoundFailed || f.Kind == delegates.FoundDamaged {
			now[key] = true
		}
		if !before[key] {
			k.say(&f)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.told[rec.Sandbox] = now; len(now) == 0 {
		delete(k.told, rec.Sandbox)
	}
}

// say logs a finding and tells of it on the pod.
func (k *keeper) say(f *delegates.Finding) {
	k.Log.Warn("reconcile", "kind", string(f.Kind), "sandbox", f.Sandbox, "pod", f.Pod.String(), "interface", f.IfName, "network", f.Network, "what", f.What)
	if k.cluster == nil || f.Pod == nil || f.Kind == delegates.FoundGone || f.Kind == delegates.FoundLocked {
		return
	}
	text := f.What
	if f.IfName != "" {
		text = f.IfName + " (" + f.Network + "): " + text
	}
	if f.Kind == delegates.FoundMissing || f.Kind == delegates.FoundUnfinished {
		k.cluster.Event(f.Pod, false, reasonRestored, text)
	} else {
		k.cluster.Event(f.Pod, true, reasonDifferent, text)
	}
}
