package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// NodeInfo is GET /v1/node.
type NodeInfo struct {
	Node        string `json:"node"`
	Version     string `json:"version"`
	Protocol    int    `json:"protocol"`
	Ready       bool   `json:"ready"`
	Why         string `json:"why,omitempty"` // it is not ready
	Sandboxes   int    `json:"sandboxes"`
	Attachments int    `json:"attachments"`
	Unfinished  int    `json:"unfinished"` // transactions that are to be undone
	Damaged     int    `json:"damaged"`    // journal files that cannot be used, or in part
	Differences int    `json:"differences"`
	Unpublished int    `json:"unpublished"` // sandboxes whose pods do not know yet what they got
}

// Attachments is GET /v1/attachments: the journal.
type Attachments struct {
	Node      string              `json:"node"`
	Sandboxes []*delegates.Record `json:"sandboxes"`
	Damaged   []string            `json:"damaged"`
}

// Explanation is GET /v1/explain?pod=NAMESPACE/NAME: what was asked for, what
// would be done now, what is recorded, what the datapaths have.
type Explanation struct {
	Node       string         `json:"node"`
	Pod        string         `json:"pod"`
	Annotation string         `json:"annotation"`
	Plan       []conf.Network `json:"plan"`
	Warnings   []string       `json:"warnings,omitempty"`
	Error      string         `json:"error,omitempty"` // why there is no plan
	// Unpublished says why the pod's network-status does not tell what is recorded.
	Unpublished string               `json:"unpublished,omitempty"`
	Journal     []*delegates.Record  `json:"journal"`
	Datapath    []delegates.Datapath `json:"datapath"`
	History     []Event              `json:"history"`
}

// Checked is an element of POST /v1/check.
type Checked struct {
	Sandbox string `json:"sandbox"`
	Pod     string `json:"pod,omitempty"`
	Error   string `json:"error,omitempty"`
}

// routes are those of the unix socket.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	s.reading(mux)
	mux.HandleFunc("POST /v1/cni", s.cni)
	mux.HandleFunc("POST /v1/check", s.check)
	mux.HandleFunc("POST /v1/resync", s.resync)
	mux.HandleFunc("POST /v1/reclaim", s.reclaimOne)
	return confirmed(mux)
}

// reading are the routes that change nothing, which TCP may serve too.
func (s *Server) reading(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.keeper.notReady(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("GET /v1/node", s.node)
	mux.HandleFunc("GET /v1/attachments", s.attachments)
	mux.HandleFunc("GET /v1/history", s.past)
	mux.HandleFunc("GET /v1/explain", s.explain)
}

func (s *Server) node(w http.ResponseWriter, _ *http.Request) {
	i := NodeInfo{Node: s.Name, Version: Version(), Protocol: protocol}
	if err := s.keeper.notReady(); err != nil {
		i.Why = err.Error()
	}
	i.Ready = i.Why == ""
	damaged := eachRecord(s.keeper.journal, func(rec *delegates.Record) {
		i.Sandboxes++
		if rec.Damage != "" {
			i.Damaged++
		}
		for _, tx := range rec.Transactions {
			i.Attachments += len(tx.Attachments)
			if tx.Phase != delegates.PhaseAttached {
				i.Unfinished++
			}
		}
	})
	i.Damaged += len(unjoin(damaged))
	i.Unpublished = s.publisher.count()
	s.keeper.mu.Lock()
	for _, told := range s.keeper.told {
		i.Differences += len(told)
	}
	s.keeper.mu.Unlock()
	answer(w, i)
}

// Version is that of the module, "devel" where the build does not say.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func (s *Server) attachments(w http.ResponseWriter, _ *http.Request) {
	a := Attachments{Node: s.Name, Sandboxes: []*delegates.Record{}, Damaged: []string{}}
	err := eachRecord(s.keeper.journal, func(rec *delegates.Record) {
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

func (s *Server) past(w http.ResponseWriter, r *http.Request) {
	limit := maxHistory
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("limit %.20q, want a number of 1 or more", text), http.StatusBadRequest)
			return
		}
		limit = n
	}
	answer(w, s.history.last(r.URL.Query().Get("about"), limit))
}

// explainTimeout bounds explain: people wait for it. A vswitch that hangs is known after
// 3 s (endpoint.Wait), and named.
const explainTimeout = 4 * time.Second

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	namespace, name, ok := strings.Cut(r.URL.Query().Get("pod"), "/")
	if !ok || conf.CheckObjectName(namespace, name) != nil {
		http.Error(w, fmt.Sprintf("pod %.80q, want NAMESPACE/NAME", r.URL.Query().Get("pod")), http.StatusBadRequest)
		return
	}
	x := Explanation{Node: s.Name, Pod: namespace + "/" + name, Plan: []conf.Network{}, Journal: []*delegates.Record{}, Datapath: []delegates.Datapath{}, History: s.history.last(namespace+"/"+name, 10)}
	_ = eachRecord(s.keeper.journal, func(rec *delegates.Record) { // a damaged one is told by /v1/attachments
		if podOf(rec) == x.Pod {
			x.Journal = append(x.Journal, rec)
		}
	})
	ctx, cancel := context.WithTimeout(r.Context(), explainTimeout)
	defer cancel()
	for _, rec := range x.Journal {
		e, err := s.keeper.engineFor(rec)
		if err != nil {
			x.Error = err.Error()
			continue
		}
		if why := s.publisher.unpublished(rec.Sandbox); why != "" {
			x.Unpublished = why
		}
		planned := make(chan bool)
		go func() { // the API server may be slow, too
			defer close(planned)
			s.planOf(ctx, &x, e, rec)
		}()
		found := e.Inspect(ctx, rec)
		<-planned
		x.Datapath = append(x.Datapath, found...)
	}
	if len(x.Journal) == 0 {
		x.Error = "nothing is recorded of this pod on node " + s.Name
	}
	answer(w, x)
}

// planOf says what ADD would do for the pod as it is now.
func (s *Server) planOf(ctx context.Context, x *Explanation, e *delegates.Engine, rec *delegates.Record) {
	for _, tx := range rec.Transactions {
		if tx.Conf == nil || tx.Pod == nil {
			continue
		}
		c, err := conf.Parse(tx.Conf)
		if err == nil {
			var pod *conf.Pod
			var plan *conf.Plan
			args := conf.Args{{"K8S_POD_NAMESPACE", tx.Pod.Namespace}, {"K8S_POD_NAME", tx.Pod.Name}, {"K8S_POD_UID", tx.Pod.UID}}
			pod, plan, err = e.Plan(ctx, &delegates.Request{Conf: c, Network: tx.Network, Stdin: tx.Conf, Sandbox: rec.Sandbox, IfName: tx.IfName, Args: args, Path: tx.Path})
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

// check is CHECK of every recorded attachment, or of one sandbox' or pod's.
func (s *Server) check(w http.ResponseWriter, r *http.Request) {
	about := r.URL.Query().Get("about")
	all := []Checked{}
	var mu sync.Mutex
	asked := func(rec *delegates.Record) bool {
		return about == "" || podOf(rec) == about || strings.HasPrefix(rec.Sandbox, about)
	}
	damaged := eachRecord(s.keeper.journal, func(rec *delegates.Record) { // what cannot be looked at is not in order
		if _, err := s.keeper.engineFor(rec); err != nil && asked(rec) {
			all = append(all, Checked{Sandbox: rec.Sandbox, Pod: podOf(rec), Error: err.Error()})
		}
	})
	for _, one := range unjoin(damaged) {
		if about == "" {
			all = append(all, Checked{Error: one.Error()})
		}
	}
	s.keeper.eachSandbox(r.Context(), func(ctx context.Context, rec *delegates.Record, e *delegates.Engine) {
		if !asked(rec) {
			return
		}
		c := Checked{Sandbox: rec.Sandbox, Pod: podOf(rec)}
		if err := e.CheckAll(ctx, rec); err != nil {
			c.Error = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, c)
	})
	slices.SortFunc(all, func(a, b Checked) int { return strings.Compare(a.Pod+a.Sandbox, b.Pod+b.Sandbox) })
	answer(w, all)
}

func (s *Server) resync(w http.ResponseWriter, r *http.Request) {
	found, err := s.keeper.resync(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(w, found)
}

// reclaimOne undoes one sandbox. One whose namespace is there needs force.
func (s *Server) reclaimOne(w http.ResponseWriter, r *http.Request) {
	sandbox := r.URL.Query().Get("sandbox")
	rec, err := s.keeper.find(sandbox)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if rec.Alive() && r.URL.Query().Get("force") != "true" {
		http.Error(w, fmt.Sprintf("sandbox %s is alive (pod %s): its networks would be cut; force does it", rec.Sandbox, podOf(rec)), http.StatusConflict)
		return
	}
	e, err := s.keeper.engineFor(rec)
	if err == nil {
		err = s.keeper.reclaim(r.Context(), rec, e, "an operator asked for it")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, Checked{Sandbox: rec.Sandbox, Pod: podOf(rec)})
}

// find finds a record by the beginning of its sandbox' ID.
func (k *keeper) find(sandbox string) (*delegates.Record, error) {
	var found []*delegates.Record
	err := eachRecord(k.journal, func(rec *delegates.Record) {
		if sandbox != "" && strings.HasPrefix(rec.Sandbox, sandbox) {
			found = append(found, rec)
		}
	})
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, errors.Join(fmt.Errorf("no sandbox %.80q is recorded", sandbox), err)
	}
	return nil, fmt.Errorf("%d sandboxes begin with %.80q: give more of it", len(found), sandbox)
}
