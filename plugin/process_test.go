package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
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
		{name: "it says much to people", script: "head -c 300000 /dev/zero | tr '\\0' e >&2; echo -n answer", want: "answer", stderr: strings.Repeat("e", maxStderr)},
		{name: "an error of CNI", script: `echo '{"code": 11, "msg": "later"}'; exit 1`, failed: "later", code: 11},
		{name: "an error without a code", script: `echo '{"msg": "later"}'; exit 1`, failed: "later", code: 999},
		{name: "an error of a megabyte", script: `printf '{"code": 11, "msg": "later'; head -c 1000000 /dev/zero | tr '\0' x; echo '"}'; exit 1`, failed: "later", code: 11},
		{name: "an error that is none", script: "echo oops; exit 3", failed: "oops", code: 999},
		{name: "an error for people alone", script: "echo bad luck >&2; exit 3", failed: "bad luck", code: 999},
		{name: "no word", script: "kill -9 $$", failed: "killed", code: 999},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr bytes.Buffer
			x := &Runner{Stderr: &stderr}
			out, err := x.ExecPlugin(t.Context(), script(t, t.TempDir(), "plugin", test.script), []byte(test.stdin), nil)
			if test.failed != "" {
				var e *types.Error
				if !errors.As(err, &e) || !strings.Contains(e.Msg, test.failed) || e.Code != test.code || len(e.Msg) > 2*maxMessage {
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
	for _, want := range []string{"1", "3"} {
		t.Setenv("GOMAXPROCS", want)
		if want == "1" {
			_ = os.Unsetenv("GOMAXPROCS")
		}
		out, err := (&Runner{}).ExecPlugin(t.Context(), plugin, nil, append(os.Environ(), "CNI_COMMAND=CHECK"))
		if err != nil || string(out) != want {
			t.Errorf("%q, %v, want %s", out, err, want)
		}
	}
}

// A request that is cancelled is not kept waiting. The plugin and its children, which
// have its standard output, are killed.
func TestACancelledProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	plugin := script(t, dir, "plugin", fmt.Sprintf("sleep 1000 & echo $! > %s/child; : > %s/there; wait", dir, dir))
	go func() {
		awaitFile(t, filepath.Join(dir, "there"))
		cancel()
	}()
	_, err := (&Runner{}).ExecPlugin(ctx, plugin, nil, nil)
	var coded *delegates.Error
	if !errors.As(err, &coded) || coded.Code != delegates.CodeTryAgain || !strings.Contains(err.Error(), `"plugin"`) {
		t.Errorf("%v, want code 11 and the plugin", err)
	}
	ended(t, filepath.Join(dir, "child"))
}

// An executable that is being written is waited for.
func TestABusyExecutable(t *testing.T) {
	path := script(t, t.TempDir(), "plugin", "echo -n answer")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(path).Run(); !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("%v, want ETXTBSY", err)
	}
	go f.Close()
	out, err := (&Runner{}).ExecPlugin(t.Context(), path, nil, nil)
	if err != nil || string(out) != "answer" {
		t.Errorf("%q, %v", out, err)
	}
}

// The whole answer of a plugin is read, until its end: an exit status and what is behind
// the answer count, and the next plugin is executed when it has ended.
func TestAnAnswerHoldsAtTheEnd(t *testing.T) {
	const answer = `{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}]}`
	for name, test := range map[string]struct{ plugin, failed string }{
		"well":           {`printf '` + answer + `'; sleep 0.2`, ""},
		"in parts":       {`printf '{"cniVersion": "1.0.0", "ips": [{"address": "192.0.2.7/24"}'; sleep 0.2; printf ']}\n'`, ""},
		"more space":     {`printf '` + answer + `'; sleep 0.2; echo; echo`, ""},
		"more answers":   {`printf '` + answer + `'; sleep 0.2; echo '{}'`, "after top-level value"},
		"exit status":    {`printf '` + answer + `'; sleep 0.2; exit 3`, "exit status 3"},
		"an error after": {`printf '` + answer + `'; sleep 0.2; echo for people >&2; exit 3`, "for people"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			end := filepath.Join(dir, "end")
			script(t, dir, "first", "cat > /dev/null; trap ': > "+end+"' EXIT\n"+test.plugin)
			script(t, dir, "second", "[ -e "+end+" ] || exit 4; cat > /dev/null; printf '"+answer+"'")
			of := &Runner{DataDir: dir}
			for _, types := range []string{`{"type": "first"}`, `{"type": "first"} {"type": "second"}`} {
				n := conf.Network{Name: "n", IfName: "eth0", List: conf.List{Name: "n", CNIVersion: "1.0.0"}}
				for dec := json.NewDecoder(strings.NewReader(types)); dec.More(); {
					var raw json.RawMessage
					if err := dec.Decode(&raw); err != nil {
						t.Fatal(err)
					}
					n.List.Plugins = append(n.List.Plugins, raw)
				}
				c, err := of.Chain(Request{Network: n, Sandbox: "abc", Netns: "/run/netns/x", Path: []string{dir}})
				if err != nil {
					t.Fatal(err)
				}
				result, err := c.Add(t.Context())
				if test.failed != "" {
					if err == nil || !strings.Contains(err.Error(), test.failed) {
						t.Errorf("%s: %v, want %q", types, err, test.failed)
					}
				} else if err != nil || len(result.IPs) != 1 || result.IPs[0].Address.String() != "192.0.2.7/24" {
					t.Errorf("%s: %v, %v", types, result, err)
				}
				_ = os.Remove(end)
			}
		})
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	await(t, path, func() bool {
		data, err := os.ReadFile(path)
		return err == nil && (len(data) > 0 || !strings.HasSuffix(path, "pid"))
	})
}

// await waits for what must come; its limit is no measure.
func await(t *testing.T, what string, come func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !come(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
