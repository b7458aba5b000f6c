package site

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// Links is the network state inside a pod.
func Links(t testing.TB, p *node.Pod) string {
	t.Helper()
	text, err := p.Snapshot(t.Context())
	must.Do(t, err)
	return text
}

// Without leaves the lines of a world out that have a text in them.
func Without(world, text string) string {
	var kept strings.Builder
	for line := range strings.Lines(world) {
		if !strings.Contains(line, text) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// BecomesWorld waits for what the kernel does late: the links of a namespace
// that has gone.
func (s *Site) BecomesWorld(v *ovs.Switch, before string) {
	s.T.Helper()
	ctx := must.Deadline(s.T)
	after := s.World(v)
	for strings.Count(after, "kind=veth") > strings.Count(before, "kind=veth") && ctx.Err() == nil {
		after = s.World(v)
	}
	SameWorld(s.T, before, after)
}

// awaitVswitchd waits until ovs-vswitchd has acted on what OVSDB has: DEL waits for the
// link of a bridge that goes for a moment alone. A daemon that is stopped is not waited for
// longer than ten seconds.
func (s *Site) awaitVswitchd(v *ovs.Switch) {
	everywhere := []any{}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		found, err := v.Transact(s.T.Context(), map[string]any{"op": "select", "table": "Open_vSwitch", "where": everywhere, "columns": []string{"next_cfg", "cur_cfg"}})
		if err != nil || len(found[0].Rows) == 0 {
			return // it is down: Dump says so
		}
		row := found[0].Rows[0]
		if fmt.Sprint(row["next_cfg"]) == fmt.Sprint(row["cur_cfg"]) {
			return
		}
		_, _ = v.Transact(s.T.Context(), map[string]any{ // the database waits, for 100 ms
			"op": "wait", "timeout": 100, "table": "Open_vSwitch", "where": everywhere, "columns": []string{"cur_cfg"},
			"until": "==", "rows": []any{map[string]any{"cur_cfg": row["next_cfg"]}},
		})
	}
}

// World is all that plexus may change on the node, as text: links, addresses,
// routes, OVSDB rows, addresses in use and files.
func (s *Site) World(v *ovs.Switch) string {
	s.T.Helper()
	if v != nil {
		s.awaitVswitchd(v)
	}
	links, err := node.Snapshot(s.T.Context())
	if err != nil {
		s.T.Fatal(err)
	}
	rows := ""
	if v != nil {
		if rows, err = v.Dump(s.T.Context()); err != nil {
			s.T.Fatal(err)
		}
	}
	var dirs []string
	for _, dir := range []string{s.Dir, "/run/plexus", DeviceInfoDir, "/var/lib/cni", "/var/lib/plexus", "/var/lib/kubelet"} {
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		}
	}
	files, err := node.Tree(dirs...)
	if err != nil {
		s.T.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(files) {
		// host-local's memory of where to go on, the journal's of what is undone, and the table of locks,
		// which stays with its folder.
		locks := strings.Contains(line, " /run/plexus/locks") || strings.HasSuffix(strings.TrimSpace(line), " /run/plexus")
		if !strings.Contains(line, "last_reserved_ip") && !strings.Contains(line, "/undone") && !locks {
			kept = append(kept, line)
		}
	}
	return links + "\n" + rows + "\n" + strings.Join(kept, "")
}

// SameWorld wants two worlds to be equal, and says which lines differ.
func SameWorld(t testing.TB, before, after string) {
	t.Helper()
	if before == after {
		return
	}
	old := map[string]int{}
	for line := range strings.Lines(before) {
		old[line]++
	}
	for line := range strings.Lines(after) {
		if old[line]--; old[line] < 0 {
			t.Errorf("left behind: %s", strings.TrimSpace(line))
		}
	}
	for line, n := range old {
		if n > 0 {
			t.Errorf("missing:     %s", strings.TrimSpace(line))
		}
	}
}
