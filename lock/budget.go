package lock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Budget is the time that several calls of Take may wait together, and their one search for
// the holders of the locks. A pass over all sandboxes of a node skips locked ones with it,
// instead of waiting for each.
type Budget struct {
	table Table

	mu       sync.Mutex
	left     time.Duration
	holders  holders
	searched time.Time
}

// errSpent is the cause of a HeldError.
var errSpent = errors.New("skipped")

// searchAgain is the time after which a search that did not find a lock's holder is repeated.
const searchAgain = time.Second

// NewBudget is a budget for locks of a table.
func NewBudget(table Table, wait time.Duration) *Budget { return &Budget{table: table, left: wait} }

// Take is Table.Take, bounded by the rest of the budget.
func (b *Budget) Take(ctx context.Context, object, what string) (*Lock, error) {
	b.mu.Lock()
	left := b.left
	b.mu.Unlock()
	began := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, left, errSpent)
	defer cancel()
	l, err := b.table.wait(bounded, object, what)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = max(0, b.left-time.Since(began))
	if l != nil || err != nil {
		return l, err
	}
	names := b.holders.of(object)
	if len(names) == 0 && time.Since(b.searched) >= searchAgain {
		b.holders, b.searched = b.table.search(), time.Now()
		names = b.holders.of(object)
	}
	return nil, &HeldError{What: what, Holders: names, Cause: context.Cause(bounded)}
}
