package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plexus-cni/plexus/journal"
)

// store is what the agent's tasks share: the journal, and in memory what they have to know of
// its sandboxes without reading all records.
type store struct {
	journal *journal.Journal
	// observers are called with each record that is added or notified. They must not block.
	observers []func(*journal.Record)

	mu    sync.Mutex
	known map[string]*knownSandbox // by ID
}

// knownSandbox is what the agent knows of a recorded sandbox.
type knownSandbox struct {
	networks    map[string]string // by UID of its pod: the annotation of the networks that it was given
	failed      *string           // the annotation that it could not be given
	gone        time.Time         // since when its network namespace is gone; zero while it is there
	differences map[string]bool   // from the record, that are reported and still there
}

func newStore(j *journal.Journal) *store {
	return &store{journal: j, known: map[string]*knownSandbox{}}
}

// update changes what is known of a sandbox.
func (s *store) update(id string, change func(*knownSandbox)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[id]
	if k == nil {
		k = &knownSandbox{networks: map[string]string{}}
		s.known[id] = k
	}
	change(k)
}

// add notes a record and notifies the observers.
func (s *store) add(rec *journal.Record) {
	s.index(rec)
	s.notify(rec)
}

// index notes the networks that a record has.
func (s *store) index(rec *journal.Record) {
	s.update(rec.Sandbox, func(k *knownSandbox) {
		k.failed = nil
		for _, tx := range rec.Transactions {
			if tx.Pod != nil && tx.Conf != nil {
				k.networks[tx.Pod.UID] = tx.Networks
			}
		}
	})
}

func (s *store) notify(rec *journal.Record) {
	for _, observe := range s.observers {
		observe(rec)
	}
}

// remove drops what is known of a sandbox.
func (s *store) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
}

// selected are the known sandboxes that match.
func (s *store) selected(match func(*knownSandbox) bool) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.known {
		if match(k) {
			ids = append(ids, id)
		}
	}
	return ids
}

// ofPod are the sandboxes of a pod.
func (s *store) ofPod(uid string) []string {
	return s.selected(func(k *knownSandbox) bool { _, ok := k.networks[uid]; return ok })
}

// outdated are the sandboxes of a pod whose networks are not those that the annotation
// names. again: those too that could not be given them before.
func (s *store) outdated(uid, annotation string, again bool) []string {
	return s.selected(func(k *knownSandbox) bool {
		given, ok := k.networks[uid]
		return ok && given != annotation && (again || k.failed == nil || *k.failed != annotation)
	})
}

// differences is the number of reported differences that are still there.
func (s *store) differences() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		n += len(k.differences)
	}
	return n
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
