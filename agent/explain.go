package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// explainTimeout bounds explain: people wait for it. A vswitch that hangs is named
// after 3 s (endpoint.Wait).
const explainTimeout = 4 * time.Second

func (i *inspection) explain(w http.ResponseWriter, r *http.Request) {
	namespace, name, ok := strings.Cut(r.URL.Query().Get("pod"), "/")
	if !ok || conf.CheckObjectName(namespace, name) != nil {
		http.Error(w, fmt.Sprintf("pod %.80q, want NAMESPACE/NAME", r.URL.Query().Get("pod")), http.StatusBadRequest)
		return
	}
	x := Explanation{Node: i.node, Pod: namespace + "/" + name, Plan: []conf.Network{}, Journal: []*journal.Record{}, Datapath: []engine.Datapath{}, History: i.telemetry.history.last(namespace+"/"+name, 10)}
	_ = i.sandboxes.store.each(func(rec *journal.Record) { // /v1/attachments names damaged ones
		if podOf(rec) == x.Pod {
			x.Journal = append(x.Journal, rec)
		}
	})
	ctx, cancel := context.WithTimeout(r.Context(), explainTimeout)
	defer cancel()
	for _, rec := range x.Journal {
		e, err := i.sandboxes.engines.of(rec)
		if err != nil {
			x.Error = err.Error()
			continue
		}
		if why := i.publisher.unpublished(rec.Sandbox); why != "" {
			x.Unpublished = why
		}
		var plan sync.WaitGroup
		plan.Go(func() { i.plan(ctx, &x, e, rec) }) // the API server may be slow, too
		x.Datapath = append(x.Datapath, e.Inspect(ctx, rec)...)
		plan.Wait()
	}
	if len(x.Journal) == 0 {
		x.Error = "nothing is recorded of this pod on node " + i.node
	}
	answer(w, x)
}

// plan adds what ADD would do for the pod as it is now.
func (i *inspection) plan(ctx context.Context, x *Explanation, e *engine.Engine, rec *journal.Record) {
	for _, tx := range rec.Transactions {
		if tx.Conf == nil || tx.Pod == nil {
			continue
		}
		c, err := conf.Parse(tx.Conf)
		if err == nil {
			var pod *conf.Pod
			var plan *conf.Plan
			args := conf.Args{{"K8S_POD_NAMESPACE", tx.Pod.Namespace}, {"K8S_POD_NAME", tx.Pod.Name}, {"K8S_POD_UID", tx.Pod.UID}}
			pod, plan, err = e.Plan(ctx, &engine.Request{Conf: c, Network: tx.Network, Stdin: tx.Conf, Sandbox: rec.Sandbox, IfName: tx.IfName, Args: args, Path: tx.Path})
			if err == nil {
				x.Plan, x.Warnings = plan.Networks, plan.Warnings
			}
			if pod != nil {
				x.Annotation = pod.Annotations[conf.NetworksAnnotation]
			}
		}
		if err != nil {
			x.Error = err.Error()
		}
	}
}
