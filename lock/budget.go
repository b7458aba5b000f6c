package lock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Budget is what Takes that follow each other spend together: the time to wait for locks
// that others hold, and one search for the processes that hold them. What looks at
// every sandbox of a node skips those that are locked, and is not kept by each of them.
type Budget struct {
	table Table

	mu       sync.Mutex
	left     time.Duration
	holders  holders
	searched time.Time
}

// errSpent is the cause of a HeldError.
var errSpent = errors.New("skipped")

// searchAgain is after how long a search is made again for a lock that it has not found.
const searchAgain = time.Second

// NewBudget is a budget for locks of a table.
func NewBudget(table Table, wait time.Duration) *Budget { return &Budget{table: table, left: wait} }

// Take is Table.Take, which waits no longer than what is left of the budget.
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
