package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/engine"
	"github.com/plexus-cni/plexus/journal"
)

// What each command says of the stand-in's answers, and its exit status, is in
// testdata/inspection.txt.
func TestInspectionGolden(t *testing.T) {
	_, host := serving(t, answers(t))
	var all strings.Builder
	for _, line := range []string{
		"health", "health --live", "nodes", "nodes -o wide", "pods", "pods -o wide", "pods left", "pods prod/cut -o wide", "pods -n prod cut", "pods nobody",
		"explain left", "explain left -o wide", "explain prod/none", "history", "history -o wide", "history nobody", "check", "check -o wide", "check prod/cut",
		"check b1b2", "check nobody", "resync", "reclaim a1", "reclaim a1 --force", "reclaim a1 --abandon net1 --abandon default/vf",
	} {
		out, errs, status := execute(t, "plexusctl", append([]string{host}, strings.Fields(line)...)...)
		fmt.Fprintf(&all, "$ plexusctl %s\n%s%s[exit %d]\n\n", line, out, errs, status)
	}
	golden(t, "inspection.txt", all.String())
}

// JSON and YAML are the agent's answer, whatever the agent's version knows.
func TestAnswersUnchanged(t *testing.T) {
	const answer = `{"node": "n1", "new": {"of": [1, 2.50, "<x>"]}, "ready": true, "big": 9007199254740993}`
	_, host := serving(t, map[string]any{"GET /v1/node": answer})
	out, _, status := execute(t, "plexusctl", "nodes", "-o", "json", host)
	if status != 0 || strings.Join(strings.Fields(out), "") != strings.ReplaceAll(answer, " ", "") {
		t.Errorf("exit %d, JSON %s", status, out)
	}
	out, _, _ = execute(t, "plexusctl", "nodes", "-o", "yaml", host)
	const want = "big: 9007199254740993\nnew:\n  of:\n  - 1\n  - 2.5\n  - <x>\nnode: n1\nready: true\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
}

func TestOnePodAsJSON(t *testing.T) {
	_, host := serving(t, answers(t))
	out, _, status := execute(t, "plexusctl", host, "pods", "left", "-o", "json")
	var got agent.Attachments
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 {
		t.Fatalf("exit %d: %v\n%s", status, err, out)
	}
	if len(got.Sandboxes) != 1 || got.Sandboxes[0].Sandbox != sandboxA || got.Node != "n1" || len(got.Damaged) != 1 {
		t.Errorf("got %+v", got)
	}
}

// What is wrong is told, with the step and the object; the exit status is 1.
func TestWhatIsToldOfErrors(t *testing.T) {
	_, host := serving(t, with(t, map[string]any{
		"GET /readyz":                        refusal{http.StatusServiceUnavailable, "the journal is being compared with the world"},
		"GET /v1/history":                    refusal{http.StatusBadRequest, "limit \"x\", want a number"},
		"POST /v1/resync":                    refusal{http.StatusInternalServerError, ""},
		"GET /v1/node":                       "no JSON",
		"GET /v1/attachments":                "[]",
		"POST /v1/check":                     agent.Checked{},
		"POST /v1/reclaim":                   refusal{http.StatusNotFound, "no sandbox \"ff\" is recorded"},
		"GET /v1/explain?pod=default%2Fleft": "{",
		"POST /v1/check?about":               "",
	}))
	empty := "--host=" + shortDir(t)
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"not ready", []string{host, "health"}, []string{"not ready", "the journal is being compared"}},
		{"the agent's own text", []string{host, "history"}, []string{`plexusctl: limit "x", want a number`}},
		{"an HTTP error without a text", []string{host, "resync"}, []string{"/v1/resync", "500"}},
		{"no JSON", []string{host, "nodes", "-o", "json"}, []string{"/v1/node", "no JSON"}},
		{"half of JSON", []string{host, "explain", "left"}, []string{"/v1/explain", "no JSON"}},
		{"other JSON", []string{host, "pods"}, []string{"answer of the agent", "array"}},
		{"other JSON for a list", []string{host, "check"}, []string{"answer of the agent", "object"}},
		{"an unknown sandbox", []string{host, "reclaim", "ff"}, []string{`no sandbox "ff"`}},
		{"the agent is away", []string{empty, "nodes"}, []string{"the node agent at", "/run/plexus/agent.sock does not answer", "no such file", "is plexusd serve running on this node? plexusctl show reads the journal without it"}},
		{"the agent is away, for a probe", []string{empty, "health", "--live"}, []string{"does not answer"}},
		{"an unknown form", []string{host, "pods", "-o", "xml"}, []string{`"xml"`, "allowed are table, wide, json, yaml"}},
		{"an unknown form of show", []string{"show", "-o", "xml"}, []string{"allowed are table, wide, json, yaml"}},
		{"no pod", []string{host, "explain", "A/B"}, []string{"A/B", "DNS label"}},
		{"neither pod nor sandbox", []string{host, "history", "a b"}, []string{"NAMESPACE/NAME", "sandbox"}},
		{"no sandbox", []string{host, "reclaim", "../x"}, []string{"../x", "container ID"}},
		{"a path for a namespace", []string{host, "-n", "../x", "pods", "left"}, []string{"DNS label"}},
		{"CHECK's flag without CHECK", []string{host, "check", "left", "--uid", "7"}, []string{"--uid", "--netns"}},
		{"CHECK with a form", []string{"check", "left", "--netns", "/x", "-o", "json"}, []string{"--output"}},
		{"CHECK of nothing", []string{"check", "--netns", "/x"}, []string{"want POD"}},
		{"CHECK without a namespace", []string{"check", "left", "--sandbox", "a1"}, []string{"--netns is needed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errs, status := execute(t, "plexusctl", test.args...)
			if status != 1 {
				t.Errorf("exit %d, want 1; %s", status, out)
			}
			for _, want := range test.want {
				if !strings.Contains(errs, want) {
					t.Errorf("%q does not tell %q", errs, want)
				}
			}
		})
	}
}

// An agent that has stopped answering ends the question.
func TestAgentThatHangs(t *testing.T) {
	s, host := serving(t, answers(t))
	s.mu.Lock() // no answer is given
	_, errs, status := execute(t, "plexusctl", host, "--timeout", "50ms", "nodes")
	s.mu.Unlock()
	if status != 1 || !strings.Contains(errs, "it takes too long") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// Who may not connect is told what is needed. It is another process, of nobody.
func TestWithoutPermission(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	copied := filepath.Join(dir, "plexusctl")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(copied, data, 0o755)); err != nil { // where nobody may execute it
		t.Fatal(err)
	}
	(&standIn{answers: answers(t)}).start(t, dir)
	if err := os.Chmod(filepath.Join(dir, agent.DefaultSocket), 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "--host", dir, "nodes")
	cmd.Env, cmd.Dir = append(os.Environ(), "AS_PLEXUSCTL=1"), dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "/run/plexus/agent.sock: permission denied: plexusctl needs root") {
		t.Errorf("%v: %s", err, out)
	}
}

// CHECK with --netns needs no agent: the plugin's own answer comes.
func TestCheckByNetnsAsksNoAgent(t *testing.T) {
	s, host := serving(t, answers(t))
	file := filepath.Join(t.TempDir(), "10-plexus.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"cniVersion": "1.1.0", "name": "node", "type": "plexus", "dataDir": %q, "delegates": [{"name": "cluster", "type": "bridge"}]}`, t.TempDir()), 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs, status := execute(t, "plexusctl", host, "check", "left", "--netns", "/proc/self/ns/net", "--conf", file)
	if status != 1 || !strings.Contains(errs, "CNI error") || s.was("POST /v1/check") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// hostile has what a terminal obeys: escapes, a carriage return, a C1 control, a
// change of direction, a character that is none.
const hostile = "x\x1b[31m\r\x07\u009b2J\u202e\u0000\U000e0041y"

func TestNothingThatATerminalObeys(t *testing.T) {
	rec := left(t)
	tx := rec.Transactions[0]
	tx.Pod.Name, tx.Pod.Namespace, tx.Phase = hostile, hostile, journal.Phase(hostile)
	tx.Attachments[0].Name, tx.Attachments[0].IfName = hostile, hostile
	tx.Attachments[0].List = list(fmt.Sprintf(`{"type": %q, %q: 1}`, "\u009b", "\u009bkey"))
	x := explanation(t)
	x.Annotation, x.Warnings, x.Error = hostile, []string{hostile}, hostile
	x.Plan[0].Name, x.Plan[1].DeviceID = hostile, hostile
	x.Journal, x.History = []*journal.Record{rec, rec}, []agent.Event{{Verb: hostile, Error: hostile, Took: 1, Steps: []agent.Step{{What: hostile}}}}
	x.Datapath = []engine.Datapath{{IfName: hostile, Network: hostile, Differences: hostile, Facts: map[string]map[string]string{hostile: {hostile: hostile}}}, x.Datapath[1], x.Datapath[2]}
	_, host := serving(t, map[string]any{
		"GET /readyz":         refusal{http.StatusServiceUnavailable, hostile},
		"GET /v1/node":        agent.NodeInfo{Node: hostile, Version: hostile, Why: hostile},
		"GET /v1/attachments": agent.Attachments{Node: hostile, Sandboxes: []*journal.Record{rec}, Damaged: []string{hostile}},
		"GET /v1/history":     x.History,
		"GET /v1/explain":     x,
		"POST /v1/check":      []agent.Checked{{Sandbox: hostile, Pod: hostile, Error: hostile}},
		"POST /v1/resync":     []engine.Finding{{Sandbox: hostile, Pod: &conf.Pod{Name: hostile}, IfName: hostile, Network: hostile, Kind: hostile, What: hostile}},
		"POST /v1/reclaim":    agent.Checked{Sandbox: hostile, Pod: hostile},
		"GET /healthz":        hostile,
	})
	for _, command := range []string{"health", "health --live", "nodes", "pods", "history", "explain left", "check", "resync", "reclaim a1"} {
		for _, f := range forms() {
			args := append([]string{host}, strings.Fields(command)...)
			if !strings.HasPrefix(command, "health") {
				args = append(args, "-o", f)
			}
			out, errs, _ := execute(t, "plexusctl", args...)
			if i := strings.IndexFunc(out+errs, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s -o %s: %q", command, f, (out + errs)[i:min(i+20, len(out+errs))])
			}
			if !strings.Contains(out+errs, "x") || strings.Contains(errs, "answer of the agent") {
				t.Errorf("%s -o %s says nothing: %q %q", command, f, out, errs)
			}
			switch form(f) {
			case asJSON:
				if !json.Valid([]byte(out)) && strings.Contains(strings.Join(args, " "), "-o") {
					t.Errorf("%s: no JSON: %s", command, out)
				}
			case asYAML:
				var v any
				if err := yaml.Unmarshal([]byte(out), &v); err != nil {
					t.Errorf("%s: %v", command, err)
				}
			}
		}
	}
	out, _, _ := execute(t, "plexusctl", host, "nodes", "-o", "json")
	var got agent.NodeInfo
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Node != hostile {
		t.Errorf("%v: the JSON says node %q, want %q", err, got.Node, hostile)
	}
}

// A change of direction alone is one that YAML's printer lets through.
func TestYAMLThatATerminalObeys(t *testing.T) {
	for _, name := range []string{"a\u202eb", "a\U000e0041b\u202e", "\u200b"} {
		_, host := serving(t, map[string]any{"GET /v1/node": agent.NodeInfo{Node: name}})
		out, _, _ := execute(t, "plexusctl", host, "nodes", "-o", "yaml")
		var got agent.NodeInfo
		if err := yaml.Unmarshal([]byte(out), &got); err != nil || got.Node != name {
			t.Errorf("%v: node %q, want %q:\n%s", err, got.Node, name, out)
		}
		if strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && hidden(r) }) {
			t.Errorf("%q", out)
		}
	}
}
