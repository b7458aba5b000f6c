package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/plexus-cni/plexus/delegates"
)

// index finds the sandboxes of a pod without reading the whole journal, and tells
// whether a pod asks for other networks than it was given.
type index struct {
	mu    sync.Mutex
	pods  map[string]map[string]string // by UID: the networks asked for, by sandbox
	watch func(*delegates.Record)      // is told of each record
}

func newIndex(watch func(*delegates.Record)) *index {
	return &index{pods: map[string]map[string]string{}, watch: watch}
}

// note takes in a record.
func (x *index) note(rec *delegates.Record) {
	x.take(rec)
	x.watch(rec)
}

// take takes in a record and tells nobody.
func (x *index) take(rec *delegates.Record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, tx := range rec.Transactions {
		if tx.Pod == nil || tx.Conf == nil {
			continue
		}
		if x.pods[tx.Pod.UID] == nil {
			x.pods[tx.Pod.UID] = map[string]string{}
		}
		x.pods[tx.Pod.UID][rec.Sandbox] = tx.Networks
	}
}

func (x *index) attached(e *delegates.Engine, sandbox string) {
	if rec, err := e.Journal.Read(sandbox); err == nil && rec != nil {
		x.note(rec)
	}
}

func (x *index) detached(sandbox string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for uid, sandboxes := range x.pods {
		delete(sandboxes, sandbox)
		if len(sandboxes) == 0 {
			delete(x.pods, uid)
		}
	}
}

// all are the sandboxes that are known.
func (x *index) all() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []string
	for _, sandboxes := range x.pods {
		list = slices.AppendSeq(list, maps.Keys(sandboxes))
	}
	return list
}

// sandboxes are those of a pod.
func (x *index) sandboxes(uid string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.pods[uid]))
}

// changed are the sandboxes of a pod that were given other networks than it asks
// for now.
func (x *index) changed(uid, networks string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var list []string
	for sandbox, given := range x.pods[uid] {
		if given != networks {
			list = append(list, sandbox)
		}
	}
	return list
}
