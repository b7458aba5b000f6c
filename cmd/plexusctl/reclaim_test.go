package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// A node that plexus was taken off has no agent, no configuration and no kubeconfig: what its
// journal has is undone by the record alone, and what executables do not undo is given up.
func TestTheJournalAlone(t *testing.T) {
	dir := t.TempDir()
	conf := &conf.Network{Name: "default/lost", IfName: "net1", List: list(`{"type": "gone"}`)}
	for _, sandbox := range []string{sandboxA, sandboxB} {
		if err := journal.Open(dir).Write(t.Context(), &journal.Record{Sandbox: sandbox, Transactions: []*journal.Transaction{{
			Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Started: began, Netns: "/run/netns/is-gone", Path: []string{dir},
			Conf:        json.RawMessage(`{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "kubeconfig": "/none/kubeconfig", "clusterNetwork": "/none/10-a.conflist", "agent": {"socket": "/none"}}`),
			Attachments: []*journal.Entry{{Network: *conf}},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args   string
		status int
		want   []string
	}{
		{"del dead --sandbox a1b2 --data-dir " + dir, 1, []string{"gone: ", "plexusctl reclaim " + sandboxA + " --abandon net1"}},
		{"reclaim a1b2 --abandon net1 --data-dir " + dir, 0, []string{"net1 (network default/lost): abandoned by an operator", "sandbox " + sandboxA + " of pod - is undone"}},
		{"del dead --sandbox a1b2 --data-dir " + dir, 1, []string{"no sandbox \"a1b2\" is recorded", dir}},
		{"del dead --sandbox x --data-dir " + dir + " --conf /x", 1, []string{"none of the others can be"}},
		{"reclaim b1 --abandon default/lost --data-dir " + dir, 0, []string{"is undone"}},
		{"show --data-dir " + dir, 0, nil},
	} {
		out, errs, status := execute(t, "plexusctl", strings.Fields(test.args)...)
		if status != test.status {
			t.Errorf("%s: exit %d, want %d: %s", test.args, status, test.status, errs)
		}
		for _, want := range test.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s: %q is not in %s", test.args, want, out+errs)
			}
		}
	}
	if left, err := journal.Open(dir).Sandboxes(); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
