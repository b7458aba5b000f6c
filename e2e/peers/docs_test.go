package peers

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const document = "../../docs/differences.md"

// TestDifferencesNameTheirTests wants each paragraph of docs/differences.md to name what holds
// it: a case of this folder, or a test as FOLDER.NAME.
func TestDifferencesNameTheirTests(t *testing.T) {
	cases := map[string]bool{}
	for _, list := range readCases(t) {
		for _, c := range list {
			cases[c.Name] = true
		}
	}
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`([^`]+)`")
	for _, row := range rowsOf(string(text)) {
		named := false
		for _, m := range name.FindAllStringSubmatch(row.holds, -1) {
			named = true
			if folder, function, isTest := strings.Cut(m[1], ".Test"); isTest && !hasTest(t, folder, "Test"+function) || !isTest && !cases[m[1]] {
				t.Errorf("%s: there is no test and no case %q", row.about, m[1])
			}
		}
		if !named {
			t.Errorf("%s: it names no test that holds it", row.about)
		}
	}
}

// row is a paragraph with a heading of its own, or an item of a list below one.
type row struct {
	about string
	holds string // the text that names tests
}

func rowsOf(text string) (all []row) {
	for _, chapter := range strings.Split(text, "\n## ")[1:] {
		for _, part := range strings.Split(chapter, "\n### ")[1:] {
			heading, _, _ := strings.Cut(part, "\n")
			_, holds, _ := strings.Cut(part, "\nHeld by: ")
			all = append(all, row{heading, holds})
		}
		for _, item := range strings.Split(chapter, "\n- ")[1:] {
			what, holds := item, ""
			if at := strings.LastIndex(item, " (`"); at >= 0 {
				what, holds = item[:at], item[at:]
			} else if at := strings.LastIndex(item, "\n  (`"); at >= 0 {
				what, holds = item[:at], item[at:]
			}
			all = append(all, row{what, holds})
		}
	}
	return all
}

// hasTest reports whether a folder of the repository has a test.
func hasTest(t *testing.T, folder, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(source), "\nfunc "+function+"(") {
			return true
		}
	}
	return false
}
