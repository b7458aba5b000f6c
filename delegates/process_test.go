package delegates

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
)

// script is an executable.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProcess(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	for _, test := range []struct {
		name, script, stdin  string
		want, stderr, failed string
		code                 uint
	}{
		{name: "it answers", script: "cat", stdin: large, want: large},
		{name: "it does not read", script: "echo -n answer", stdin: large, want: "answer"},
		{name: "it says something to people", script: "echo -n note >&2; echo -n answer", want: "answer", stderr: "note"},
		{name: "it says much to people", script: "head -c 300000 /dev/zero | tr '\\0' e >&2; echo -n answer", want: "answer", stderr: strings.Repeat("e", 300000)},
		{name: "an error of CNI", script: `echo '{"code": 11, "msg": "later"}'; exit 1`, failed: "later", code: 11},
		{name: "an error that is none", script: "echo oops; exit 3", failed: "oops", code: 999},
		{name: "an error for people alone", script: "echo bad luck >&2; exit 3", failed: "bad luck", code: 999},
		{name: "no word", script: "kill -9 $$", failed: "killed", code: 999},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			x := &executor{stderr: &stderr}
			out, err := x.ExecPlugin(t.Context(), script(t, t.TempDir(), "plugin", test.script), []byte(test.stdin), nil)
			if test.failed != "" {
				var e *types.Error
				if !errors.As(err, &e) || !strings.Contains(e.Msg, test.failed) || e.Code != test.code {
					t.Errorf("%#v, want code %d and %q", err, test.code, test.failed)
				}
				return
			}
			if err != nil || string(out) != test.want || stderr.String() != test.stderr {
				t.Errorf("%d bytes (%.40q), %d for people (%.40q), %v", len(out), out, stderr.Len(), stderr.String(), err)
			}
		})
	}
}

// A plugin has one processor, unless plexus is told otherwise.
func TestProcessors(t *testing.T) {
	plugin := script(t, t.TempDir(), "plugin", "echo -n $GOMAXPROCS")
	c := &chain{entry: &Entry{}, tx: &Transaction{}}
	for _, want := range []string{"1", "3"} {
		t.Setenv("GOMAXPROCS", want)
		if want == "1" {
			_ = os.Unsetenv("GOMAXPROCS")
		}
		out, err := (&executor{}).ExecPlugin(t.Context(), plugin, nil, c.environment("ADD"))
		if err != nil || string(out) != want {
			t.Errorf("%q, %v, want %s", out, err, want)
		}
	}
}

// Whoever cancels the request is not kept waiting, even by a child of the plugin
// that has its standard output.
func TestACancelledProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	p, err := start(ctx, script(t, dir, "plugin", fmt.Sprintf("sleep 1000 & echo $! > %s/child; : > %s/there; wait", dir, dir)), nil)
	if err != nil {
		t.Fatal(err)
	}
	awaitFile(t, filepath.Join(dir, "there"))
	cancel()
	p.answer(ctx, nil)
	if err := p.ended(nil); err == nil {
		t.Error("it succeeded")
	}
	var child int
	if data, err := os.ReadFile(filepath.Join(dir, "child")); err != nil {
		t.Error(err)
	} else if _, err := fmt.Sscan(string(data), &child); err != nil || unix.Kill(child, unix.SIGKILL) != nil {
		t.Errorf("its child %d: %v", child, err)
	}
}

// An executable that is being written is waited for.
func TestABusyExecutable(t *testing.T) {
	path := script(t, t.TempDir(), "plugin", "echo -n answer")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startOnce(t.Context(), path, nil); !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("%v, want ETXTBSY", err)
	}
	go f.Close()
	out, err := (&executor{}).ExecPlugin(t.Context(), path, nil, nil)
	if err != nil || string(out) != "answer" {
		t.Errorf("%q, %v", out, err)
	}
}

// What is started early is taken for what it was started for, once. Nobody's
// configuration reaches what is not taken.
func TestEarly(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "plugin", fmt.Sprintf(`echo $$ > %s/pid; cat > %s/"$CNI_IFNAME.got"; echo -n answer`, dir, dir))
	r := &Request{Sandbox: "abc", Netns: "/run/netns/x", IfName: "eth0", Path: []string{dir}}
	plan := &conf.Plan{Networks: []conf.Network{{Name: "n", IfName: "eth0", List: conf.List{Name: "n", CNIVersion: "1.0.0", Plugins: []json.RawMessage{json.RawMessage(`{"type": "plugin"}`)}}}}}
	e := &Engine{Journal: OpenJournal(dir)}
	chainOf := func(ifName string, first *early) *chain {
		n := plan.Networks[0]
		n.IfName = ifName
		return e.chain(r.Sandbox, &Transaction{Path: r.Path, early: first}, &Entry{Network: n}, r.Netns)
	}
	first := e.startEarly(t.Context(), r, plan)
	awaitFile(t, filepath.Join(dir, "pid"))
	for _, ifName := range []string{"net1", "eth0", "eth0"} {
		c := chainOf(ifName, first)
		out, err := c.exec.ExecPlugin(t.Context(), filepath.Join(dir, "plugin"), []byte("config of "+ifName), c.environment("ADD"))
		if err != nil || string(out) != "answer" {
			t.Fatalf("%s: %q, %v", ifName, out, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, ifName+".got")); err != nil || string(got) != "config of "+ifName {
			t.Errorf("%s got %q, %v", ifName, got, err)
		}
		if taken := first.process == nil; taken != (ifName == "eth0") {
			t.Errorf("%s: taken is %t", ifName, taken)
		}
	}
	first.end() // has nothing to end

	if err := os.Remove(filepath.Join(dir, "eth0.got")); err != nil {
		t.Fatal(err)
	}
	first = e.startEarly(t.Context(), r, plan)
	pid := first.cmd.Process.Pid
	first.end()
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: %v, want none", pid, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "eth0.got")); err == nil && len(data) > 0 {
		t.Errorf("what was not taken got %q", data)
	}

	for name, typ := range map[string]string{"a plugin that is not there": "missing", "a built-in": "vppmemif"} {
		other := &conf.Plan{Networks: []conf.Network{{List: conf.List{Plugins: []json.RawMessage{json.RawMessage(`{"type": "` + typ + `"}`)}}}}}
		e := &Engine{Journal: e.Journal, Delegates: map[string]Delegate{"vppmemif": passthru{}}}
		if first := e.startEarly(t.Context(), r, other); first.process != nil {
			t.Errorf("%s is started", name)
		}
	}
	if first := e.startEarly(t.Context(), r, &conf.Plan{}); first.process != nil {
		t.Error("of no network one is started")
	}
}

// The answer of an executable is read while it ends. What it says by its end holds: an
// exit status, something behind the answer, and nothing runs beside it.
func TestAnAnswerHoldsAtTheEnd(t *testing.T) {
	const answer = `{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}`
	for name, test := range map[string]struct{ plugin, end string }{
		"well":           {`printf '` + answer + `'; awaits end`, ""},
		"in parts":       {`printf '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}'; awaits end; printf ']}\n'`, ""},
		"more space":     {`printf '` + answer + `'; awaits end; echo; echo`, ""},
		"more answers":   {`printf '` + answer + `'; awaits end; echo '{}'`, "after top-level value"},
		"a line of log":  {`printf '{"cniVersion": "1.0.0", "msg": "hello", "ips": [{"address": "192.0.2.7/24"}]}'; awaits end; echo '{}'`, "after top-level value"},
		"exit status":    {`printf '` + answer + `'; awaits end; exit 3`, "exit status 3"},
		"an error after": {`printf '` + answer + `'; awaits end; echo for people >&2; exit 3`, "for people"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			wait := fmt.Sprintf("awaits() { : > %[1]s/answered; while ! [ -e %[1]s/$1 ]; do sleep 0.01; done; }\n", dir)
			script(t, dir, "first", wait+test.plugin)
			script(t, dir, "second", fmt.Sprintf("[ -e %s/end ] || exit 4; cat > /dev/null; printf '%s'", dir, answer))
			var stderr bytes.Buffer
			e := &Engine{Journal: OpenJournal(dir), Stderr: &stderr}
			network := func(types ...string) *Entry {
				n := conf.Network{Name: "n", IfName: "eth0", List: conf.List{Name: "n", CNIVersion: "1.0.0"}}
				for _, typ := range types {
					n.List.Plugins = append(n.List.Plugins, json.RawMessage(`{"type": "`+typ+`"}`))
				}
				return &Entry{Network: n}
			}
			alone := network("first")
			tx := &Transaction{Path: []string{dir}, Attachments: []*Entry{alone}}
			ended := make(chan error, 1)
			end := func() { // when it waits for that
				awaitFile(t, filepath.Join(dir, "answered"))
				if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
					t.Error(err)
				}
			}
			atOnce := name == "in parts" || name == "a line of log"
			if atOnce {
				go end()
			}
			result, err := e.chain("abc", tx, alone, "/run/netns/x").add(t.Context())
			if name == "a line of log" {
				if err == nil || !strings.Contains(err.Error(), test.end) {
					t.Errorf("%v, %v", result, err)
				}
				return
			}
			if err != nil || len(result.IPs) != 1 || result.IPs[0].Address.String() != "192.0.2.7/24" {
				t.Fatalf("answer: %v, %v", result, err)
			}
			go func() { ended <- tx.ended() }()
			if !atOnce {
				awaitFile(t, filepath.Join(dir, "answered"))
				if len(ended) > 0 {
					t.Error("it has not ended")
				}
				end()
			}
			if err := <-ended; (err == nil) != (test.end == "") || err != nil && !strings.Contains(err.Error()+stderr.String(), test.end) {
				t.Errorf("end: %v, want %q", err, test.end)
			}
			if err := tx.ended(); err != nil {
				t.Errorf("a second time: %v", err)
			}
			if err := os.Remove(filepath.Join(dir, "end")); err != nil {
				t.Fatal(err)
			}
			chained := network("first", "second")
			tx.Attachments = []*Entry{chained}
			go end()
			_, err = e.chain("abc", tx, chained, "/run/netns/x").add(t.Context())
			if err := errors.Join(err, tx.ended()); (err == nil) != (test.end == "") {
				t.Errorf("in a chain: %v, want %q", err, test.end)
			}
		})
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if data, err := os.ReadFile(path); err == nil && (len(data) > 0 || !strings.HasSuffix(path, "pid")) {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("there is no %s", path)
		}
	}
}
