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
	"cmd/plexus":          {},
	"cmd/plexusbuiltin":   {"call", "engine", "journal", "kube/statusfile", "conf"},
	"cmd/plexusd":         {"agent", "call", "engine", "node", "kube", "journal", "devices"},
	"cmd/plexusctl":       {"agent", "call", "engine", "node", "journal", "delegates", "conf"},
	"call":                {"engine", "delegates", "conf"},
	"agent":               {"call", "engine", "kube", "plugin", "journal", "status", "lock", "devices", "delegates", "conf"},
	"devices":             {"file", "conf"},
	"engine":              {"plugin", "journal", "status", "podnet", "ovsdpdk", "sriov", "vppmemif", "delegates/userspace", "delegates", "conf"},
	"status":              {"plugin", "journal", "podnet", "delegates", "conf"},
	"plugin":              {"journal", "lock", "delegates/userspace", "delegates", "conf"},
	"journal":             {"file", "lock", "delegates", "conf"},
	"node":                {"journal", "file", "lock", "devices", "conf"},
	"kube":                {"kube/checkpoint", "kube/statusfile", "file", "conf"},
	"kube/statusfile":     {},
	"kube/checkpoint":     {},
	"ovsdpdk":             {"endpoint", "file", "shareddir", "delegates", "conf"},
	"vppmemif":            {"endpoint", "shareddir", "lock", "delegates", "conf"},
	"sriov":               {"file", "lock", "podnet", "delegates", "conf"},
	"shareddir":           {"delegates", "conf"},
	"delegates/userspace": {"delegates", "conf"},
	"delegates":           {"conf"},
	"conf":                {},
	"podnet":              {},
	"endpoint":            {},
	"file":                {},
	"lock":                {"file"},
	"rig/netns":           {},
	"rig/toy":             {"delegates", "conf"},
	"rig/must":            {},
	"rig/process":         {},
	"rig/node":            {"rig/process"},
	"rig/ovs":             {"rig/process"},
	"rig/memif":           {"rig/process"},
	"rig/standin":         {"rig/memif", "rig/process"},
	"rig/vpp":             {"rig/process"},
	"rig/site":            {"agent", "call", "rig/fault", "rig/memif", "rig/must", "rig/node", "rig/ovs", "rig/process", "rig/standin", "rig/vpp"},
	"rig/standin/serve":   {"rig/standin"},
	"e2e/demo":            {"kube", "conf", "rig/node", "rig/ovs", "rig/memif", "rig/standin", "rig/vpp"},
	"e2e/bench":           {"engine", "journal", "conf", "rig/node", "rig/ovs", "rig/process", "rig/standin", "rig/vpp"},
	"rig/fault":           {"agent", "call", "delegates"},
	"rig/guest":           {"rig/process"},
	"e2e/sriov":           {},
	"rig/kube":            {"rig/process"},
	"rig/kube/prepare":    {"rig/kube"},
	"rig/kube/pause":      {},
	"e2e/cluster":         {},
	"e2e/bench/empty":     {},
	"e2e/agent":           {},
	"e2e/core":            {},
	"e2e/faults":          {},
	"e2e/hostile":         {},
	"e2e/hung":            {},
	"e2e/journal":         {},
	"e2e/migrate":         {},
	"e2e/ovs":             {},
	"e2e/ovsuser":         {},
	"e2e/plugins":         {},
	"e2e/stopped":         {},
	"e2e/storm":           {},
	"e2e/vpp":             {},
	"e2e/peers":           {},
}

// testsMayImport is what the tests of a package may import beside the package and what
// that may import itself: rigs, and packages whose answers they compare.
var testsMayImport = map[string][]string{
	"cmd/plexusctl": {"kube"},
	"agent":         {"podnet"},
	"plugin":        {"rig/toy"},
	"engine":        {"file", "lock", "rig/netns", "rig/toy"},
	"podnet":        {"rig/netns"},
	"conf":          {"kube"},
	"ovsdpdk":       {"delegates/userspace", "rig/node", "rig/ovs"},
	"vppmemif":      {"delegates/userspace", "rig/memif", "rig/node", "rig/standin", "rig/vpp"},
	"sriov":         {"rig/node"},
	"rig/ovs":       {"rig/node"},
	"rig/standin":   {"rig/node"},
	"e2e/peers":     {"agent", "call", "conf", "rig/node"},
	"e2e/sriov":     {"rig/fault", "rig/node"},
	"e2e/cluster":   {"agent", "rig/kube", "rig/memif", "rig/ovs", "rig/process", "rig/standin", "rig/vpp"},
	"e2e/agent":     {"agent", "conf", "delegates", "engine", "journal", "kube", "rig/must", "rig/node", "rig/ovs", "rig/site"},
	"e2e/core":      {"conf", "rig/must", "rig/node", "rig/ovs", "rig/site", "shareddir"},
	"e2e/faults":    {"rig/must", "rig/node", "rig/site"},
	"e2e/hostile":   {"rig/must", "rig/node", "rig/site", "rig/standin", "shareddir"},
	"e2e/hung":      {"agent", "rig/must", "rig/node", "rig/site"},
	"e2e/journal":   {"rig/must", "rig/ovs", "rig/site", "shareddir"},
	"e2e/migrate":   {"rig/must", "rig/node", "rig/site"},
	"e2e/ovs":       {"conf", "rig/must", "rig/node", "rig/ovs", "rig/site"},
	"e2e/ovsuser":   {"rig/must", "rig/node", "rig/ovs", "rig/site"},
	"e2e/plugins":   {"rig/must", "rig/node", "rig/process", "rig/site"},
	"e2e/stopped":   {"rig/must", "rig/node", "rig/site"},
	"e2e/storm":     {"rig/must", "rig/ovs", "rig/site", "shareddir"},
	"e2e/vpp":       {"rig/memif", "rig/must", "rig/node", "rig/process", "rig/site", "rig/standin", "shareddir"},
}

type listed struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string // of tests in the package
	XTestImports []string // of tests in the package NAME_test
}

// ours are the packages of the project among imports.
func ours(imports []string) (names []string) {
	for _, path := range imports {
		if name, is := strings.CutPrefix(path, module); is {
			names = append(names, name)
		}
	}
	return names
}

func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,TestImports,XTestImports"}, args...)...)
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
		for _, inner := range ours(p.Imports) {
			if !slices.Contains(allowed, inner) {
				t.Errorf("%s imports %s, allowed are %v", name, inner, allowed)
			}
		}
		allowed = slices.Concat(allowed, testsMayImport[name], []string{name})
		for _, inner := range ours(append(p.TestImports, p.XTestImports...)) {
			if !slices.Contains(allowed, inner) {
				t.Errorf("tests of %s import %s, allowed are %v", name, inner, allowed)
			}
		}
	}
}

// Tests of packages run against rigs: none of them needs a suite.
func TestNoTestOfAPackageImportsASuite(t *testing.T) {
	for name, allowed := range testsMayImport {
		for _, inner := range allowed {
			if !strings.HasPrefix(name, "e2e") && strings.HasPrefix(inner, "e2e") {
				t.Errorf("tests of %s may import %s, which is no rig", name, inner)
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
