package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Whatever plexus is linked as, the usage names it.
func TestUsageNamesEveryLink(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`(?m)^LINKS *:= *(.+)$`).FindSubmatch(makefile)
	if links == nil {
		t.Fatal("the Makefile has no LINKS")
	}
	_, names, _ := strings.Cut(usage, "NAME is the plugin to be: ")
	names, _, _ = strings.Cut(names, "\n")
	for _, link := range strings.Fields(string(links[1])) {
		if !regexp.MustCompile(`\b` + link + `\b`).MatchString(names) {
			t.Errorf("the usage names %q, and not %s", names, link)
		}
	}
}
