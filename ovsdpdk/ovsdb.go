package ovsdpdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// vswitchDB is the name of the vswitch's database (ovs-vswitchd.conf.db(5)).
const vswitchDB = "Open_vSwitch"

// Time limits towards ovsdb-server and ovs-vswitchd.
const (
	connectTimeout  = 3 * time.Second
	transactTimeout = 5 * time.Second
	settleTimeout   = 15 * time.Second // for ovs-vswitchd to act on a row
	goneTimeout     = 2 * time.Second  // for ovs-vswitchd to act on a removal; DEL goes on after it
)

// databases are the connections to OVSDB servers, by address.
type databases struct {
	mu    sync.Mutex
	known map[string]*database
}

func (d *databases) at(address string) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[address] == nil {
		if d.known == nil {
			d.known = map[string]*database{}
		}
		d.known[address] = &database{address: address}
	}
	return d.known[address]
}

// close ends the connections. Requests under way fail; later ones connect anew.
func (d *databases) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, db := range d.known {
		db.close()
	}
}

// database is the connection to one server. Requests share it, and the attempt
// to make it when it is gone: nobody waits for a server that is not there for
// longer than connectTimeout, however many want it.
type database struct {
	address string
	mu      sync.Mutex
	attempt *attempt
}

// attempt is a connection that is being made, was made or could not be. It is
// nobody's own: whoever gives up leaves it to the others.
type attempt struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when conn or err is there
	conn   *conn
	err    error
}

// made is the connection, nil when there is none yet, or none to be had.
func (a *attempt) made() *conn {
	select {
	case <-a.done:
		return a.conn
	default:
		return nil
	}
}

// over says that it takes another attempt to have a connection.
func (a *attempt) over() bool {
	select {
	case <-a.done:
		return a.conn == nil || a.conn.ended()
	default:
		return false
	}
}

func (d *database) connect(ctx context.Context) (*conn, error) {
	d.mu.Lock()
	if d.attempt == nil || d.attempt.over() {
		d.attempt = newAttempt(d.address)
	}
	a := d.attempt
	d.mu.Unlock()
	select {
	case <-a.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newAttempt(address string) *attempt {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer cancel()
		defer close(a.done)
		var err error
		if a.conn, err = dial(ctx, address); err == nil {
			return
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no connection within %s", connectTimeout)
		}
		a.err = &unreachable{address, err}
	}()
	return a
}

// forget makes the next request connect anew. Requests under way on the
// connection are left to end.
func (d *database) forget(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attempt != nil && d.attempt.made() == c {
		d.attempt = nil
	}
	c.retire()
}

func (d *database) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attempt == nil {
		return
	}
	d.attempt.cancel()
	if <-d.attempt.done; d.attempt.conn != nil {
		d.attempt.conn.end(errClosed)
	}
	d.attempt = nil
}

// unreachable is an OVSDB server that does not answer.
type unreachable struct {
	address string
	err     error
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("OVSDB at %s is unreachable: %v: is ovsdb-server running, and is \"ovsdb\" its address?", e.address, e.err)
}
func (e *unreachable) Unwrap() error { return e.err }

// Temporary marks an error that may be gone when the runtime tries again.
func (e *unreachable) Temporary() bool { return true }

// transact runs the operations as one transaction: all or none. Every
// operation's error is looked at; results has one element for each.
func (d *databases) transact(ctx context.Context, address string, ops ...ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	return d.transactWithin(ctx, transactTimeout, address, ops...)
}

func (d *databases) transactWithin(ctx context.Context, limit time.Duration, address string, ops ...ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	results, err := d.at(address).transact(bounded, ops)
	var away *unreachable
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, fmt.Errorf("OVSDB at %s: %w", address, ctx.Err())
	case errors.As(err, &away):
		return nil, err
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &unreachable{address, fmt.Errorf("no answer within %s", limit)}
	default:
		return nil, err
	}
	if e := firstError(ops, results); e != nil {
		return results, e
	}
	if len(results) < len(ops) {
		return results, fmt.Errorf("OVSDB at %s answered %d of %d operations", address, len(results), len(ops))
	}
	return results, nil
}

func (d *database) transact(ctx context.Context, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	for again := false; ; again = true {
		c, err := d.connect(ctx)
		if err != nil {
			return nil, err
		}
		results, err := c.transact(ctx, ops)
		switch {
		case err == nil:
			return results, nil
		case errors.Is(err, context.Canceled):
			return nil, err // the connection is as good as before
		case errors.Is(err, context.DeadlineExceeded):
			d.forget(c)
			return nil, err
		case errors.Is(err, errUnsent) && !again:
			continue // it went unnoticed
		}
		return nil, &unreachable{d.address, err}
	}
}

// dial connects and sees that the vswitch's database is there: somebody who
// accepts and says nothing, or something else, is no OVSDB.
func dial(ctx context.Context, address string) (*conn, error) {
	if err := checkAddress(address); err != nil {
		return nil, err
	}
	network, place, _ := strings.Cut(address, ":")
	stream, err := (&net.Dialer{}).DialContext(ctx, network, place)
	if err != nil {
		return nil, err
	}
	c := newConn(stream)
	var names []string
	raw, err := c.call(ctx, "list_dbs")
	if err == nil {
		err = json.Unmarshal(raw, &names)
	}
	if err == nil && !slices.Contains(names, vswitchDB) {
		err = fmt.Errorf("it has no database %s", vswitchDB)
	}
	if err != nil {
		c.end(errClosed)
		return nil, err
	}
	return c, nil
}

// transact asks for a transaction and reads the results, errors of operations
// among them.
func (c *conn) transact(ctx context.Context, ops []ovsdb.Operation) ([]ovsdb.OperationResult, error) {
	raw, err := c.call(ctx, "transact", ovsdb.NewTransactArgs(vswitchDB, ops...)...)
	if err != nil {
		return nil, err
	}
	results, err := decodeResults(raw)
	if err != nil {
		c.end(err)
	}
	return results, err
}

// operationError is what OVSDB answered to an operation (RFC 7047, 4.1.3).
type operationError struct {
	op     ovsdb.Operation
	at     int    // its place in the transaction
	answer string // "constraint violation", "timed out", ...
	detail string
}

func (e *operationError) Error() string {
	text := "OVSDB refused"
	if e.op.Op != "" {
		text += " " + e.op.Op + " " + e.op.Table
	}
	text += ": " + e.answer
	if e.detail != "" {
		text += ": " + e.detail
	}
	return text
}

// firstError is the error of the first operation that has one. One behind the
// last operation is about all of them (RFC 7047, 4.1.3).
func firstError(ops []ovsdb.Operation, results []ovsdb.OperationResult) *operationError {
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

// refusedWith returns the operation that failed with an answer, nil when the
// error is something else.
func refusedWith(err error, answer string) *operationError {
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
