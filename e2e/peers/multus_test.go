package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/agent"
	cnicall "github.com/plexus-cni/plexus/call"
)

// listed is a difference that docs/differences.md explains.
type listed struct {
	Section string   `json:"section"` // the heading there
	Kind    string   `json:"kind"`    // see difference
	Why     string   `json:"why"`
	Cases   []string `json:"cases"`
}

// TestMultus has plexus do what Multus was recorded doing. A difference that is not listed
// fails it, and so does a listed one that is none any more.
func TestMultus(t *testing.T) {
	all := readCases(t)
	writeCheckpoint(t, all)
	var mu sync.Mutex
	occurred := map[string][]string{} // cases by kind
	known := readDifferences(t)
	t.Run("cases", func(t *testing.T) {
		for _, cases := range all {
			for _, c := range cases {
				t.Run(c.Name, func(t *testing.T) {
					t.Parallel()
					if c.Multus == nil {
						t.Fatal("Multus was not recorded")
					}
					w := newWorld(t, c, asPlexus)
					for _, d := range compare(c.Multus, w.run(plexus)) {
						mu.Lock()
						occurred[d.kind] = append(occurred[d.kind], c.Name)
						mu.Unlock()
						if !known[d.kind+" "+c.Name] {
							t.Errorf("%s: not in testdata/differences.json: %s", d.kind, d.detail)
						}
					}
				})
			}
		}
	})
	for one := range known {
		kind, name, _ := strings.Cut(one, " ")
		if !slices.Contains(occurred[kind], name) {
			t.Errorf("testdata/differences.json lists %s of case %s: it is the same as Multus now", kind, name)
		}
	}
}

// TestEvents wants Multus' event for each interface (pkg/multus, DelegateAdd): programs look for
// its reason and read its words.
func TestEvents(t *testing.T) {
	w := newWorld(t, &peerCase{
		Name: "events", NADs: []nad{{Name: "lan", Config: `{"cniVersion": "1.0.0", "type": "macvlan"}`}, {Name: "bare", Config: `{"cniVersion": "1.0.0", "type": "macvlan", "probe": {"empty": true}}`}},
		Pod: &pod{Annotations: map[string]any{"k8s.v1.cni.cncf.io/networks": "lan,bare@data0"}},
	}, asPlexus)
	for _, s := range w.run(plexus).Steps {
		if s.message != "" {
			t.Error(s.Verb, s.message)
		}
	}
	want := []string{"AddedInterface Add eth0 [10.1.0.5/24] from cluster", "AddedInterface Add net1 [10.1.1.5/24] from shop/lan", "AddedInterface Add data0 [] from shop/bare"}
	if !slices.Equal(w.api.said, want) {
		t.Errorf("events %q, want %q", w.api.said, want)
	}
}

// asPlexus has plexus answer as Multus does, and keep its files in the case's folder.
func asPlexus(keys map[string]any) {
	keys["result"] = "default-network"
	keys["dataDir"] = "$DIR/data"
}

// plexus is the program, in this process.
func plexus(env []string, stdin []byte) ([]byte, string) {
	var out, stderr bytes.Buffer
	c := cnicall.Call{As: "plexus", Getenv: cnicall.Environ(env...), Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: &stderr}
	if agent.Answer(context.Background(), c) == 0 {
		return out.Bytes(), ""
	}
	var e struct{ Msg, Details string }
	if err := json.Unmarshal(out.Bytes(), &e); err != nil {
		return nil, fmt.Sprintf("no CNI error: %q, standard error %q", out.String(), stderr.String())
	}
	return nil, e.Msg + " " + e.Details
}

// readDifferences reads the list, and refuses sections that docs/differences.md does not have.
func readDifferences(t *testing.T) map[string]bool {
	t.Helper()
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var list []listed
	readJSON(t, "testdata/differences.json", &list)
	known := map[string]bool{}
	for _, l := range list {
		if !strings.Contains(string(doc), "\n### "+l.Section+"\n") && !strings.Contains(string(doc), "\n## "+l.Section+"\n") {
			t.Errorf("testdata/differences.json: docs/differences.md has no section %q", l.Section)
		}
		if l.Why == "" || len(l.Cases) == 0 || !sort.StringsAreSorted(l.Cases) {
			t.Errorf("testdata/differences.json: section %q, kind %s: it needs a reason, and cases in alphabetical order", l.Section, l.Kind)
		}
		for _, c := range l.Cases {
			known[l.Kind+" "+c] = true
		}
	}
	return known
}
