package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// The agent is killed whenever a plugin runs, and started again while plexus
// waits: the same process gets its answer, all that it names is there, and DEL,
// under which the agent is killed as well, leaves nothing.
func TestAgentKilledAtEveryPlugin(t *testing.T) {
	s, socket, told := site.NewKiller(t)
	p := site.NewPod(t, "two")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	before, inside := site.Apart(s.World(nil)), site.Links(t, p)
	for _, verb := range []string{"ADD", "DEL"} {
		for at := 1; ; at++ {
			if verb == "DEL" {
				s.MustAdd(site.AgentSandbox, p, "two")
			}
			told(at)
			type answered struct {
				out []byte
				err error
			}
			done := make(chan answered, 1)
			go func() {
				out, _, err := s.Call(site.Request{Verb: verb, Sandbox: site.AgentSandbox, Netns: p.Path(), Pod: "two"})
				done <- answered{out, err}
			}()
			killed := false
			var got answered
			select {
			case <-a.Done():
				killed = true
				a = s.Serve(socket)
				got = <-done
			case got = <-done:
			}
			told(0)
			if got.err != nil {
				t.Fatalf("%s, killed at plugin %d: %v\n%s", verb, at, got.err, a.Tail())
			}
			if verb == "ADD" {
				var result struct{ IPs []struct{ Address string } }
				must.Decode(t, got.out, &result)
				have := site.Links(t, p)
				if len(result.IPs) != 2 || !strings.Contains(have, "addr eth0 "+result.IPs[0].Address) || !strings.Contains(have, "addr net1 "+result.IPs[1].Address) {
					t.Errorf("killed at plugin %d: answered %s, there is\n%s", at, got.out, have)
				}
				s.MustCheck(site.AgentSandbox, p, "two")
				s.MustDel(site.AgentSandbox, p, "two")
			}
			site.SameWorld(t, before, site.Apart(s.World(nil)))
			site.SameWorld(t, inside, site.Links(t, p))
			if t.Failed() {
				t.Fatalf("%s, killed at plugin %d", verb, at)
			}
			if !killed {
				t.Logf("%s: killed at %d plugins", verb, at-1)
				break
			}
		}
	}
}

// The agent is killed and stays away: ADD says to try again, DEL by plexusd
// undoes what was begun.
func TestAgentKilledForGood(t *testing.T) {
	s, socket, told := site.NewKiller(t)
	p := site.NewPod(t, "two")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	before, inside := site.Apart(s.World(nil)), site.Links(t, p)
	for _, at := range []int{2, 4} {
		told(at)
		err := s.Del("other", nil, "two") // which the killer does not hear of
		must.Do(t, err)
		_, err = s.Add(site.AgentSandbox, p, "two")
		site.HasCode(t, err, 11)
		site.Says(t, err, socket, "plexusd serve")
		<-a.Done()
		told(0)
		s.MustDel(site.AgentSandbox, p, "two")
		s.MustDel(site.AgentSandbox, p, "two")
		site.SameWorld(t, before, site.Apart(s.World(nil)))
		site.SameWorld(t, inside, site.Links(t, p))
		a = s.Serve(socket)
	}
	a.Kill()
	_, _, err := s.Call(site.Request{Verb: "STATUS"})
	site.HasCode(t, err, 50)
	site.Says(t, err, socket)
	a = s.Serve(socket)
	_, _, err = s.Call(site.Request{Verb: "STATUS"})
	must.Do(t, err)
	s.MustAdd(site.AgentSandbox, p, "two")
	a.Kill()
	s.MustCheck(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	site.SameWorld(t, before, site.Apart(s.World(nil)))
}

// wire makes a request as plexus does, with an ID, and returns what the agent
// answers.
func wire(a *site.Agent, ctx context.Context, id string, r site.Request) (status int, stdout string, err error) {
	pairs := append([]string{"version=1", "id=" + id, "as=plexus"}, slices.DeleteFunc(a.S.Environ(r), func(pair string) bool { return !strings.HasPrefix(pair, "CNI_") })...)
	body := strings.Join(pairs, "\x00") + "\x00\x00" + string(a.S.Conf)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	fmt.Fprintf(conn, "POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", err
	}
	head, stdout, _ := strings.Cut(string(answer), "\x00\x00")
	_, err = fmt.Sscanf(head, "version=1\x00status=%d", &status)
	return status, stdout, err
}

// The answer of an ADD that was done is lost, the agent killed: the same request
// gets it from the next agent, to the byte; another one is refused.
func TestAnswerLost(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	p := site.NewPod(t, "two")
	a := s.Serve(socket)
	add := site.Request{Verb: "ADD", Sandbox: site.AgentSandbox, Netns: p.Path(), IfName: "eth0", Pod: "two"}
	status, first, err := wire(a, must.Deadline(t), "one", add)
	must.Do(t, err)
	if status != 0 {
		t.Fatal(first)
	}
	inside := site.Links(t, p)
	for range 3 {
		a.Kill()
		a = s.Serve(socket)
		status, again, err := wire(a, must.Deadline(t), "one", add)
		must.Do(t, err)
		if status != 0 || again != first {
			t.Errorf("again: %d %s\nfirst: %s", status, again, first)
		}
		if status, text, err := wire(a, must.Deadline(t), "two", add); err != nil || status == 0 || !strings.Contains(text, "is attached") {
			t.Errorf("another request: %d %s %v", status, text, err)
		}
		if status, text, err := wire(a, must.Deadline(t), "", add); err != nil || status == 0 {
			t.Errorf("a request without an ID: %d %s %v", status, text, err)
		}
		site.SameWorld(t, inside, site.Links(t, p))
	}
	s.MustDel(site.AgentSandbox, p, "two")
}

// The runtime gives up and kills plexus in the middle of ADD: the agent undoes
// what is there.
func TestPlexusKilledInTheMiddle(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	dir := filepath.Join(s.Dir, "blockers")
	must.Do(t, os.Mkdir(dir, 0o755))
	s.Path += ":" + dir
	begun := filepath.Join(dir, "begun")
	must.Do(t, unix.Mkfifo(begun, 0o600))
	// It waits until it is killed: ADD's context ends with plexus.
	must.Do(t, os.WriteFile(filepath.Join(dir, "blocker"), []byte("#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\necho x > "+begun+"\nexec sleep 600\n"), 0o755))
	s.NAD("third", map[string]any{"cniVersion": "1.1.0", "name": "third", "plugins": []any{map[string]any{"type": "blocker"}}})
	s.Pod("three", "second, third")
	p := site.NewPod(t, "three")
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, p, "two")
	s.MustDel(site.AgentSandbox, p, "two")
	before, inside := site.Apart(s.World(nil)), site.Links(t, p)
	for range 3 {
		cmd := exec.Command(filepath.Join(site.BinDir(t), "plexus"))
		cmd.Env = s.Environ(site.Request{Verb: "ADD", Sandbox: site.AgentSandbox, Netns: p.Path(), IfName: "eth0", Pod: "three"})
		cmd.Stdin = bytes.NewReader(s.Conf)
		must.Do(t, cmd.Start())
		_ = must.ReadFile(t, begun)
		if have := site.Links(t, p); !strings.Contains(have, "eth0") || !strings.Contains(have, "net1") {
			t.Errorf("nothing is there to undo:\n%s", have)
		}
		must.Do(t, cmd.Process.Kill())
		_ = cmd.Wait()
		ctx := must.Deadline(t)
		for len(journalled(s, site.AgentSandbox)) > 0 && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond) // the journal cannot be waited for
		}
		site.SameWorld(t, before, site.Apart(s.World(nil)))
		site.SameWorld(t, inside, site.Links(t, p))
		if t.Failed() {
			t.Fatalf("%s", a.Tail())
		}
	}
}

// An agent that is told to end in the middle of ADD takes no request any more, answers
// that one, and ends.
func TestAgentEndsInTheMiddle(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	dir := filepath.Join(s.Dir, "slow")
	must.Do(t, os.Mkdir(dir, 0o755))
	s.Path += ":" + dir
	begun, goOn := filepath.Join(dir, "begun"), filepath.Join(dir, "goOn")
	must.Do(t, unix.Mkfifo(begun, 0o600))
	must.Do(t, unix.Mkfifo(goOn, 0o600))
	script := "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\necho x > " + begun + "\nread x < " + goOn + "\necho '{\"cniVersion\": \"1.1.0\"}'\n"
	must.Do(t, os.WriteFile(filepath.Join(dir, "slow"), []byte(script), 0o755))
	s.NAD("third", map[string]any{"cniVersion": "1.1.0", "name": "third", "plugins": []any{map[string]any{"type": "slow"}}})
	s.Pod("three", "second, third")
	p := site.NewPod(t, "three")
	a := s.Serve(socket)
	cmd := exec.Command(filepath.Join(site.BinDir(t), "plexus"))
	cmd.Env = s.Environ(site.Request{Verb: "ADD", Sandbox: site.AgentSandbox, Netns: p.Path(), IfName: "eth0", Pod: "three"})
	cmd.Stdin = bytes.NewReader(s.Conf)
	var out bytes.Buffer
	cmd.Stdout = &out
	must.Do(t, cmd.Start())
	_ = must.ReadFile(t, begun)
	must.Do(t, a.Process.Signal(syscall.SIGTERM))
	ctx := must.Deadline(t)
	for ctx.Err() == nil {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(5 * time.Millisecond) // the end of listening cannot be waited for
	}
	select {
	case <-a.Done():
		t.Errorf("it ended before it had answered: %s", a.Tail())
	default:
	}
	must.Do(t, os.WriteFile(goOn, []byte("x\n"), 0))
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "eth0") {
		t.Errorf("%v %s\n%s", err, &out, a.Tail())
	}
	<-a.Done()
	s.Serve(socket)
	s.MustDel(site.AgentSandbox, p, "three")
}

// Configurations of every length reach plexusd when the agent is away, to the
// last byte.
func TestLongConfigurations(t *testing.T) {
	longConfigurations(t, 64<<10-1, 64<<10, 64<<10+1, 128<<10, 1<<20-1, 1<<20)
}

func longConfigurations(t *testing.T, lengths ...int) {
	s, _, _ := site.NewKiller(t)
	for _, length := range lengths {
		text := append([]byte{}, s.Conf...)
		text = append(text, bytes.Repeat([]byte(" "), length-len(text))...)
		if _, _, err := s.Call(site.Request{Verb: "DEL", Sandbox: site.AgentSandbox, Pod: "two", Conf: text}); err != nil {
			t.Errorf("%d bytes: %v", length, err)
		}
		text[length-1] = 'x' // the last byte is heard
		_, _, err := s.Call(site.Request{Verb: "DEL", Sandbox: site.AgentSandbox, Pod: "two", Conf: text})
		site.Says(t, err, "configuration")
	}
}

// The agent is killed at any time, over and over, while pods come and go: none
// leaves anything.
func TestAgentKilledAnyTime(t *testing.T) {
	s, socket, _ := site.NewKiller(t)
	var pods []*node.Pod
	for i := range 4 {
		pods = append(pods, site.NewPod(t, fmt.Sprintf("any%d", i)))
	}
	a := s.Serve(socket)
	s.MustAdd(site.AgentSandbox, pods[0], "two")
	s.MustDel(site.AgentSandbox, pods[0], "two")
	before := site.Apart(s.World(nil))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+37*i%200) * time.Millisecond): // the time is the fault
			}
			_ = syscall.Kill(a.PID(), syscall.SIGKILL)
			<-a.Done()
			a = s.Start(socket)
		}
	}()
	for round := range 6 {
		errs := make(chan error, len(pods))
		for i, p := range pods {
			go func() {
				id := fmt.Sprintf("%012x", 0xa000+i)
				_, err := s.Add(id, p, "two")
				var failed *site.Error
				if errors.As(err, &failed) && failed.Code == 11 {
					err = nil
				}
				errs <- errors.Join(err, s.Del(id, p, "two"))
			}()
		}
		for range pods {
			if err := <-errs; err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
	}
	close(stop)
	<-stopped
	a.Kill()
	for i, p := range pods { // orphans of a killed agent may have been at work
		must.Do(t, s.Del(fmt.Sprintf("%012x", 0xa000+i), p, "two"))
	}
	ctx := must.Deadline(t)
	for ctx.Err() == nil && strings.Count(site.Apart(s.World(nil)), "kind=veth") > strings.Count(before, "kind=veth") {
		time.Sleep(5 * time.Millisecond) // the kernel removes the other end late
	}
	site.SameWorld(t, before, site.Apart(s.World(nil)))
}
