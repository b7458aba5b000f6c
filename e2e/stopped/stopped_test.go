package stopped

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
	"syscall"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// verbBound is how long a verb may take when the agent is stopped. Only a verb that
// waits for the agent takes longer.
const verbBound = 20 * time.Second

// bounded makes a request as a runtime does that gives up after verbBound.
func bounded(s *site.Site, r site.Request) ([]byte, error) {
	s.T.Helper()
	if r.IfName == "" {
		r.IfName = "eth0"
	}
	config := s.Conf
	if r.Conf != nil {
		config = r.Conf
	}
	ctx, cancel := context.WithTimeout(s.T.Context(), verbBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(site.BinDir(s.T), s.As))
	cmd.Env, cmd.Stdin, cmd.WaitDelay = s.Environ(r), bytes.NewReader(config), time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	began := time.Now()
	err := cmd.Run()
	s.T.Logf("%s of %s took %v", r.Verb, r.Sandbox, time.Since(began).Round(time.Millisecond))
	if ctx.Err() != nil {
		s.T.Errorf("%s still waits for a stopped agent after %v", r.Verb, verbBound)
		return nil, ctx.Err()
	}
	if err == nil {
		return out.Bytes(), nil
	}
	failed := &site.Error{}
	if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
		return nil, fmt.Errorf("%s: %w: no CNI error: %q", r.Verb, err, out.String())
	}
	return nil, failed
}

// finish ends the agent, which answers before what it has begun.
func finish(a *site.Agent) {
	a.T.Helper()
	a.Signal(syscall.SIGTERM)
	select {
	case <-a.Done():
	case <-must.Deadline(a.T).Done():
		a.T.Fatal("the agent does not end")
	}
}

// history is what the agent tells of a sandbox.
func history(a *site.Agent, sandbox string) string {
	a.T.Helper()
	out, err := exec.CommandContext(a.T.Context(), filepath.Join(site.BinDir(a.T), "plexusctl"), "history", "-o", "json", "--socket", a.Socket).Output()
	must.Do(a.T, err)
	var all []struct{ Verb, Sandbox string }
	must.Decode(a.T, out, &all)
	var verbs []string
	for _, e := range all {
		if e.Sandbox == sandbox {
			verbs = append(verbs, e.Verb)
		}
	}
	return strings.Join(verbs, " ")
}

// The agent is stopped for 20 s: every verb ends, by plexusd where it can serve it,
// else with a code that says to try again. When the agent goes on, it begins nothing of
// what it was asked meanwhile.
func TestStoppedAgent(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	p, q := site.NewPod(t, "two"), site.NewPod(t, "late")
	s.Pod("late", "second")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, p, "two") // makes what stays
	s.MustDel(site.AgentSandbox, p, "two")
	before, inside, late := site.Apart(s.World(nil)), site.Links(t, p), site.Links(t, q)
	s.MustAdd(site.AgentSandbox, p, "two")
	a.Signal(syscall.SIGSTOP)
	until := time.Now().Add(20 * time.Second)

	const other = "fedcba9876543210"
	_, err := bounded(s, site.Request{Verb: "STATUS"})
	site.HasCode(t, err, 50)
	site.Says(t, err, socket)
	_, err = bounded(s, site.Request{Verb: "CHECK", Sandbox: site.AgentSandbox, Netns: p.Path(), Pod: "two"})
	must.Do(t, err)
	_, err = bounded(s, site.Request{Verb: "ADD", Sandbox: other, Netns: q.Path(), Pod: "late"})
	must.Do(t, err)
	if have := site.Links(t, q); !strings.Contains(have, "eth0") || !strings.Contains(have, "net1") {
		t.Errorf("plexusd has not wired the pod:\n%s", have)
	}
	_, err = bounded(s, site.Request{Verb: "DEL", Sandbox: other, Netns: q.Path(), Pod: "late"})
	must.Do(t, err)
	noOne := s.With(map[string]any{"manifests": nil})
	_, err = bounded(noOne, site.Request{Verb: "ADD", Sandbox: other, Netns: q.Path(), Pod: "late"})
	site.HasCode(t, err, 11)
	site.Says(t, err, socket)
	_, err = bounded(s, site.Request{Verb: "GC", Conf: site.Changed(t, s.Conf, map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": site.AgentSandbox, "ifname": "eth0"}}})})
	must.Do(t, err)
	_, err = bounded(s, site.Request{Verb: "DEL", Sandbox: site.AgentSandbox, Netns: p.Path(), Pod: "two"})
	must.Do(t, err)
	site.SameWorld(t, inside, site.Links(t, p))
	site.SameWorld(t, late, site.Links(t, q))

	out, err := exec.CommandContext(must.Deadline(t), filepath.Join(site.BinDir(t), "plexusctl"), "nodes", "--socket", socket).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "does not answer") {
		t.Errorf("plexusctl nodes: %v: %s", err, out)
	}
	<-time.After(time.Until(until)) // the length of the stop is what is tried, not what is waited for
	a.Signal(syscall.SIGCONT)
	out2, err := bounded(s, site.Request{Verb: "STATUS"})
	if err != nil {
		t.Errorf("the agent goes on, and does not serve: %v %s", err, out2)
	}
	if verbs := history(a, other); verbs != "" {
		t.Errorf("the agent has begun what plexusd has done: %s", verbs)
	}
	finish(a)
	site.SameWorld(t, before, site.Apart(s.World(nil)))
	site.SameWorld(t, inside, site.Links(t, p))
	site.SameWorld(t, late, site.Links(t, q))
	if left, err := os.ReadDir(filepath.Join(s.DataDir, "sandboxes")); err != nil || len(left) > 0 {
		t.Errorf("journal: %v %v", left, err)
	}
}

// ADD, then DEL, of one sandbox while the agent is stopped, over and over, by many at
// once: whatever the moment at which the agent goes on, nothing is wired at the end.
func TestStoppedAgentBeginsNothingLate(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	var pods []*node.Pod
	var inside []string
	for i := range 4 {
		p := site.NewPod(t, fmt.Sprintf("late%d", i))
		pods, inside = append(pods, p), append(inside, site.Links(t, p))
	}
	a := s.Serve(socket)
	noOne := s.With(map[string]any{"manifests": nil})
	for _, round := range []time.Duration{0, 1450 * time.Millisecond, 1495 * time.Millisecond, 1500 * time.Millisecond, 1505 * time.Millisecond, 1550 * time.Millisecond} {
		a.Signal(syscall.SIGSTOP)
		ended := make(chan error, len(pods))
		for i, p := range pods {
			go func() {
				r := site.Request{Sandbox: fmt.Sprintf("%s%d", site.AgentSandbox, i), Netns: p.Path(), Pod: fmt.Sprintf("late%d", i), IfName: "eth0"}
				r.Verb = "ADD"
				_, _, _ = noOne.Call(r) // by the agent or not at all
				r.Verb = "DEL"
				_, _, err := s.Call(r)
				ended <- err
			}()
		}
		if round > 0 {
			<-time.After(round) // about when plexus gives up: each side of that moment is right
			a.Signal(syscall.SIGCONT)
		}
		ctx := must.Deadline(t)
		for range pods {
			select {
			case err := <-ended:
				must.Do(t, err)
			case <-ctx.Done():
				t.Fatal("ADD or DEL never ends")
			}
		}
		a.Signal(syscall.SIGCONT)
		finish(a)
		if left, err := filepath.Glob(filepath.Join(s.DataDir, "sandboxes", "*")); err != nil || len(left) > 0 {
			t.Errorf("%v: journal: %v %v", round, left, err)
		}
		for i, p := range pods {
			site.SameWorld(t, inside[i], site.Links(t, p))
		}
		a = s.Serve(socket)
	}
}

// The agent is stopped in the middle of an ADD that it has confirmed, and holds the lock
// of the sandbox. Other pods are wired and unwired, verbs of that sandbox say to try
// again, and the ADD goes on with the agent.
func TestStoppedAgentHoldsASandbox(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	dir := filepath.Join(s.Dir, "stoppers")
	must.Do(t, os.Mkdir(dir, 0o755))
	script := `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] && [ ! -e "$(dirname "$0")/done" ] && : > "$(dirname "$0")/done" && kill -STOP $PPID
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.1.0"}'
exit 0
`
	must.Do(t, os.WriteFile(filepath.Join(dir, "stopper"), []byte(script), 0o755))
	s.Path += ":" + dir
	s.NAD("stop", map[string]any{"cniVersion": "1.1.0", "name": "stop", "type": "stopper"})
	s.Pod("held", "stop")
	s.Pod("free", "second")
	held, free := site.NewPod(t, "held"), site.NewPod(t, "free")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, free, "free") // makes what stays
	s.MustDel(site.AgentSandbox, free, "free")
	before, inside := site.Apart(site.Without(s.World(nil), "/stoppers/")), site.Links(t, held)

	added := make(chan error, 1)
	go func() {
		_, _, err := s.Call(site.Request{Verb: "ADD", Sandbox: site.AgentSandbox, Netns: held.Path(), Pod: "held"})
		added <- err
	}()
	a.Stopped()
	const other = "fedcba9876543210"
	_, err := bounded(s, site.Request{Verb: "ADD", Sandbox: other, Netns: free.Path(), Pod: "free"})
	must.Do(t, err)
	_, err = bounded(s, site.Request{Verb: "CHECK", Sandbox: other, Netns: free.Path(), Pod: "free"})
	must.Do(t, err)
	_, err = bounded(s, site.Request{Verb: "DEL", Sandbox: other, Netns: free.Path(), Pod: "free"})
	must.Do(t, err)
	verbs := []string{"ADD", "CHECK", "DEL"} // each waits for the lock, and so all at once
	answers := make(chan error, len(verbs))
	for _, verb := range verbs {
		go func() {
			_, err := bounded(s, site.Request{Verb: verb, Sandbox: site.AgentSandbox, Netns: held.Path(), Pod: "held"})
			answers <- err
		}()
	}
	for range verbs {
		site.HasCode(t, <-answers, 11)
	}
	a.Signal(syscall.SIGCONT)
	select {
	case err := <-added:
		must.Do(t, err)
	case <-must.Deadline(t).Done():
		t.Fatal("the confirmed ADD never ends")
	}
	s.MustCheck(site.AgentSandbox, held, "held")
	s.MustDel(site.AgentSandbox, held, "held")
	finish(a)
	site.SameWorld(t, before, site.Apart(site.Without(s.World(nil), "/stoppers/")))
	site.SameWorld(t, inside, site.Links(t, held))
}
