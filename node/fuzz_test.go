package node

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plexus-cni/plexus/conf"
)

// FuzzAdopt feeds hostile files: nothing panics; what is decided is a
// configuration that plexus takes, under a name that sorts first, of a network
// that plexus takes; and once it is written nothing is left to do.
func FuzzAdopt(f *testing.F) {
	own := `{"cniVersion": "1.0.0", "name": "n", "plexus-cni/installed": {"adopted": "10-a.conflist"}, "plugins": [{"type": "plexus", "clusterNetwork": "/d/10-a.conflist"}]}`
	for _, text := range []string{calico, flannel, bridge, multus, shim, migrated, canary, own, `{"plugins": [{}]}`, `{"name": "a", "plugins": [null]}`, "[]", "null", ""} {
		f.Add("10-a.conflist", text, "20-b.conf", flannel)
		f.Add("00-plexus.conflist", own, "10-a.conflist", text)
		f.Add("!a.json", text, "00-plexus.conf", multus)
	}
	n := &Node{Paths: pathsIn("/node"), Settings: &Settings{keys: map[string]json.RawMessage{"logLevel": json.RawMessage(`"debug"`)}}}
	more := func(*conf.List) ([]json.RawMessage, error) { return nil, nil }
	f.Fuzz(func(t *testing.T, name1, text1, name2, text2 string) {
		if name1 == name2 || name1 == "" || name2 == "" { // no folder has such files
			return
		}
		files := sorted([]configFile{{name: name1, data: []byte(text1)}, {name: name2, data: []byte(text2)}})
		d, err := n.decide(files, more)
		if err != nil && d.name != "" {
			t.Fatalf("%s is written in spite of: %v", d.name, err)
		}
		after := apply(files, d)
		if d.name != "" {
			if !slices.Contains(ownNames(), d.name) || after[0].name != d.name {
				t.Errorf("%q is not first of %d", d.name, len(after))
			}
			if _, err := ownConf(d.data); err != nil {
				t.Errorf("plexus refuses its configuration: %v\n%s", err, d.data)
			}
			if !d.conf.HasClusterNetwork() {
				t.Errorf("no cluster network:\n%s", d.data)
			}
		}
		again, errAgain := n.decide(after, more)
		if (err == nil) != (errAgain == nil) || again.name != d.name || again.adopted != d.adopted || len(again.remove) != 0 {
			t.Fatalf("again: %q adopts %q, %v, %v; before: %q adopts %q, %v", again.name, again.adopted, again.remove, errAgain, d.name, d.adopted, err)
		}
		if diff := cmp.Diff(string(d.data), string(again.data)); d.name != "" && diff != "" {
			t.Errorf("again:%s", diff)
		}
	})
}

func sorted(files []configFile) []configFile {
	slices.SortFunc(files, func(a, b configFile) int { return strings.Compare(a.name, b.name) })
	return files
}

// apply is the folder after a decision.
func apply(files []configFile, d *decision) []configFile {
	after := slices.DeleteFunc(slices.Clone(files), func(f configFile) bool {
		return f.name == d.name || slices.ContainsFunc(d.remove, func(r verdict) bool { return r.name == f.name })
	})
	if d.name != "" {
		after = append(after, configFile{name: d.name, data: d.data})
	}
	return sorted(after)
}
