package conf

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// Every key of the plexus configuration stands in docs/configuration.md.
func TestEveryKeyIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	section := strings.SplitN(string(text), "\n## ", 3)[1]
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (`.*?) \\|").FindAllStringSubmatch(section, -1) {
		for _, key := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[key[1]] = true
		}
	}
	for _, f := range fieldsOf(reflect.TypeFor[Conf]()) {
		switch f.name {
		case "cniVersion", "name", "type": // CNI's own
			continue
		case "agent":
			f.name = "agent.socket"
		}
		if !documented[f.name] {
			t.Errorf("key %q is not in docs/configuration.md", f.name)
		}
		delete(documented, f.name)
	}
	for key := range documented {
		t.Errorf("docs/configuration.md has a key %q that is none", key)
	}
}
