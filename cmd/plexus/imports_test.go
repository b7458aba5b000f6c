package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/version"
)

const module = "github.com/plexus-cni/plexus/"

// mayImport is the house: arrows point down only. What is not listed here may
// import nothing of the project.
var mayImport = map[string][]string{
	"cmd/plexus":        {},
	"cmd/plexusd":       {"agent", "install", "delegates", "kube"},
	"cmd/plexusctl":     {"agent", "delegates", "migrate", "conf"},
	"migrate":           {"delegates", "conf"},
	"agent":             {"delegates", "kube", "lock", "conf"},
	"kube":              {"conf"},
	"delegates":         {"ovsdpdk", "sriov", "vppmemif", "lock", "netns", "conf"},
	"ovsdpdk":           {"endpoint", "shareddir", "conf"},
	"vppmemif":          {"endpoint", "shareddir", "lock", "conf"},
	"endpoint":          {},
	"sriov":             {"lock", "netns", "conf"},
	"install":           {"lock", "conf"},
	"lock":              {},
	"netns":             {},
	"shareddir":         {"conf"},
	"conf":              {},
	"e2e/node":          {},
	"e2e/ovs":           {"e2e/node"},
	"e2e/memif":         {"e2e/node"},
	"e2e/standin":       {"e2e/memif", "e2e/node"},
	"e2e/vpp":           {},
	"e2e/standin/serve": {"e2e/standin"},
	"e2e/demo":          {"e2e/node", "e2e/ovs", "e2e/memif", "e2e/standin", "e2e/vpp"},
	"e2e/bench":         {"delegates", "conf", "e2e/node", "e2e/ovs", "e2e/standin", "e2e/vpp"},
	"e2e/fault":         {"agent", "conf"},
	"e2e/guest":         {},
	"e2e/sriov":         {"e2e/node"},
	"e2e/kube":          {},
	"e2e/kube/prepare":  {"e2e/kube"},
	"e2e/kube/pause":    {},
	"e2e/cluster":       {"e2e/kube", "e2e/memif", "e2e/ovs", "e2e/standin", "e2e/vpp"},
	"e2e/bench/empty":   {},
	"e2e":               {},
}

type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports"}, args...)...)
	cmd.Dir, cmd.Stderr = "../..", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := mayImport[name]
		if !ok {
			t.Errorf("package %s has no place in the house: add it to mayImport", name)
		}
		for _, i := range p.Imports {
			if inner, ours := strings.CutPrefix(i, module); ours && !slices.Contains(allowed, inner) {
				t.Errorf("%s imports %s, allowed are %v", name, inner, allowed)
			}
		}
	}
}

// The executable that the runtime starts links the standard library alone.
func TestPlexusLinksTheStandardLibraryAlone(t *testing.T) {
	for _, p := range goList(t, "-deps", "./cmd/plexus") {
		if !p.Standard && p.ImportPath+"/" != module+"cmd/plexus/" {
			t.Errorf("cmd/plexus links %s", p.ImportPath)
		}
	}
}

// conf opens nothing and watches nothing. Of package time it may have the type of a
// duration alone: no clock.
func TestConfIsPure(t *testing.T) {
	for _, p := range goList(t, "./conf") {
		for _, i := range p.Imports {
			if i == "os" || i == "io/ioutil" || strings.HasPrefix(i, "os/") || i == "log/slog" {
				t.Errorf("conf imports %s", i)
			}
		}
	}
	clock := regexp.MustCompile(`\btime\.(Now|Since|Until|Sleep|After|AfterFunc|Tick|NewTimer|NewTicker)\b`)
	files, err := filepath.Glob("../../conf/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := clock.Find(text); found != nil && !strings.HasSuffix(file, "_test.go") {
			t.Errorf("%s looks at the clock: %s", file, found)
		}
	}
}

// What plexus answers to VERSION is what plexusd speaks.
func TestVersionsAgree(t *testing.T) {
	if want := version.All.SupportedVersions(); !slices.Equal(supported, want) {
		t.Errorf("plexus answers %v, plexusd speaks %v", supported, want)
	}
}
