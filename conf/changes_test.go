package conf_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// changesConf is a configuration with a cluster network and one more of its own.
func changesConf(t testing.TB) *conf.Conf {
	t.Helper()
	c, err := conf.Parse([]byte(`{"cniVersion":"1.1.0","name":"node","type":"plexus","delegates":[{"name":"cluster","type":"bridge"},{"name":"own","type":"bridge"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func asking(networks string) *conf.Pod {
	return &conf.Pod{Namespace: "ns", Name: "pod", UID: "u", Annotations: map[string]string{conf.NetworksAnnotation: networks}}
}

// definitionsOf are networks by the names that are wanted.
func definitionsOf(wanted []conf.Reference) []*conf.Definition {
	var list []*conf.Definition
	for _, w := range wanted {
		list = append(list, &conf.Definition{Origin: "NetworkAttachmentDefinition " + w.Name, Name: w.Namespace + "/" + w.Name, Fallback: w.Name, Config: []byte(`{"type":"macvlan"}`)})
	}
	return list
}

// FuzzChanges feeds two annotations, of which a pod has the first and asks for the
// second, and names of links in it. What is kept and what comes is what ADD of
// the second would plan, under names that nobody else has; asked again there is
// nothing to change.
func FuzzChanges(f *testing.F) {
	for _, pair := range [][3]string{
		{"a", "a,b", ""}, {"a,b", "b,a", ""}, {"a,a,a", "a", "net1"}, {"a", "a,a", ""}, {"a,a", "a,a,a,b", ""}, {"", "a@x", "x"}, {"a@net2,b", "b,a", "net1,net2,net3"}, {`[{"name":"a","mac":"02:00:00:00:00:01"}]`, "a", ""},
		{`[{"name":"a","default-route":["10.0.0.1"]}]`, `[{"name":"b","default-route":["10.0.0.1"]}]`, ""}, {"a", "{", ""}, {"a", "a@eth0", ""}, {"o/a", "a", ""}, {"a", `[{"name":"a","interface":"net1"}]`, ""},
	} {
		f.Add(pair[0], pair[1], pair[2])
	}
	c := changesConf(f)
	f.Fuzz(func(t *testing.T, before, after, links string) {
		if len(before)+len(after) > 2000 {
			return
		}
		wanted, _, err := conf.References(c, asking(before))
		if err != nil {
			return
		}
		first, err := conf.Resolve(c, wanted, definitionsOf(wanted), "eth0", nil)
		if err != nil {
			return
		}
		have := first.Networks
		gone, come, _, err := conf.Changes(c, asking(after), have)
		if err != nil {
			if len(gone)+len(come) > 0 {
				t.Errorf("an error, and %v %v", gone, come)
			}
			return
		}
		if !slices.IsSorted(gone) || len(slices.Compact(slices.Clone(gone))) != len(gone) {
			t.Fatalf("gone: %v", gone)
		}
		kept := slices.Clone(have)
		for _, at := range slices.Backward(gone) {
			if have[at].SelectionHash == "" {
				t.Errorf("%s goes, which the configuration names", have[at].Name)
			}
			kept = slices.Delete(kept, at, at+1)
		}
		var taken []string
		for _, name := range strings.Split(links, ",") {
			if !slices.ContainsFunc(have, func(n conf.Network) bool { return n.IfName == name }) {
				taken = append(taken, name)
			}
		}
		more, err := conf.ResolveMore(c, come, definitionsOf(come), kept, taken, nil)
		if err != nil {
			return
		}
		all := append(slices.Clone(kept), more...)
		names, routed := map[string]bool{}, 0
		for _, n := range all {
			if names[n.IfName] || n.IfName == "" || conf.CheckIfName(n.IfName) != nil {
				t.Errorf("name %q in %v", n.IfName, all)
			}
			names[n.IfName] = true
			if len(n.DefaultRoute) > 0 {
				routed++
			}
		}
		if routed > 1 {
			t.Errorf("%d networks with the default route", routed)
		}
		for _, n := range more {
			if slices.Contains(taken, n.IfName) || n.Default {
				t.Errorf("%s gets %s, taken are %q", n.Name, n.IfName, taken)
			}
		}
		if wanted, _, err := conf.References(c, asking(after)); err == nil {
			if fresh, err := conf.Resolve(c, wanted, definitionsOf(wanted), "eth0", nil); err == nil && fmt.Sprint(marks(fresh.Networks)) != fmt.Sprint(marks(all)) {
				t.Errorf("%q to %q: has %v, ADD would plan %v", before, after, marks(all), marks(fresh.Networks))
			}
		}
		gone, come, _, err = conf.Changes(c, asking(after), all)
		if err != nil || len(gone)+len(come) > 0 {
			t.Errorf("again: %v %v %v", gone, come, err)
		}
	})
}

// marks are the selections of networks, sorted.
func marks(list []conf.Network) []string {
	var all []string
	for _, n := range list {
		all = append(all, n.SelectionHash+" "+n.Name)
	}
	slices.Sort(all)
	return all
}

// What a record of the journal has is compared as what ADD planned is.
func TestChangesOfARecord(t *testing.T) {
	c := changesConf(t)
	pod := asking(`[{"name":"a","mac":"02:00:00:00:00:01","cni-args":{"x":[1]},"ips":["10.0.0.7/24"]}, {"name": "b", "namespace": "o"}]`)
	wanted, _, err := conf.References(c, pod)
	checkError(t, err)
	plan, err := conf.Resolve(c, wanted, []*conf.Definition{
		{Origin: "a", Name: "ns/a", Config: []byte(`{"name":"a","type":"macvlan","capabilities":{"mac":true,"ips":true}}`)}, {Origin: "b", Name: "o/b", Config: []byte(`{"name":"b","type":"macvlan"}`)},
	}, "eth0", nil)
	checkError(t, err)
	data, err := json.Marshal(plan.Networks)
	checkError(t, err)
	var read []conf.Network
	checkError(t, json.Unmarshal(data, &read))
	gone, come, _, err := conf.Changes(c, pod, read)
	checkError(t, err)
	if len(gone)+len(come) > 0 {
		t.Errorf("gone %v, come %v", gone, come)
	}
	gone, come, _, err = conf.Changes(c, asking(""), read)
	checkError(t, err)
	checkEqual(t, gone, []int{2, 3})
	checkEqual(t, len(come), 0)
}
