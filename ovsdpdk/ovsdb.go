package ovsdpdk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/ovn-kubernetes/libovsdb/client"
	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

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

// database is the connection to one server. Requests share it; whoever finds it
// gone makes it anew, and keeps only requests to the same server waiting.
type database struct {
	address string
	busy    chan struct{} // holds one value while somebody looks at client
	client  client.Client
}

func (d *database) lock(ctx context.Context) error {
	select {
	case d.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *database) unlock() { <-d.busy }

// root has the one column that libovsdb needs to accept a model. Rows are read
// and written by plain operations; nothing is monitored.
type root struct {
	UUID string `ovsdb:"_uuid"`
}

func (d *databases) at(address string) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[address] == nil {
		if d.known == nil {
			d.known = map[string]*database{}
		}
		d.known[address] = &database{address: address, busy: make(chan struct{}, 1)}
	}
	return d.known[address]
}

func (d *database) connect(ctx context.Context) (client.Client, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.unlock()
	if d.client != nil && d.client.Connected() {
		return d.client, nil
	}
	dbModel, err := model.NewClientDBModel("Open_vSwitch", map[string]model.Model{"Open_vSwitch": &root{}})
	if err != nil {
		return nil, err
	}
	quiet := logr.Discard()
	c, err := client.NewOVSDBClient(dbModel, client.WithEndpoint(d.address), client.WithLogger(&quiet))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		go c.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no connection within %s", connectTimeout)
		}
		return nil, &unreachable{d.address, err}
	}
	d.client = c
	return c, nil
}

// forget makes the next request connect anew. Requests under way on the
// connection end by themselves; Close waits for them, so nobody waits for it.
func (d *database) forget(c client.Client) {
	_ = d.lock(context.Background()) // nobody keeps it for longer than a connect
	defer d.unlock()
	if d.client == c {
		d.client = nil
		go c.Close()
	}
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
	if _, err := ovsdb.CheckOperationResults(results, ops); err != nil {
		return results, explain(address, ops, results, err)
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
		results, err := c.Transact(ctx, ops...)
		switch {
		case err == nil:
			return results, nil
		case errors.Is(err, context.Canceled):
			return nil, err // the connection is as good as before
		case errors.Is(err, client.ErrNotConnected) && !again:
			d.forget(c) // it went unnoticed; nothing was sent
			continue
		}
		d.forget(c)
		if !errors.Is(err, context.DeadlineExceeded) {
			err = &unreachable{d.address, err}
		}
		return nil, err
	}
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

func explain(address string, ops []ovsdb.Operation, results []ovsdb.OperationResult, err error) error {
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
	return fmt.Errorf("OVSDB at %s: %w", address, err)
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

// equal, includes and anyRow are conditions. libovsdb leaves an empty where
// out, which OVSDB refuses.
func equal(column string, value any) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition(column, ovsdb.ConditionEqual, value)}
}

func includes(column string, value any) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition(column, ovsdb.ConditionIncludes, value)}
}

func anyRow() []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionNotEqual, ovsdb.UUID{GoUUID: "00000000-0000-0000-0000-000000000000"})}
}

// must makes a wait that fails the transaction at once unless exactly the
// given rows match.
func must(table string, where []ovsdb.Condition, rows ...ovsdb.Row) ovsdb.Operation {
	now := 0
	var columns []string
	for column := range rows[0] {
		columns = append(columns, column)
	}
	return ovsdb.Operation{Op: ovsdb.OperationWait, Table: table, Where: where, Columns: columns, Until: string(ovsdb.WaitConditionEqual), Rows: rows, Timeout: &now}
}

func selectRows(table string, where []ovsdb.Condition, columns ...string) ovsdb.Operation {
	return ovsdb.Operation{Op: ovsdb.OperationSelect, Table: table, Where: where, Columns: columns}
}

func stringMap(m map[string]string) ovsdb.OvsMap {
	out := ovsdb.OvsMap{GoMap: map[any]any{}}
	for k, v := range m {
		out.GoMap[k] = v
	}
	return out
}

func uuidSet(uuids ...ovsdb.UUID) ovsdb.OvsSet {
	set := ovsdb.OvsSet{GoSet: []any{}}
	for _, u := range uuids {
		set.GoSet = append(set.GoSet, u)
	}
	return set
}

func intSet(ints []int) ovsdb.OvsSet {
	set := ovsdb.OvsSet{GoSet: []any{}}
	for _, i := range ints {
		set.GoSet = append(set.GoSet, i)
	}
	return set
}

// Readers of a row. A set of one comes as its only member (RFC 7047, 5.1).

func text(row ovsdb.Row, column string) string {
	for _, v := range values(row, column) {
		if s, ok := v.(string); ok {
			return s
		}
	}
	return ""
}

func values(row ovsdb.Row, column string) []any {
	switch v := row[column].(type) {
	case nil:
		return nil
	case ovsdb.OvsSet:
		return v.GoSet
	default:
		return []any{v}
	}
}

func uuids(row ovsdb.Row, column string) []ovsdb.UUID {
	var list []ovsdb.UUID
	for _, v := range values(row, column) {
		if u, ok := v.(ovsdb.UUID); ok {
			list = append(list, u)
		}
	}
	return list
}

func ints(row ovsdb.Row, column string) []int {
	list := []int{}
	for _, v := range values(row, column) {
		switch n := v.(type) {
		case float64:
			list = append(list, int(n))
		case int:
			list = append(list, n)
		}
	}
	return list
}

func strMap(row ovsdb.Row, column string) map[string]string {
	out := map[string]string{}
	if m, ok := row[column].(ovsdb.OvsMap); ok {
		for k, v := range m.GoMap {
			ks, okK := k.(string)
			vs, okV := v.(string)
			if okK && okV {
				out[ks] = vs
			}
		}
	}
	return out
}

// joinIDs writes a list of VLANs for people.
func joinIDs(ids []int) string {
	if len(ids) == 0 {
		return "none"
	}
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ids)), ","), "[]")
}
