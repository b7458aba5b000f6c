package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/plexus-cni/plexus/journal"
)

// store is what the agent's tasks share: the journal, and an index of it that finds the
// sandboxes of a pod, and the networks that they were given, without reading all records.
type store struct {
	journal *journal.Journal
	// observers are called with each record that is added or notified. They must not block.
	observers []func(*journal.Record)

	mu   sync.Mutex
	pods map[string]map[string]string // by UID of the pod, then by sandbox: its annotation of networks at that time
}

func newStore(j *journal.Journal) *store {
	return &store{journal: j, pods: map[string]map[string]string{}}
}

// add indexes a record and notifies the observers.
func (s *store) add(rec *journal.Record) {
	s.index(rec)
	s.notify(rec)
}

// index indexes a record.
func (s *store) index(rec *journal.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tx := range rec.Transactions {
		if tx.Pod == nil || tx.Conf == nil {
			continue
		}
		if s.pods[tx.Pod.UID] == nil {
			s.pods[tx.Pod.UID] = map[string]string{}
		}
		s.pods[tx.Pod.UID][rec.Sandbox] = tx.Networks
	}
}

func (s *store) notify(rec *journal.Record) {
	for _, observe := range s.observers {
		observe(rec)
	}
}

// remove drops a sandbox from the index.
func (s *store) remove(sandbox string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, sandboxes := range s.pods {
		delete(sandboxes, sandbox)
		if len(sandboxes) == 0 {
			delete(s.pods, uid)
		}
	}
}

// indexed are the sandboxes in the index.
func (s *store) indexed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, sandboxes := range s.pods {
		list = slices.AppendSeq(list, maps.Keys(sandboxes))
	}
	return list
}

// ofPod are the sandboxes of a pod.
func (s *store) ofPod(uid string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.pods[uid]))
}

// outdated are the sandboxes of a pod whose networks are not those that the annotation
// names.
func (s *store) outdated(uid, annotation string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for sandbox, given := range s.pods[uid] {
		if given != annotation {
			list = append(list, sandbox)
		}
	}
	return list
}

// hasNewer reports whether the pod of a transaction has a newer sandbox.
func (s *store) hasNewer(sandbox string, tx *journal.Transaction) bool {
	for _, other := range s.ofPod(tx.Pod.UID) {
		rec, err := s.journal.Read(other)
		if err != nil || rec == nil || other == sandbox {
			continue
		}
		if slices.ContainsFunc(rec.Transactions, func(t *journal.Transaction) bool { return t.Started.After(tx.Started) }) {
			return true
		}
	}
	return false
}

// each reads the journal. A record that cannot be read hides none of the others; the
// error joins one for each.
func (s *store) each(do func(*journal.Record)) error {
	sandboxes, err := s.journal.Sandboxes()
	if err != nil {
		return err
	}
	var errs []error
	for _, sandbox := range sandboxes {
		rec, err := s.journal.Read(sandbox)
		if err != nil {
			errs = append(errs, err)
		}
		if rec != nil {
			do(rec)
		}
	}
	return errors.Join(errs...)
}

// find finds the record whose sandbox ID has a prefix.
func (s *store) find(prefix string) (*journal.Record, error) {
	var matching []*journal.Record
	err := s.each(func(rec *journal.Record) {
		if prefix != "" && strings.HasPrefix(rec.Sandbox, prefix) {
			matching = append(matching, rec)
		}
	})
	switch len(matching) {
	case 1:
		return matching[0], nil
	case 0:
		return nil, errors.Join(fmt.Errorf("no sandbox %.80q is recorded", prefix), err)
	}
	return nil, fmt.Errorf("%d sandboxes begin with %.80q: give more of it", len(matching), prefix)
}

// podOf is the pod of a record as NAMESPACE/NAME, "" when it has none.
func podOf(rec *journal.Record) string {
	for _, tx := range rec.Transactions {
		if tx.Pod != nil {
			return tx.Pod.String()
		}
	}
	return ""
}
