package ovsdpdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Operations and their values are encoded by libovsdb. Answers are decoded here:
// libovsdb panics on an empty array, and on a set or map whose members it does not expect.

// result is the result of an operation (RFC 7047, 4.1.3). An operation behind one that
// failed has null.
type result struct {
	Count   int    `json:"count"`
	Error   string `json:"error"`
	Details string `json:"details"`
	Rows    rows   `json:"rows"`
}

// rows have values of the types string, bool, int64, float64, UUID, OvsSet and OvsMap, the
// latter two with members of the former ones.
type rows []ovsdb.Row

// UnmarshalJSON reads rows (RFC 7047, 5.1).
func (r *rows) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber() // an integer has 64 bits (RFC 7047, 3.1)
	var all []map[string]any
	if err := decoder.Decode(&all); err != nil {
		return err
	}
	*r = nil
	for _, row := range all {
		for name, raw := range row {
			v, err := decodeValue(raw)
			if err != nil {
				return fmt.Errorf("column %.40q: %w", name, err)
			}
			row[name] = v
		}
		*r = append(*r, row)
	}
	return nil
}

// decodeValue reads an atom, a set or a map.
func decodeValue(raw any) (any, error) {
	switch tag, inner := tagged(raw); tag {
	case "set":
		items, ok := inner.([]any)
		if !ok {
			return nil, notOVSDB(raw)
		}
		atoms, err := decodeAtoms(items)
		return ovsdb.OvsSet{GoSet: atoms}, err
	case "map":
		pairs, ok := inner.([]any)
		if !ok {
			return nil, notOVSDB(raw)
		}
		m := ovsdb.OvsMap{GoMap: map[any]any{}}
		for _, item := range pairs {
			pair, _ := item.([]any)
			if len(pair) != 2 {
				return nil, notOVSDB(raw)
			}
			atoms, err := decodeAtoms(pair)
			if err != nil {
				return nil, err
			}
			m.GoMap[atoms[0]] = atoms[1]
		}
		return m, nil
	}
	return decodeAtom(raw)
}

// tagged reads a pair like ["set", ...]; the tag of anything else is "".
func tagged(raw any) (tag string, inner any) {
	pair, _ := raw.([]any)
	if len(pair) != 2 {
		return "", nil
	}
	tag, _ = pair[0].(string)
	return tag, pair[1]
}

// maxNumber is the length of the longest number: a real one has 17 digits, sign, point and
// exponent.
const maxNumber = 32

func notOVSDB(raw any) error { return fmt.Errorf("%.60s is no value of OVSDB", fmt.Sprint(raw)) }

func decodeAtoms(items []any) ([]any, error) {
	atoms, errs := make([]any, len(items)), make([]error, len(items))
	for i, item := range items {
		atoms[i], errs[i] = decodeAtom(item)
	}
	return atoms, errors.Join(errs...)
}

// decodeAtom reads a string, number, boolean or UUID.
func decodeAtom(raw any) (any, error) {
	switch v := raw.(type) {
	case string, bool:
		return v, nil
	case json.Number:
		if len(v) > maxNumber {
			return nil, notOVSDB(v)
		}
		if strings.ContainsAny(v.String(), ".eE") {
			return v.Float64()
		}
		return v.Int64()
	}
	tag, inner := tagged(raw)
	id, ok := inner.(string)
	if !ok || tag != "uuid" && tag != "named-uuid" {
		return nil, notOVSDB(raw)
	}
	return ovsdb.UUID{GoUUID: id}, nil
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

func ints(row ovsdb.Row, column string) []int {
	list := atoms[int](row, column)
	for _, n := range atoms[int64](row, column) {
		list = append(list, int(n))
	}
	return list
}

func atoms[T any](row ovsdb.Row, column string) (list []T) {
	members := []any{row[column]}
	if set, ok := row[column].(ovsdb.OvsSet); ok {
		members = set.GoSet
	}
	for _, v := range members {
		if atom, ok := v.(T); ok {
			list = append(list, atom)
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

// join writes numbers for people, "" for none.
func join(ids []int) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ids)), ","), "[]")
}
