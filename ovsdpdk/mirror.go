package ovsdpdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Bounds of what a server may have a watch remember. A vswitch has 65,279 ports at most.
const (
	maxEarly   = 1 << 4
	maxWatched = 1 << 16
)

// portForm is the form of portName.
var portForm = regexp.MustCompile(`^vhu[0-9a-f]{12}$`)

// mirror is the part of OVSDB that a watch knows by its monitor.
type mirror struct {
	present   bool // the row of Open_vSwitch
	next, cur int  // next_cfg and cur_cfg
	dpdk      bool
	below     string            // other_config:vhost-sock-dir
	open      map[string]bool   // interfaces of every plexus, by UUID
	servers   map[string]string // names of those in server mode, by UUID
	complete  bool              // the first answer is in
	early     []json.RawMessage // notifications that have come before it
}

// monitored are the tables and columns of the monitor, in the form of monitor_cond
// (ovsdb-server(7)): a row is in it that meets one of the conditions.
func monitored() any {
	type table struct {
		Columns []string          `json:"columns"`
		Where   []ovsdb.Condition `json:"where,omitempty"`
	}
	var ours []ovsdb.Condition
	for _, f := range []string{format, formerFormat} {
		ours = append(ours, includes("external_ids", pair(markFormat, f))...)
	}
	return map[string][]table{
		"Open_vSwitch": {{Columns: []string{"next_cfg", "cur_cfg", "dpdk_initialized", "other_config"}}},
		"Interface":    {{Columns: []string{"name", "type", "ofport"}, Where: ours}},
	}
}

// apply takes the parameters of a notification update2, or the first answer in their form. It
// reports whether an interface that was open is not any more.
func (m *mirror) apply(params json.RawMessage, first bool) (closed bool, err error) {
	switch {
	case first:
		m.complete = true
	case !m.complete && len(m.early) == maxEarly:
		return false, errors.New("it notifies and does not answer")
	case !m.complete:
		m.early = append(m.early, params)
		return false, nil
	}
	var parts []json.RawMessage
	var tables map[string]map[string]struct{ Initial, Insert, Modify, Delete json.RawMessage }
	if json.Unmarshal(params, &parts) != nil || len(parts) != 2 || json.Unmarshal(parts[1], &tables) != nil {
		return false, fmt.Errorf("it notified of %.*s", maxQuote, params)
	}
	for table, updates := range tables {
		for id, u := range updates {
			row := ovsdb.Row{}
			for _, raw := range []json.RawMessage{u.Initial, u.Insert, u.Modify} {
				var one rows
				if raw == nil {
					continue
				}
				if err := json.Unmarshal([]byte("["+string(raw)+"]"), &one); err != nil || len(one) != 1 {
					return closed, fmt.Errorf("it notified of %.*s", maxQuote, raw)
				}
				row = one[0]
			}
			closed = m.set(table, id, row, u.Delete != nil) || closed
			if len(m.open) > maxWatched {
				return closed, fmt.Errorf("it has more than %d interfaces with the marks of plexus", maxWatched)
			}
		}
	}
	early := m.early
	m.early = nil
	for _, params := range early {
		again, err := m.apply(params, false)
		if closed = closed || again; err != nil {
			return closed, err
		}
	}
	return closed, nil
}

// set takes the columns of a row that have changed.
func (m *mirror) set(table, id string, row ovsdb.Row, gone bool) (closed bool) {
	if table == "Open_vSwitch" {
		m.present = !gone
		for _, n := range ints(row, "next_cfg") {
			m.next = n
		}
		for _, n := range ints(row, "cur_cfg") {
			m.cur = n
		}
		if dpdk, ok := row["dpdk_initialized"].(bool); ok {
			m.dpdk = dpdk
		}
		if _, ok := row["other_config"]; ok {
			m.below = sockDir(row)
		}
		return false
	}
	if gone {
		delete(m.open, id)
		delete(m.servers, id)
		return false
	}
	if name, ok := row["name"].(string); ok && row["type"] == typeServer && portForm.MatchString(name) {
		if m.servers == nil {
			m.servers = map[string]string{}
		}
		m.servers[id] = name
	}
	if _, ok := row["ofport"]; !ok {
		return false
	}
	if m.open == nil {
		m.open = map[string]bool{}
	}
	was := m.open[id]
	m.open[id] = isOpen(row)
	return was && !m.open[id]
}
