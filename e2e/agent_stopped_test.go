package e2e

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

	"github.com/plexus-cni/plexus/rig/node"
)

// verbBound is how long a verb may take when the agent is stopped. Only a verb that
// waits for the agent takes longer.
const verbBound = 20 * time.Second

// bounded makes a request as a runtime does that gives up after verbBound.
func (s *site) bounded(r request) ([]byte, error) {
	s.t.Helper()
	if r.ifName == "" {
		r.ifName = "eth0"
	}
	config := s.conf
	if r.conf != nil {
		config = r.conf
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), verbBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir(s.t), s.as))
	cmd.Env, cmd.Stdin, cmd.WaitDelay = s.environ(r), bytes.NewReader(config), time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	began := time.Now()
	err := cmd.Run()
	s.t.Logf("%s of %s took %v", r.verb, r.sandbox, time.Since(began).Round(time.Millisecond))
	if ctx.Err() != nil {
		s.t.Fatalf("%s still waits for a stopped agent after %v", r.verb, verbBound)
	}
	if err == nil {
		return out.Bytes(), nil
	}
	failed := &cniError{}
	if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
		return nil, fmt.Errorf("%s: %w: no CNI error: %q", r.verb, err, out.String())
	}
	return nil, failed
}

// signal sends the agent a signal. After SIGSTOP it returns when the agent has stopped.
func (a *agentProcess) signal(what syscall.Signal) {
	a.t.Helper()
	must(a.t, a.cmd.Process.Signal(what))
	if what == syscall.SIGSTOP {
		a.stopped()
	}
}

// stopped waits until the kernel has stopped the agent.
func (a *agentProcess) stopped() {
	a.t.Helper()
	ctx := deadline(a.t)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
		must(a.t, err)
		if strings.Contains(string(stat), ") T ") {
			return
		}
		select {
		case <-ctx.Done():
			a.t.Fatal("the agent is not stopped")
		case <-time.After(time.Millisecond):
		}
	}
}

// finish ends the agent, which answers before what it has begun.
func (a *agentProcess) finish() {
	a.t.Helper()
	a.signal(syscall.SIGTERM)
	select {
	case <-a.ended:
	case <-deadline(a.t).Done():
		a.t.Fatal("the agent does not end")
	}
}

// history is what the agent tells of a sandbox.
func (a *agentProcess) history(sandbox string) string {
	a.t.Helper()
	out, err := exec.CommandContext(a.t.Context(), filepath.Join(binDir(a.t), "plexusctl"), "history", "-o", "json", "--socket", a.socket).Output()
	must(a.t, err)
	var all []struct{ Verb, Sandbox string }
	decode(a.t, out, &all)
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
	s, socket, _ := agentSite(t)
	p, q := newPod(t, "two"), newPod(t, "late")
	s.pod("late", "second")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, p, "two") // makes what stays
	s.mustDel(agentSandbox, p, "two")
	before, inside, late := apart(s.world(nil)), links(t, p), links(t, q)
	s.mustAdd(agentSandbox, p, "two")
	a.signal(syscall.SIGSTOP)
	until := time.Now().Add(20 * time.Second)

	const other = "fedcba9876543210"
	_, err := s.bounded(request{verb: "STATUS"})
	hasCode(t, err, 50)
	says(t, err, socket)
	_, err = s.bounded(request{verb: "CHECK", sandbox: agentSandbox, netns: p.Path(), pod: "two"})
	must(t, err)
	_, err = s.bounded(request{verb: "ADD", sandbox: other, netns: q.Path(), pod: "late"})
	must(t, err)
	if have := links(t, q); !strings.Contains(have, "eth0") || !strings.Contains(have, "net1") {
		t.Errorf("plexusd has not wired the pod:\n%s", have)
	}
	_, err = s.bounded(request{verb: "DEL", sandbox: other, netns: q.Path(), pod: "late"})
	must(t, err)
	noOne := s.withConf(map[string]any{"manifests": nil})
	_, err = noOne.bounded(request{verb: "ADD", sandbox: other, netns: q.Path(), pod: "late"})
	hasCode(t, err, 11)
	says(t, err, socket)
	_, err = s.bounded(request{verb: "GC", conf: changed(t, s.conf, map[string]any{"cni.dev/valid-attachments": []any{map[string]any{"containerID": agentSandbox, "ifname": "eth0"}}})})
	must(t, err)
	_, err = s.bounded(request{verb: "DEL", sandbox: agentSandbox, netns: p.Path(), pod: "two"})
	must(t, err)
	sameWorld(t, inside, links(t, p))
	sameWorld(t, late, links(t, q))

	out, err := exec.CommandContext(deadline(t), filepath.Join(binDir(t), "plexusctl"), "nodes", "--socket", socket).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "does not answer") {
		t.Errorf("plexusctl nodes: %v: %s", err, out)
	}
	<-time.After(time.Until(until)) // the length of the stop is what is tried, not what is waited for
	a.signal(syscall.SIGCONT)
	out2, err := s.bounded(request{verb: "STATUS"})
	if err != nil {
		t.Errorf("the agent goes on, and does not serve: %v %s", err, out2)
	}
	if verbs := a.history(other); verbs != "" {
		t.Errorf("the agent has begun what plexusd has done: %s", verbs)
	}
	a.finish()
	sameWorld(t, before, apart(s.world(nil)))
	sameWorld(t, inside, links(t, p))
	sameWorld(t, late, links(t, q))
	if left, err := os.ReadDir(filepath.Join(s.dataDir, "sandboxes")); err != nil || len(left) > 0 {
		t.Errorf("journal: %v %v", left, err)
	}
}

// ADD, then DEL, of one sandbox while the agent is stopped, over and over, by many at
// once: whatever the moment at which the agent goes on, nothing is wired at the end.
func TestStoppedAgentBeginsNothingLate(t *testing.T) {
	s, socket, _ := agentSite(t)
	var pods []*node.Pod
	var inside []string
	for i := range 4 {
		p := newPod(t, fmt.Sprintf("late%d", i))
		pods, inside = append(pods, p), append(inside, links(t, p))
	}
	a := s.serve(socket)
	noOne := s.withConf(map[string]any{"manifests": nil})
	for _, round := range []time.Duration{0, 1450 * time.Millisecond, 1495 * time.Millisecond, 1500 * time.Millisecond, 1505 * time.Millisecond, 1550 * time.Millisecond} {
		a.signal(syscall.SIGSTOP)
		ended := make(chan error, len(pods))
		for i, p := range pods {
			go func() {
				r := request{sandbox: fmt.Sprintf("%s%d", agentSandbox, i), netns: p.Path(), pod: fmt.Sprintf("late%d", i), ifName: "eth0"}
				r.verb = "ADD"
				_, _, _ = noOne.call(r) // by the agent or not at all
				r.verb = "DEL"
				_, _, err := s.call(r)
				ended <- err
			}()
		}
		if round > 0 {
			<-time.After(round) // about when plexus gives up: each side of that moment is right
			a.signal(syscall.SIGCONT)
		}
		ctx := deadline(t)
		for range pods {
			select {
			case err := <-ended:
				must(t, err)
			case <-ctx.Done():
				t.Fatal("ADD or DEL never ends")
			}
		}
		a.signal(syscall.SIGCONT)
		a.finish()
		if left, err := filepath.Glob(filepath.Join(s.dataDir, "sandboxes", "*")); err != nil || len(left) > 0 {
			t.Errorf("%v: journal: %v %v", round, left, err)
		}
		for i, p := range pods {
			sameWorld(t, inside[i], links(t, p))
		}
		a = s.serve(socket)
	}
}

// The agent is stopped in the middle of an ADD that it has confirmed, and holds the lock
// of the sandbox. Other pods are wired and unwired, verbs of that sandbox say to try
// again, and the ADD goes on with the agent.
func TestStoppedAgentHoldsASandbox(t *testing.T) {
	s, socket, _ := agentSite(t)
	dir := filepath.Join(s.dir, "stoppers")
	must(t, os.Mkdir(dir, 0o755))
	script := `#!/bin/sh
cat >/dev/null
[ "$CNI_COMMAND" = ADD ] && [ ! -e "$(dirname "$0")/done" ] && : > "$(dirname "$0")/done" && kill -STOP $PPID
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "1.1.0"}'
exit 0
`
	must(t, os.WriteFile(filepath.Join(dir, "stopper"), []byte(script), 0o755))
	s.path += ":" + dir
	s.nad("stop", map[string]any{"cniVersion": "1.1.0", "name": "stop", "type": "stopper"})
	s.pod("held", "stop")
	s.pod("free", "second")
	held, free := newPod(t, "held"), newPod(t, "free")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, free, "free") // makes what stays
	s.mustDel(agentSandbox, free, "free")
	before, inside := apart(without(s.world(nil), "/stoppers/")), links(t, held)

	added := make(chan error, 1)
	go func() {
		_, _, err := s.call(request{verb: "ADD", sandbox: agentSandbox, netns: held.Path(), pod: "held"})
		added <- err
	}()
	a.stopped()
	const other = "fedcba9876543210"
	_, err := s.bounded(request{verb: "ADD", sandbox: other, netns: free.Path(), pod: "free"})
	must(t, err)
	_, err = s.bounded(request{verb: "CHECK", sandbox: other, netns: free.Path(), pod: "free"})
	must(t, err)
	_, err = s.bounded(request{verb: "DEL", sandbox: other, netns: free.Path(), pod: "free"})
	must(t, err)
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		_, err = s.bounded(request{verb: verb, sandbox: agentSandbox, netns: held.Path(), pod: "held"})
		hasCode(t, err, 11)
	}
	a.signal(syscall.SIGCONT)
	select {
	case err := <-added:
		must(t, err)
	case <-deadline(t).Done():
		t.Fatal("the confirmed ADD never ends")
	}
	s.mustCheck(agentSandbox, held, "held")
	s.mustDel(agentSandbox, held, "held")
	a.finish()
	sameWorld(t, before, apart(without(s.world(nil), "/stoppers/")))
	sameWorld(t, inside, links(t, held))
}
