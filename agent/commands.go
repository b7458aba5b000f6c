package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/kube"
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
	together := &delegates.Comparison{}
	i.sandboxes.each(r.Context(), func(ctx context.Context, rec *journal.Record, e *engine.Engine) {
		if selected(rec) {
			add(rec, e.CheckAll(ctx, rec, together))
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

// reclaim undoes one sandbox. One in use needs force.
func (i *inspection) reclaim(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	abandon := query["abandon"]
	rec, err := i.sandboxes.store.find(query.Get("sandbox"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err := refuseCut(rec, query.Get("force") == "true", abandon); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	e, err := i.sandboxes.engines.of(rec)
	var given []engine.Finding
	if err == nil {
		given, err = i.reconciler.reaper.reclaim(r.Context(), rec, e, "an operator asked for it", abandon...)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, reclaimed(i.sandboxes.store.journal, rec, given))
}

// refuseCut refuses to undo a sandbox in use.
func refuseCut(rec *journal.Record, force bool, abandon []string) error {
	if force || !engine.InUse(rec, abandon...) {
		return nil
	}
	return fmt.Errorf("sandbox %s is alive (pod %s): its networks would be cut; force does it", rec.Sandbox, podOf(rec))
}

func reclaimed(j *journal.Journal, rec *journal.Record, given []engine.Finding) *Reclaimed {
	left, err := j.Read(rec.Sandbox)
	r := &Reclaimed{Sandbox: rec.Sandbox, Pod: podOf(rec), Kept: left != nil || err != nil}
	for _, f := range given {
		r.Abandoned = append(r.Abandoned, f.What)
	}
	return r
}

// Reclaim undoes in this process a sandbox of the journal in dataDir, whose ID begins so, by its
// record alone: neither the node agent nor the node's configuration is needed. A sandbox in use
// needs force; abandon is that of engine.Engine.Reclaim.
func Reclaim(ctx context.Context, dataDir, sandbox string, force bool, abandon []string, log *slog.Logger, stderr io.Writer) (*Reclaimed, error) {
	s := newStore(journal.Open(dataDir))
	rec, err := s.find(sandbox)
	if err == nil {
		err = refuseCut(rec, force, abandon)
	}
	if err != nil {
		return nil, fmt.Errorf("journal in %s: %w", dataDir, err)
	}
	all := &recordedEngines{engines: &engines{delegates: engine.Builtin(log), cluster: ownCluster}, dataDir: dataDir, confDir: DefaultConfDir, log: log, stderr: stderr}
	e, err := all.of(rec)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	given, err := e.Reclaim(ctx, rec.Sandbox, abandon...)
	if live, ok := e.Source.(*kube.Live); ok {
		for _, f := range given {
			live.Cluster.Event(f.Pod, true, reasonAbandoned, f.What)
		}
	}
	return reclaimed(s.journal, rec, given), err
}
