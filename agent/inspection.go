package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// inspection answers people and Prometheus.
type inspection struct {
	node       string       // name in the cluster
	missing    func() error // why the agent is not ready, nil when it is
	sandboxes  *sandboxes
	reconciler *reconciler
	publisher  *publisher
	telemetry  *telemetry
	warnings   func() []string // of the runtime's last STATUS
}

// routes adds the routes that change nothing, which TCP may serve too.
func (i *inspection) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := i.missing(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", i.telemetry.metrics.handler())
	mux.HandleFunc("GET /v1/node", i.nodeInfo)
	mux.HandleFunc("GET /v1/attachments", i.attachments)
	mux.HandleFunc("GET /v1/history", i.history)
	mux.HandleFunc("GET /v1/explain", i.explain)
}

// commands adds the routes that do something, for the unix socket alone.
func (i *inspection) commands(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/check", i.check)
	mux.HandleFunc("POST /v1/resync", i.resync)
	mux.HandleFunc("POST /v1/reclaim", i.reclaim)
}

func (i *inspection) nodeInfo(w http.ResponseWriter, _ *http.Request) {
	info := NodeInfo{Node: i.node, Version: Version(), Protocol: protocol}
	if err := i.missing(); err != nil {
		info.Why = err.Error()
	}
	info.Ready = info.Why == ""
	damaged := i.sandboxes.store.each(func(rec *journal.Record) {
		info.Sandboxes++
		if rec.Damage != "" {
			info.Damaged++
		}
		for _, tx := range rec.Transactions {
			info.Attachments += len(tx.Attachments)
			if tx.Phase != journal.PhaseAttached {
				info.Unfinished++
			}
		}
	})
	info.Damaged += len(unjoin(damaged))
	info.Unpublished = i.publisher.count()
	info.Vswitches = i.reconciler.endpoints.states()
	info.Differences = i.sandboxes.store.differences()
	info.Warnings = i.warnings()
	answer(w, info)
}

func (i *inspection) attachments(w http.ResponseWriter, _ *http.Request) {
	a := Attachments{Node: i.node, Sandboxes: []*journal.Record{}, Damaged: []string{}}
	err := i.sandboxes.store.each(func(rec *journal.Record) {
		a.Sandboxes = append(a.Sandboxes, rec)
		if rec.Damage != "" {
			a.Damaged = append(a.Damaged, rec.Damage)
		}
	})
	for _, one := range unjoin(err) {
		a.Damaged = append(a.Damaged, one.Error())
	}
	answer(w, a)
}

func (i *inspection) history(w http.ResponseWriter, r *http.Request) {
	limit := maxHistory
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("limit %.20q, want a number of 1 or more", text), http.StatusBadRequest)
			return
		}
		limit = n
	}
	answer(w, i.telemetry.history.last(r.URL.Query().Get("about"), limit))
}

// answer writes what people see: without secrets, which only the journal has.
func answer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		data, err = conf.Redact(data)
	}
	if err != nil {
		http.Error(w, "answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n')) // an error says that the client has gone
}
