package ovsdpdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Operations and their values are encoded by libovsdb. Answers are decoded here:
// libovsdb panics on an empty array, and on a set or map whose members it does not expect.

// decodeResults reads the result of a transact (RFC 7047, 4.1.3). An operation behind one
// that failed has null.
func decodeResults(raw json.RawMessage) ([]ovsdb.OperationResult, error) {
	var wire []struct {
		Count   int    `json:"count"`
		Error   string `json:"error"`
		Details string `json:"details"`
		Rows    []row  `json:"rows"`
	}
	if err := json.Unmarshal(raw, &wire); err != nil {
		return nil, fmt.Errorf("read the result of a transaction: %w", err)
	}
	results := make([]ovsdb.OperationResult, len(wire))
	for i, w := range wire {
		results[i] = ovsdb.OperationResult{Count: w.Count, Error: w.Error, Details: w.Details}
		for _, r := range w.Rows {
			results[i].Rows = append(results[i].Rows, ovsdb.Row(r))
		}
	}
	return results, nil
}

// row is an ovsdb.Row whose values are string, bool, int64, float64, UUID,
// OvsSet or OvsMap, the latter two of the former ones.
type row ovsdb.Row

// UnmarshalJSON reads a row (RFC 7047, 5.1).
func (r *row) UnmarshalJSON(data []byte) error {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal(data, &columns); err != nil {
		return err
	}
	*r = row{}
	for name, raw := range columns {
		v, err := decodeValue(raw)
		if err != nil {
			return fmt.Errorf("column %.40q: %w", name, err)
		}
		(*r)[name] = v
	}
	return nil
}

// decodeValue reads an atom, a set or a map.
func decodeValue(raw json.RawMessage) (any, error) {
	if raw[0] != '[' {
		return decodeAtom(raw)
	}
	tag, inner, err := tagged(raw)
	if err != nil {
		return nil, err
	}
	switch tag {
	case "set":
		return decodeSet(inner)
	case "map":
		return decodeMap(inner)
	}
	return decodeAtom(raw)
}

// tagged reads a pair like ["set", ...].
func tagged(raw json.RawMessage) (tag string, inner json.RawMessage, err error) {
	var pair []json.RawMessage
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &tag) != nil {
		return "", nil, notOVSDB(raw)
	}
	return tag, pair[1], nil
}

func notOVSDB(raw json.RawMessage) error { return fmt.Errorf("%.60s is no value of OVSDB", raw) }

func decodeSet(raw json.RawMessage) (ovsdb.OvsSet, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return ovsdb.OvsSet{}, notOVSDB(raw)
	}
	set := ovsdb.OvsSet{GoSet: make([]any, len(items))}
	var errs []error
	for i, item := range items {
		v, err := decodeAtom(item)
		set.GoSet[i] = v
		errs = append(errs, err)
	}
	return set, errors.Join(errs...)
}

func decodeMap(raw json.RawMessage) (ovsdb.OvsMap, error) {
	var pairs [][]json.RawMessage
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return ovsdb.OvsMap{}, notOVSDB(raw)
	}
	m := ovsdb.OvsMap{GoMap: map[any]any{}}
	for _, pair := range pairs {
		if len(pair) != 2 {
			return m, notOVSDB(raw)
		}
		key, err := decodeAtom(pair[0])
		if err != nil {
			return m, err
		}
		if m.GoMap[key], err = decodeAtom(pair[1]); err != nil {
			return m, err
		}
	}
	return m, nil
}

// decodeAtom reads a string, number, boolean or UUID. An integer has 64 bits
// (RFC 7047, 3.1).
func decodeAtom(raw json.RawMessage) (any, error) {
	switch raw[0] {
	case '"':
		var s string
		err := json.Unmarshal(raw, &s)
		return s, err
	case 't', 'f':
		return raw[0] == 't', nil
	case '[':
		tag, inner, err := tagged(raw)
		var id string
		if err != nil || tag != "uuid" && tag != "named-uuid" || json.Unmarshal(inner, &id) != nil {
			return nil, notOVSDB(raw)
		}
		return ovsdb.UUID{GoUUID: id}, nil
	case '{', 'n':
		return nil, notOVSDB(raw)
	}
	if strings.ContainsAny(string(raw), ".eE") {
		return strconv.ParseFloat(string(raw), 64)
	}
	return strconv.ParseInt(string(raw), 10, 64)
}

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

// mutate changes a column of the rows that match.
func mutate(table string, where []ovsdb.Condition, column string, mutator ovsdb.Mutator, value any) ovsdb.Operation {
	return ovsdb.Operation{Op: ovsdb.OperationMutate, Table: table, Where: where, Mutations: []ovsdb.Mutation{*ovsdb.NewMutation(column, mutator, value)}}
}

// wait waits until exactly the given row matches, or any other. It fails the transaction
// when limit has passed, at once with 0.
func wait(table string, where []ovsdb.Condition, limit time.Duration, until ovsdb.WaitCondition, row ovsdb.Row) ovsdb.Operation {
	ms, columns := int(limit/time.Millisecond), slices.Collect(maps.Keys(row))
	return ovsdb.Operation{Op: ovsdb.OperationWait, Table: table, Where: where, Columns: columns, Until: string(until), Rows: []ovsdb.Row{row}, Timeout: &ms}
}

// must fails the transaction unless exactly the given row matches.
func must(table string, where []ovsdb.Condition, row ovsdb.Row) ovsdb.Operation {
	return wait(table, where, 0, ovsdb.WaitConditionEqual, row)
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

// pair is a map of one.
func pair(key, value string) ovsdb.OvsMap { return stringMap(map[string]string{key: value}) }

func set[T any](members []T) ovsdb.OvsSet {
	s := ovsdb.OvsSet{GoSet: []any{}}
	for _, m := range members {
		s.GoSet = append(s.GoSet, m)
	}
	return s
}

// Readers of a row. A set of one comes as its only member (RFC 7047, 5.1).

func text(row ovsdb.Row, column string) string {
	for _, s := range atoms[string](row, column) {
		return s
	}
	return ""
}

func uuids(row ovsdb.Row, column string) []ovsdb.UUID { return atoms[ovsdb.UUID](row, column) }

func atoms[T any](row ovsdb.Row, column string) []T {
	var list []T
	for _, v := range values(row, column) {
		if atom, ok := v.(T); ok {
			list = append(list, atom)
		}
	}
	return list
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

func ints(row ovsdb.Row, column string) []int {
	list := atoms[int](row, column)
	for _, n := range atoms[int64](row, column) {
		list = append(list, int(n))
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

// join writes numbers for people, "" for none.
func join(ids []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ids)), ","), "[]")
}
