package conf_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
)

// requirement is one sentence of the NPWG multi-network specification 1.3 that
// says must, shall or should, in our words. At least one of check, test and
// differs is set.
type requirement struct {
	at, says string
	check    func(t *testing.T) // proves it here
	test     string             // FOLDER.TestName proves it
	differs  string             // the heading of docs/differences.md that says why it is otherwise
}

// sentences counts those of each paragraph, by its number. Other paragraphs of
// sections 3 to 8 have none.
var sentences = map[string]int{
	"3.2": 3, "3.3": 2, "3.4.1": 2, "3.4.2": 1, "3.4.3": 1,
	"4": 1, "4.1": 3, "4.1.2.1": 1, "4.1.2.1.3": 2, "4.1.2.1.3.2": 2, "4.1.2.1.4": 2, "4.1.2.1.4.2": 2, "4.1.2.1.5": 3, "4.1.2.1.6": 1, "4.1.2.1.6.2": 1,
	"4.1.2.1.7": 6, "4.1.2.1.7.2": 2, "4.1.2.1.8": 9, "4.1.2.1.8.2": 2, "4.1.2.1.9": 3, "4.1.2.1.10": 2, "4.1.2.1.10.2": 2, "4.1.2.1.11.1": 1,
	"4.2": 1, "4.2.1": 2, "4.2.2": 1,
	"5": 2, "5.1": 1, "5.1.1": 4, "5.2": 2, "5.3": 1, "5.3.1": 2, "5.3.2": 1, "5.3.2.1": 1, "5.3.3": 1, "5.3.3.1": 5, "5.3.4": 2, "5.3.4.1": 1, "5.3.5": 1,
	"5.3.6": 1, "5.3.6.1": 1, "5.3.6.2": 1, "5.3.6.3": 1, "5.3.6.4": 1, "5.3.7": 2,
	"6": 1, "6.1": 1, "6.1.1": 1, "6.1.2": 1, "6.2": 1,
	"7.1": 1, "7.2": 4, "7.3": 1, "7.4": 1, "7.5": 1,
	"8.3.2": 2,
}

// Every must and should of the specification holds, or docs/differences.md says
// why it does not.
func TestSpecification(t *testing.T) {
	headings := headingsOf(t, "../docs/differences.md")
	count := map[string]int{}
	for _, r := range slices.Concat(selectionRows, statusRows) {
		count[r.at]++
		t.Run(r.at+" "+r.says, func(t *testing.T) {
			if r.check == nil && r.test == "" && r.differs == "" {
				t.Error("nothing proves it")
			}
			if r.differs != "" && !headings[r.differs] {
				t.Errorf("docs/differences.md has no heading %q", r.differs)
			}
			if r.test != "" {
				checkTestExists(t, r.test)
			}
			if r.check != nil {
				r.check(t)
			}
		})
	}
	for at, n := range sentences {
		if count[at] != n {
			t.Errorf("%s: %d rows for %d sentences", at, count[at], n)
		}
		delete(count, at)
	}
	for at := range count {
		t.Errorf("%s is no paragraph with a must or should", at)
	}
}

func headingsOf(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		headings[m[1]] = true
	}
	return headings
}

// checkTestExists wants a test function FOLDER.TestName in the source.
func checkTestExists(t *testing.T, name string) {
	t.Helper()
	folder, function, _ := strings.Cut(name, ".")
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no test files, %v", folder, err)
	}
	for _, file := range files {
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range source.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == function {
				return
			}
		}
	}
	t.Errorf("%s has no test %s", folder, function)
}

// asked is a pod's request for the network shop/a, whose config is given, and
// for shop/b, which takes everything.
func asked(networks, config string) request {
	return request{conf: settings(""), pod: podWith(networks), networks: map[string]string{"shop/a": config, "shop/b": anyNAD, "lab/a": anyNAD}}
}

// plans checks what is attached.
func plans(networks, want string) func(t *testing.T) {
	return func(t *testing.T) { checkEqual(t, attachments(asked(networks, anyNAD).mustPlan(t)), want) }
}

// refuses wants an error about each of these keys of a network, from a request
// that is good without them.
func refuses(keys ...string) func(t *testing.T) {
	return func(t *testing.T) {
		for _, key := range keys {
			_, _, err := asked(`[{"name": "a", `+key+`}]`, anyNAD).plan()
			name, _, _ := strings.Cut(strings.TrimPrefix(key, `"`), `"`)
			checkError(t, err, name)
		}
	}
}

// accepts wants none.
func accepts(keys ...string) func(t *testing.T) {
	return func(t *testing.T) {
		for _, key := range keys {
			_, warnings, err := asked(`[{"name": "a", `+key+`}]`, anyNAD).plan()
			checkError(t, err)
			checkEqual(t, warnings, []string(nil))
		}
	}
}

// passes wants a key of a network to become a capability argument.
func passes(key, capability, argument string) func(t *testing.T) {
	return func(t *testing.T) {
		n := asked(withKey(key), `{"plugins": [{"type": "x"}, {"type": "y", "capabilities": {"`+capability+`": true}}]}`).mustPlan(t).Networks[2]
		checkJSON(t, asJSON(t, n.CapabilityArgs[capability]), argument)
	}
}

func withKey(key string) string { return `[{"name": "b"}, {"name": "a", ` + key + `}]` }

// needs is passes, and wants the whole request to fail where no plugin has the capability set
// to true.
func needs(key, capability, argument string) func(t *testing.T) {
	return func(t *testing.T) {
		passes(key, capability, argument)(t)
		for _, config := range []string{`{"type": "x"}`, `{"type": "x", "capabilities": {"` + capability + `": false}}`} {
			p, _, err := asked(withKey(key), config).plan()
			checkError(t, err, "shop/a", capability)
			if p != nil {
				t.Error("there is a plan beside the error")
			}
		}
	}
}

// all runs several checks.
func all(checks ...func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) {
		for _, check := range checks {
			check(t)
		}
	}
}

// nameOf is the name that a NAD's plugins see.
func nameOf(want, config string) func(t *testing.T) {
	return func(t *testing.T) {
		l, err := nad(config).ParseList("")
		checkError(t, err)
		checkEqual(t, l.Name, want)
	}
}

// statusHas wants a network-status to be written as this JSON.
func statusHas(s conf.NetworkStatus, want string) func(t *testing.T) {
	return func(t *testing.T) { checkJSON(t, asJSON(t, s), want) }
}
