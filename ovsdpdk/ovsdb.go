package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/endpoint"
)

// vswitchDB is the name of the vswitch's database (ovs-vswitchd.conf.db(5)).
const vswitchDB = "Open_vSwitch"

// Time limits towards ovsdb-server and ovs-vswitchd. ADD waits for both, undoes what it
// has made, and is over within 10 s.
const (
	transactTimeout = 3 * time.Second // for ovsdb-server to answer
	openTimeout     = 5 * time.Second // for ovs-vswitchd to open a port
	openMargin      = 2 * time.Second // for ovsdb-server to answer that it did not
	goneTimeout     = time.Second     // for ovs-vswitchd to act on a removal; DEL goes on after it
)

// databases are the connections to OVSDB servers, and the lags of the vswitches behind
// them.
type databases struct {
	pool *endpoint.Pool[*conn]

	mu   sync.Mutex
	lags map[string]lag // by address
}

func newDatabases() *databases {
	return &databases{lags: map[string]lag{}, pool: &endpoint.Pool[*conn]{
		Dial: func(ctx context.Context, address string, suspect bool) (*conn, error) {
			limit := endpoint.Wait
			if suspect {
				limit = endpoint.ShortWait
			}
			c, err := dial(ctx, limit, address, nil)
			if err != nil {
				return nil, unavailable(address, err)
			}
			return c, nil
		},
		Unavailable: unavailable,
	}}
}

// unavailable is the error of an OVSDB server that does not answer.
func unavailable(address string, cause error) error {
	return &delegates.Unavailable{Endpoint: address, Kind: "OVSDB", Err: cause, Hint: `is ovsdb-server running, and is "ovsdb" its address?`}
}

// transact runs the operations as one transaction: all or none. Every
// operation's error is looked at; results has one element for each.
func (d *databases) transact(ctx context.Context, address string, ops ...ovsdb.Operation) ([]result, error) {
	return d.transactWithin(ctx, transactTimeout, address, ops...)
}

// transactWithin is transact with another limit for the answer. It makes one request, over a
// new connection if the last one has ended.
func (d *databases) transactWithin(ctx context.Context, limit time.Duration, address string, ops ...ovsdb.Operation) ([]result, error) {
	for again := false; ; again = true {
		c, err := d.pool.Get(ctx, address)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		var results []result
		if err == nil {
			bounded, cancel := context.WithTimeout(ctx, limit)
			results, err = c.transact(bounded, ops)
			cancel()
		}
		var refused *operationError
		switch {
		case err == nil && len(results) < len(ops):
			return results, fmt.Errorf("OVSDB at %s answered %d of %d operations", address, len(results), len(ops))
		case err == nil, errors.As(err, &refused):
			return results, err
		case ctx.Err() != nil: // the connection is as good as before
			return nil, fmt.Errorf("OVSDB at %s: %w", address, ctx.Err())
		case errors.Is(err, context.DeadlineExceeded):
			d.pool.Silent(address, c, limit)
			return nil, unavailable(address, endpoint.SilentError{Limit: limit})
		case !errors.Is(err, errUnsent) || again:
			return nil, unavailable(address, err)
		}
	}
}

// dial connects to the first of the address' remotes that has the vswitch's database.
func dial(ctx context.Context, limit time.Duration, address string, notify notifier) (*conn, error) {
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	var errs []error
	all := remotesOf(address)
	for _, remote := range all {
		c, err := dialServer(ctx, limit/time.Duration(len(all)), remote, notify)
		if err == nil {
			return c, nil
		}
		if len(all) > 1 {
			err = fmt.Errorf("%s: %w", remote, err)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dialServer connects and checks that the server has the vswitch's database: a server that
// accepts and does not answer, or answers something else, is no OVSDB.
func dialServer(ctx context.Context, limit time.Duration, remote string, notify notifier) (c *conn, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer func() {
		if errors.Is(err, context.DeadlineExceeded) {
			err = endpoint.SilentError{Limit: limit}
		}
	}()
	stream, err := dialRemote(ctx, remote)
	if err != nil {
		return nil, err
	}
	c = newConn(stream, notify)
	var names []string
	raw, err := c.call(ctx, "list_dbs")
	if err == nil && json.Unmarshal(raw, &names) != nil {
		err = fmt.Errorf("it lists its databases as %.*s", maxQuote, raw)
	}
	if err == nil && !slices.Contains(names, vswitchDB) {
		err = fmt.Errorf("it has no database %s", vswitchDB)
	}
	if err != nil {
		c.Close(endpoint.ErrClosed)
		return nil, err
	}
	return c, nil
}

// transact requests a transaction and returns a result for each operation. The error of an
// operation is an operationError.
func (c *conn) transact(ctx context.Context, ops []ovsdb.Operation) (results []result, err error) {
	raw, err := c.call(ctx, "transact", ovsdb.NewTransactArgs(vswitchDB, ops...)...)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &results); err != nil {
		err = fmt.Errorf("read the result of a transaction: %.*s", maxQuote, err)
		c.Close(err)
		return nil, err
	}
	if e := firstError(ops, results); e != nil {
		return results, e
	}
	return results, nil
}

// operationError is OVSDB's error of an operation (RFC 7047, 4.1.3).
type operationError struct {
	op     ovsdb.Operation
	at     int    // its place in the transaction
	answer string // "constraint violation", "timed out", ...
	detail string
}

func (e *operationError) Error() string {
	text := strings.TrimSpace("OVSDB refused "+e.op.Op+" "+e.op.Table) + ": " + e.answer
	if e.detail != "" {
		text += ": " + e.detail
	}
	return text
}

// firstError is the error of the first operation that has one, nil for none. An error
// behind the last operation is about all of them (RFC 7047, 4.1.3).
func firstError(ops []ovsdb.Operation, results []result) *operationError {
	for i, r := range results {
		if r.Error == "" {
			continue
		}
		e := &operationError{at: i, answer: r.Error, detail: r.Details}
		if i < len(ops) {
			e.op = ops[i]
		}
		return e
	}
	return nil
}

// refusal returns the operation that OVSDB refused with an answer, nil for another error.
func refusal(err error, answer string) *operationError {
	var e *operationError
	if errors.As(err, &e) && e.answer == answer {
		return e
	}
	return nil
}

const (
	answerTimedOut   = "timed out"            // a wait that does not hold
	answerConstraint = "constraint violation" // a name that exists
)
