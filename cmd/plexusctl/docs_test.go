package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/agent"
)

var fenced = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```")

// documents are the project's own texts.
func documents(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, file := range append(files, "../../README.md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(data)
	}
	return texts
}

func TestConfigurationsInDocumentsAreValid(t *testing.T) {
	checked := 0
	for file, text := range documents(t) {
		for i, block := range fenced.FindAllStringSubmatch(text, -1) {
			name := map[string]string{"json": "block.conf", "yaml": "block.yaml"}[block[1]]
			if name == "" {
				continue
			}
			n, findings := agent.Validate(name, []byte(block[2]))
			checked += n
			for _, f := range findings {
				t.Errorf("%s: block %d: %s", file, i+1, f.Problem)
			}
		}
	}
	if checked < 3 {
		t.Errorf("%d configurations found in the documents, want the README's three at least", checked)
	}
}

func TestExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../examples/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		out, err := plexusctl(t, "validate", file)
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

func plexusctl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := command()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.ExecuteContext(context.Background())
	return out.String(), err
}

// Every command of the README is one that exists; what needs no root is run.
func TestCommandsOfTheReadme(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	var commands []string
	for _, block := range fenced.FindAllStringSubmatch(documentsOfReadme(t), -1) {
		if block[1] == "sh" {
			commands = append(commands, strings.Split(strings.TrimSpace(block[2]), "\n")...)
		}
	}
	if len(commands) < 5 {
		t.Fatalf("commands of the README: %q", commands)
	}
	for _, line := range commands {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case words[0] == "make":
			for _, target := range words[1:] {
				if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
					t.Errorf("%q: the Makefile has no target %s", line, target)
				}
			}
		case words[0] == "bin/plexusctl" && slices.Contains([]string{"validate", "show"}, words[1]):
			var args []string
			for _, w := range words[1:] {
				if found, err := filepath.Glob(w); err == nil && len(found) > 0 {
					args = append(args, found...)
				} else {
					args = append(args, w)
				}
			}
			if out, err := plexusctl(t, args...); err != nil {
				t.Errorf("%q: %v\n%s", line, err, out)
			}
		case words[0] == "bin/plexusctl": // run by make demo, which make test runs
			c, args, err := command().Find(words[1:])
			if err == nil {
				err = c.ParseFlags(args)
			}
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
		default:
			t.Errorf("%q: no test knows this command", line)
		}
	}
}

func documentsOfReadme(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Every problem names file, document and key.
func TestValidateTellsWhere(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	nad := func(config string) string {
		return fmt.Sprintf("apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {name: net}\nspec: {config: %q}\n", config)
	}
	pod := func(networks string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations: {k8s.v1.cni.cncf.io/networks: %q}\n", networks)
	}
	good := nad(`{"type": "ovsdpdk", "bridge": "b"}`)
	for _, test := range []struct {
		name, file, text string
		want             []string
	}{
		{"a misspelt key of a built-in", "a.yaml", good + "---\n" + nad(`{"type": "ovsdpdk", "bridge": "b", "vlna": 7}`), []string{"document 2", "default/net", `"vlna"`, `"vlan"`}},
		{"a value out of range", "b.yaml", nad(`{"type": "ovsdpdk", "bridge": "b", "vlan": 4096}`), []string{"document 1", `"vlan"`, "4095"}},
		{"broken YAML", "c.yaml", good + "---\nkind: [\n", []string{"document 2", "YAML"}},
		{"broken JSON in a network", "d.yaml", nad(`{"type": `), []string{"document 1", "default/net", `"config"`}},
		{"a bad annotation", "e.yaml", good + "---\n" + pod("a/b/c"), []string{"document 2", "default/p", "k8s.v1.cni.cncf.io/networks"}},
		{"an unknown key of the configuration", "f.conf", `{"name": "n", "type": "plexus", "delegate": []}`, []string{"f.conf", `"delegate"`, `"delegates"`}},
		{"a bad inline network", "g.conf", `{"name": "n", "type": "plexus", "delegates": [{"type": "userspace"}]}`, []string{"delegates[0]", "host.engine", "ovs-dpdk"}},
		{"an unknown engine", "h.yaml", nad(`{"type": "userspace", "host": {"engine": "snabb"}}`), []string{"host.engine", "snabb"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := write(test.file, test.text)
			out, err := plexusctl(t, "validate", file)
			if err == nil {
				t.Errorf("it is called valid: %s", out)
			}
			for _, want := range append(test.want, file) {
				if !strings.Contains(out, want) {
					t.Errorf("%q does not tell %q", out, want)
				}
			}
		})
	}
}
