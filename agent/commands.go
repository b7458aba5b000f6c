package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// check is CHECK of every recorded attachment, or of one sandbox' or pod's.
func (i *inspection) check(w http.ResponseWriter, r *http.Request) {
	about := r.URL.Query().Get("about")
	all := []Checked{}
	var mu sync.Mutex
	selected := func(rec *journal.Record) bool {
		return about == "" || rec != nil && (podOf(rec) == about || strings.HasPrefix(rec.Sandbox, about))
	}
	add := func(rec *journal.Record, err error) { // a sandbox that cannot be checked is not in order
		if !selected(rec) {
			return
		}
		var c Checked
		if rec != nil {
			c.Sandbox, c.Pod = rec.Sandbox, podOf(rec)
		}
		if err != nil {
			c.Error = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
	}
	i.sandboxes.each(r.Context(), func(ctx context.Context, rec *journal.Record, e *engine.Engine) {
		if selected(rec) {
			add(rec, e.CheckAll(ctx, rec))
		}
	}, add)
	slices.SortFunc(all, func(a, b Checked) int { return strings.Compare(a.Pod+a.Sandbox, b.Pod+b.Sandbox) })
	answer(w, all)
}

func (i *inspection) resync(w http.ResponseWriter, r *http.Request) {
	findings, err := i.reconciler.now(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, findings)
}

// reclaim undoes one sandbox. One whose namespace is there needs force.
func (i *inspection) reclaim(w http.ResponseWriter, r *http.Request) {
	sandbox := r.URL.Query().Get("sandbox")
	rec, err := i.sandboxes.store.find(sandbox)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if engine.Alive(rec) && r.URL.Query().Get("force") != "true" {
		http.Error(w, fmt.Sprintf("sandbox %s is alive (pod %s): its networks would be cut; force does it", rec.Sandbox, podOf(rec)), http.StatusConflict)
		return
	}
	e, err := i.sandboxes.engines.of(rec)
	if err == nil {
		err = i.reconciler.reaper.reclaim(r.Context(), rec, e, "an operator asked for it")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, Checked{Sandbox: rec.Sandbox, Pod: podOf(rec)})
}
