package ovs

import (
	"context"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
)

// configured lists the columns a user sets, for each table. Columns the daemon
// fills in (statistics, status, numbers it chose) are not part of it.
var configured = []struct {
	table   string
	columns []string
}{
	{"Open_vSwitch", []string{"bridges", "other_config", "external_ids", "manager_options", "ssl"}},
	{"Bridge", []string{"name", "ports", "datapath_type", "fail_mode", "protocols", "controller",
		"mirrors", "mcast_snooping_enable", "stp_enable", "rstp_enable", "flood_vlans",
		"other_config", "external_ids"}},
	{"Port", []string{"name", "interfaces", "tag", "trunks", "cvlans", "vlan_mode", "qos", "mac",
		"protected", "bond_mode", "lacp", "other_config", "external_ids"}},
	{"Interface", []string{"name", "type", "options", "mtu_request", "mac", "ofport_request",
		"ingress_policing_rate", "ingress_policing_burst", "bfd", "lldp",
		"other_config", "external_ids"}},
	{"Mirror", []string{"name", "select_all", "select_src_port", "select_dst_port", "select_vlan",
		"output_port", "output_vlan", "external_ids"}},
	{"Controller", []string{"target", "other_config", "external_ids"}},
	{"QoS", []string{"type", "queues", "other_config", "external_ids"}},
	{"Queue", []string{"dscp", "other_config", "external_ids"}},
}

// Dump is a text of the configuration of the switch: a sorted line for each row
// with the columns that are set, without UUIDs, state and statistics. Two dumps
// of the same configuration are equal.
func (s *Switch) Dump(ctx context.Context) (string, error) {
	var ops []any
	for _, t := range configured {
		ops = append(ops, map[string]any{
			"op": "select", "table": t.table, "where": []any{}, "columns": append([]string{"_uuid"}, t.columns...),
		})
	}
	results, err := s.Transact(ctx, ops...)
	if err != nil {
		return "", fmt.Errorf("dump the database: %w", err)
	}
	names := map[string]string{}
	for i, r := range results {
		for _, row := range r.Rows {
			names[uuid(row["_uuid"])] = rowName(configured[i].table, row)
		}
	}
	var lines []string
	for i, r := range results {
		t := configured[i]
		for _, row := range r.Rows {
			line := t.table
			for _, c := range t.columns {
				v := text(row[c], names)
				if v == "0" && strings.HasPrefix(c, "ingress_policing") {
					continue // no limit
				}
				if v != "" {
					line += " " + c + "=" + v
				}
			}
			lines = append(lines, line)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// Result is what the database answers to one operation of a transaction.
type Result struct {
	Count   int              `json:"count"`
	Rows    []map[string]any `json:"rows"`
	Error   string           `json:"error"`
	Details string           `json:"details"`
}

// Transact runs operations of RFC 7047 on the switch database as one
// transaction.
func (s *Switch) Transact(ctx context.Context, ops ...any) ([]Result, error) {
	request, err := json.Marshal(append([]any{"Open_vSwitch"}, ops...))
	if err != nil {
		return nil, fmt.Errorf("encode transaction: %w", err)
	}
	out, err := s.run(ctx, "ovsdb-client", "transact", s.OVSDB(), string(request))
	if err != nil {
		return nil, err
	}
	var results []Result
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		return nil, fmt.Errorf("decode answer to transaction: %w", err)
	}
	for _, r := range results {
		if r.Error != "" {
			return nil, fmt.Errorf("transaction: %s: %s", r.Error, r.Details)
		}
	}
	return results, nil
}

// rowName stands for a row where another one refers to it.
func rowName(table string, row map[string]any) string {
	if n, ok := row["name"].(string); ok && n != "" {
		return n
	}
	return table
}

func uuid(v any) string {
	if pair, ok := v.([]any); ok && len(pair) == 2 && pair[0] == "uuid" {
		id, _ := pair[1].(string)
		return id
	}
	return ""
}

// text writes a value of the database; nothing for one that is empty.
func text(v any, names map[string]string) string {
	if id := uuid(v); id != "" {
		if n, ok := names[id]; ok {
			return n
		}
		return "?"
	}
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 {
		switch v := v.(type) {
		case nil:
			return ""
		case string:
			if v == "" {
				return ""
			}
		case bool:
			if !v {
				return ""
			}
		}
		return fmt.Sprintf("%v", v)
	}
	var parts []string
	for _, e := range pair[1].([]any) {
		if kv, ok := e.([]any); ok && pair[0] == "map" {
			parts = append(parts, fmt.Sprintf("%s:%s", text(kv[0], names), text(kv[1], names)))
			continue
		}
		parts = append(parts, text(e, names))
	}
	if len(parts) == 0 {
		return ""
	}
	sort.Strings(parts)
	return "{" + strings.Join(parts, ", ") + "}"
}
