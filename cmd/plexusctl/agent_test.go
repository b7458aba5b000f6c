package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/journal"
)

// realAgent is agent.Serve without an API server, with a journal of two sandboxes:
// the namespace of one is gone, the other's is this process'.
func realAgent(t *testing.T) (root string) {
	t.Helper()
	root = shortDir(t)
	data := filepath.Join(root, "data")
	for _, rec := range []*journal.Record{
		{Sandbox: sandboxA, Transactions: []*journal.Transaction{{
			Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Started: began, Netns: "/run/netns/is-gone", Pod: &conf.Pod{Namespace: "default", Name: "dead"},
		}}},
		{Sandbox: sandboxB, Transactions: []*journal.Transaction{{
			Network: "node", IfName: "eth0", Phase: journal.PhaseAttached, Started: began, Netns: "/proc/self/ns/net", Pod: &conf.Pod{Namespace: "prod", Name: "alive"},
		}}},
	} {
		if err := journal.Open(data).Write(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- agent.Serve(ctx, agent.Settings{
			Socket: filepath.Join(root, agent.DefaultSocket), DataDir: data, ConfDir: root, Standalone: true, Node: "real",
			Reconcile: time.Hour, Grace: time.Hour, Log: slog.New(slog.DiscardHandler), Stderr: os.Stderr,
		}, func() { close(ready) })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return root
}

// The commands and the agent itself agree.
func TestRealAgent(t *testing.T) {
	root := realAgent(t)
	for _, test := range []struct {
		args   string
		status int
		want   []string
	}{
		{"health --live", 0, []string{"ok"}},
		{"resync", 0, []string{"default/dead", "gone", "/run/netns/is-gone"}}, // it is ready by then
		{"health", 0, []string{"ok"}},
		{"nodes", 0, []string{"real  yes    2"}},
		{"pods", 0, []string{"default/dead  a1b2c3d4e5f6a  eth0", "prod/alive    b1b2c3d4e5f6a"}},
		{"pods alive -n prod -o json", 0, []string{sandboxB}},
		{"explain dead", 0, []string{"pod default/dead on node real"}},
		{"explain nobody", 1, []string{"nothing is recorded of pod default/nobody"}},
		{"check dead", 1, []string{"/run/netns/is-gone is gone", "1 of 1 sandboxes differ"}},
		{"check nobody", 1, []string{`nothing is known of "nobody"`}},
		{"history a1b2", 0, []string{"RECONCILE", "default/dead"}},
		{"reclaim", 1, []string{"accepts 1 arg"}},
		{"reclaim b1b2", 1, []string{"is alive (pod prod/alive)", "force does it"}},
		{"reclaim ff", 1, []string{`no sandbox "ff" is recorded`}},
		{"reclaim a1b2", 0, []string{"sandbox " + sandboxA + " of pod default/dead is undone"}},
		{"reclaim a1b2", 1, []string{`no sandbox "a1b2" is recorded`}},
		{"history dead -o wide", 0, []string{"RECLAIM", "journal: remove sandbox " + sandboxA}},
		{"nodes", 0, []string{"real  yes    1"}},
	} {
		out, errs, status := execute(t, "plexusctl", append(strings.Fields(test.args), "--host", root)...)
		if status != test.status {
			t.Errorf("%s: exit %d, want %d: %s", test.args, status, test.status, errs)
		}
		for _, want := range test.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s: %q is not in %s", test.args, want, out+errs)
			}
		}
	}
}

// The shell's completion offers the recorded pods, and the forms.
func TestCompletion(t *testing.T) {
	root := realAgent(t)
	out, _, _ := execute(t, "plexusctl", "__complete", "--host", root, "explain", "")
	if !strings.Contains(out, "default/dead\n") || !strings.Contains(out, "prod/alive\n") {
		t.Errorf("pods: %s", out)
	}
	out, _, _ = execute(t, "plexusctl", "__complete", "--host", root, "pods", "-o", "")
	for _, f := range forms() {
		if !strings.Contains(out, f+"\n") {
			t.Errorf("forms: %s", out)
		}
	}
}

// show reads the journal without the agent, in each form.
func TestShowForms(t *testing.T) {
	dir := t.TempDir()
	if err := journal.Open(dir).Write(t.Context(), left(t)); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[form]string{
		asTable: "a1b2c3d4e5f6a  default/left  net1       default/fast  ovsdpdk",
		asWide:  "default/left  a1b2c3d4e5f6a  net2       default/vf    sriov           0000:01:10.0",
		asYAML:  "- sandbox: " + sandboxA,
		asJSON:  `"sandbox": "` + sandboxA + `"`,
	} {
		out, errs, status := execute(t, "plexusctl", "show", "--data-dir", dir, "-o", string(f))
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d: %s%s", f, status, out, errs)
		}
	}
	out, _, _ := execute(t, "plexusctl", "show", "--data-dir", dir, "-o", "json")
	var shown journalView
	if err := json.Unmarshal([]byte(out), &shown); err != nil || len(shown.Sandboxes) != 1 {
		t.Errorf("%v: %s", err, out)
	}
}
