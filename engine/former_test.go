package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/delegates/userspace"
	"github.com/plexus-cni/plexus/journal"
	"github.com/plexus-cni/plexus/plugin"
	"github.com/plexus-cni/plexus/podnet"
)

// standIn stands for a backend. It notes the calls, with the port or function of the state.
type standIn struct {
	passthru
	name string
	*calls
}

type calls struct {
	mu  sync.Mutex
	all []string
}

func (s standIn) note(call string, a *delegates.Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, fmt.Sprint(call, " ", s.name, " ", a.IfName, " ", string(a.State)))
}

func (c *calls) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.all
	c.all = nil
	return all
}

// Parse is delegates.Delegate.
func (s standIn) Parse(string, []byte) (delegates.Network, []string, error) {
	return standInNetwork{of: s}, nil, nil
}

// Detach is delegates.Delegate.
func (s standIn) Detach(_ context.Context, all []*delegates.Attachment) []error {
	for _, a := range all {
		s.note("detach", a)
	}
	return make([]error, len(all))
}

type standInNetwork struct {
	delegates.BaseNetwork
	of standIn
}

// Check is delegates.Network.
func (n standInNetwork) Check(_ context.Context, a *delegates.Attachment) error {
	n.of.note("check", a)
	return nil
}

// The engine goes on with what a former version has recorded: it checks and compares it, changes
// the networks of the pod, and undoes it. Each backend gets the state that it wrote.
func TestARecordOfAFormerVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	noted := &calls{}
	stand := func(name string) delegates.Delegate { return standIn{name: name, calls: noted} }
	n.Delegates = map[string]delegates.Delegate{
		"ovsdpdk": stand("ovsdpdk"), "vppmemif": stand("vppmemif"), "sriov": stand("sriov"),
		plugin.Userspace(userspace.EngineOVS): stand("userspace ovs"), plugin.Userspace(userspace.EngineVPP): stand("userspace vpp"),
	}
	data, err := os.ReadFile("../journal/testdata/e73f0c1.json")
	if err != nil {
		t.Fatal(err)
	}
	rec, why := journal.Decode(sandboxOfPod, data)
	if why != "" {
		t.Fatal(why)
	}
	tx := rec.Transactions[0] // on this node
	tx.Netns, tx.NetnsID, tx.Path = "/proc/self/ns/net", podnet.ID("/proc/self/ns/net"), []string{filepath.Join(n.dir, "bin")}
	if err := n.Journal.Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, entry := range tx.Attachments {
		for typ, state := range entry.State {
			states[strings.Replace(typ, "userspace", "userspace ovs", 1)+" "+entry.IfName] = string(state)
		}
	}
	want := func(verb string, of ...string) {
		t.Helper()
		var all []string
		for _, one := range of {
			all = append(all, verb+" "+one+" "+states[one])
		}
		got := noted.take()
		slices.Sort(got)
		slices.Sort(all)
		compareLines(t, "calls", got, all)
	}
	r := n.request(tx.Networks)
	if err := n.Check(t.Context(), r); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	want("check", "ovsdpdk net1", "vppmemif memif0", "userspace ovs net3", "sriov net4")
	if found, err := n.Reconcile(t.Context(), sandboxOfPod, nil); err != nil || len(found) > 0 {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	want("check", "ovsdpdk net1", "vppmemif memif0", "userspace ovs net3", "sriov net4")

	var selections []json.RawMessage
	if err := json.Unmarshal([]byte(tx.Networks), &selections); err != nil {
		t.Fatal(err)
	}
	fewer, err := json.Marshal(slices.Delete(selections, 3, 4))
	if err != nil {
		t.Fatal(err)
	}
	n.mustUpdate(string(fewer), "detached net4 (default/vf)")
	want("detach", "sriov net4")
	if err := n.Del(t.Context(), r); err != nil {
		t.Errorf("DEL: %v", err)
	}
	want("detach", "ovsdpdk net1", "vppmemif memif0", "userspace ovs net3")
	if got := n.log(); !slices.Equal(got[len(got)-3:], []string{"DEL last net5", "DEL first net5", "DEL cluster eth0"}) {
		t.Errorf("executed %q", got)
	}
	if rec, err := n.Journal.Read(sandboxOfPod); rec != nil || err != nil {
		t.Errorf("recorded: %+v, %v", rec, err)
	}
	if status := n.api.published()[placeOf(n.api.pod)][conf.NetworkStatusAnnotation]; strings.Contains(status, "default/vf") || !strings.Contains(status, "default/us") {
		t.Errorf("network-status: %s", status)
	}
}

// An ADD of a former version that was cut short is undone by the agent.
func TestAnUnfinishedAddOfAFormerVersion(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	noted := &calls{}
	for _, typ := range []string{"ovsdpdk", "vppmemif", "sriov", plugin.Userspace(userspace.EngineOVS)} {
		n.Delegates[typ] = standIn{name: typ, calls: noted}
	}
	data, err := os.ReadFile("../journal/testdata/e73f0c1.json")
	if err != nil {
		t.Fatal(err)
	}
	rec, why := journal.Decode(sandboxOfPod, data[:strings.LastIndex(string(data), `{"plexusJournal"`)])
	if why != "" {
		t.Fatal(why)
	}
	rec.Transactions[0].Path = []string{filepath.Join(n.dir, "bin")}
	if err := n.Journal.Write(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	found, err := n.Reconcile(t.Context(), sandboxOfPod, nil)
	if err != nil || len(found) != 1 || found[0].Kind != KindUnfinished {
		t.Errorf("Reconcile: %+v, %v", found, err)
	}
	if got := noted.take(); len(got) != 4 {
		t.Errorf("calls %q", got)
	}
	n.wantNothingLeft("after Reconcile")
}
