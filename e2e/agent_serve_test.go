package e2e

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

	"github.com/plexus-cni/plexus/rig/node"
)

// agentProcess is plexusd serve, without an API server.
type agentProcess struct {
	t      testing.TB
	s      *site
	cmd    *exec.Cmd
	log    bytes.Buffer
	ended  chan struct{}
	socket string
}

// serve starts the agent of a site whose configuration names its socket, and
// returns when it answers.
func (s *site) serve(socket string) *agentProcess {
	s.t.Helper()
	a := s.start(socket)
	ctx := deadline(s.t)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			fmt.Fprint(conn, "GET /readyz HTTP/1.0\r\n\r\n")
			text, _ := io.ReadAll(conn)
			_ = conn.Close()
			if bytes.HasPrefix(text, []byte("HTTP/1.0 200")) {
				return a
			}
		}
		select {
		case <-a.ended:
			s.t.Fatalf("the agent ended: %s", &a.log)
		case <-ctx.Done():
			s.t.Fatal("the agent does not answer")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// start starts the agent and waits for nothing.
func (s *site) start(socket string) *agentProcess {
	a := &agentProcess{t: s.t, s: s, ended: make(chan struct{}), socket: socket}
	a.cmd = exec.Command(filepath.Join(binDir(s.t), "plexusd"), "serve", "--standalone", "--socket", socket, "--data-dir", s.dataDir, "--node", "n")
	a.cmd.Stderr = &a.log
	must(s.t, a.cmd.Start())
	go func() { _ = a.cmd.Wait(); close(a.ended) }()
	s.t.Cleanup(a.kill)
	return a
}

func (a *agentProcess) kill() {
	_ = a.cmd.Process.Kill()
	<-a.ended
}

// agentSite has a pod of three networks by executables, whose agent is at the
// socket. The plugin killer stands between the others: when its file told has the
// number of an execution, that one ends its parent.
func agentSite(t testing.TB) (s *site, socket string, told func(at int)) {
	t.Helper()
	s = newSite(t, nil)
	dir := filepath.Join(s.dir, "killers")
	must(t, os.Mkdir(dir, 0o755))
	// It passes prevResult on, which is the last key of what it gets or none.
	script := `#!/bin/sh
dir=$(dirname "$0")
config=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME" >> "$dir/count"
if [ "$(cat "$dir/told")" = "$(wc -l < "$dir/count")" ]; then
	kill -9 $PPID
	exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
case $config in
*'"prevResult":'*) printf '%s' "$config" | sed 's/.*"prevResult":\({.*}\),"type".*/\1/' ;;
*) echo '{"cniVersion": "1.1.0"}' ;;
esac
`
	must(t, os.WriteFile(filepath.Join(dir, "killer"), []byte(script), 0o755))
	writeFile(t, filepath.Join(dir, "told"), "none")
	writeFile(t, filepath.Join(dir, "count"), "")
	socket = filepath.Join(s.dir, "a.sock")
	s.path += ":" + dir
	killer := map[string]any{"type": "killer"}
	list := func(name string, main map[string]any) map[string]any {
		return map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{killer, main, killer}}
	}
	s = s.withConf(map[string]any{"agent": map[string]any{"socket": socket}, "confDir": nil, "delegates": []any{
		list("cluster", plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipam": s.hostLocal("10.244.0.0/16")}))}})
	s.nad("second", list("second", plugin("ptp", map[string]any{"ipam": s.hostLocal("10.65.0.0/24")})))
	s.pod("two", "second")
	told = func(at int) {
		writeFile(t, filepath.Join(dir, "count"), "")
		writeFile(t, filepath.Join(dir, "told"), fmt.Sprint(at))
	}
	return s, socket, told
}

// apart are lines of a world that are the agent's or the killer's own.
func apart(world string) string {
	return without(without(world, "a.sock"), "/killers/")
}

const agentSandbox = "abcdef0123456789"

// The agent is killed whenever a plugin runs, and started again while plexus
// waits: the same process gets its answer, all that it names is there, and DEL,
// under which the agent is killed as well, leaves nothing.
func TestAgentKilledAtEveryPlugin(t *testing.T) {
	s, socket, told := agentSite(t)
	p := newPod(t, "two")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	before, inside := apart(s.world(nil)), links(t, p)
	for _, verb := range []string{"ADD", "DEL"} {
		for at := 1; ; at++ {
			if verb == "DEL" {
				s.mustAdd(agentSandbox, p, "two")
			}
			told(at)
			type answered struct {
				out []byte
				err error
			}
			done := make(chan answered, 1)
			go func() {
				out, _, err := s.call(request{verb: verb, sandbox: agentSandbox, netns: p.Path(), pod: "two"})
				done <- answered{out, err}
			}()
			killed := false
			var got answered
			select {
			case <-a.ended:
				killed = true
				a = s.serve(socket)
				got = <-done
			case got = <-done:
			}
			told(0)
			if got.err != nil {
				t.Fatalf("%s, killed at plugin %d: %v\n%s", verb, at, got.err, &a.log)
			}
			if verb == "ADD" {
				var result struct{ IPs []struct{ Address string } }
				decode(t, got.out, &result)
				have := links(t, p)
				if len(result.IPs) != 2 || !strings.Contains(have, "addr eth0 "+result.IPs[0].Address) || !strings.Contains(have, "addr net1 "+result.IPs[1].Address) {
					t.Errorf("killed at plugin %d: answered %s, there is\n%s", at, got.out, have)
				}
				s.mustCheck(agentSandbox, p, "two")
				s.mustDel(agentSandbox, p, "two")
			}
			sameWorld(t, before, apart(s.world(nil)))
			sameWorld(t, inside, links(t, p))
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
	s, socket, told := agentSite(t)
	p := newPod(t, "two")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	before, inside := apart(s.world(nil)), links(t, p)
	for _, at := range []int{2, 4} {
		told(at)
		err := s.del("other", nil, "two") // which the killer does not hear of
		must(t, err)
		_, err = s.add(agentSandbox, p, "two")
		hasCode(t, err, 11)
		says(t, err, socket, "plexusd serve")
		<-a.ended
		told(0)
		s.mustDel(agentSandbox, p, "two")
		s.mustDel(agentSandbox, p, "two")
		sameWorld(t, before, apart(s.world(nil)))
		sameWorld(t, inside, links(t, p))
		a = s.serve(socket)
	}
	a.kill()
	_, _, err := s.call(request{verb: "STATUS"})
	hasCode(t, err, 50)
	says(t, err, socket)
	a = s.serve(socket)
	_, _, err = s.call(request{verb: "STATUS"})
	must(t, err)
	s.mustAdd(agentSandbox, p, "two")
	a.kill()
	s.mustCheck(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	sameWorld(t, before, apart(s.world(nil)))
}

// wire makes a request as plexus does, with an ID, and returns what the agent
// answers.
func (a *agentProcess) wire(ctx context.Context, id string, r request) (status int, stdout string, err error) {
	pairs := append([]string{"version=1", "id=" + id, "as=plexus"}, slices.DeleteFunc(a.s.environ(r), func(pair string) bool { return !strings.HasPrefix(pair, "CNI_") })...)
	body := strings.Join(pairs, "\x00") + "\x00\x00" + string(a.s.conf)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
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
	s, socket, _ := agentSite(t)
	p := newPod(t, "two")
	a := s.serve(socket)
	add := request{verb: "ADD", sandbox: agentSandbox, netns: p.Path(), ifName: "eth0", pod: "two"}
	status, first, err := a.wire(deadline(t), "one", add)
	must(t, err)
	if status != 0 {
		t.Fatal(first)
	}
	inside := links(t, p)
	for range 3 {
		a.kill()
		a = s.serve(socket)
		status, again, err := a.wire(deadline(t), "one", add)
		must(t, err)
		if status != 0 || again != first {
			t.Errorf("again: %d %s\nfirst: %s", status, again, first)
		}
		if status, text, err := a.wire(deadline(t), "two", add); err != nil || status == 0 || !strings.Contains(text, "is attached") {
			t.Errorf("another request: %d %s %v", status, text, err)
		}
		if status, text, err := a.wire(deadline(t), "", add); err != nil || status == 0 {
			t.Errorf("a request without an ID: %d %s %v", status, text, err)
		}
		sameWorld(t, inside, links(t, p))
	}
	s.mustDel(agentSandbox, p, "two")
}

// The runtime gives up and kills plexus in the middle of ADD: the agent undoes
// what is there.
func TestPlexusKilledInTheMiddle(t *testing.T) {
	s, socket, _ := agentSite(t)
	dir := filepath.Join(s.dir, "blockers")
	must(t, os.Mkdir(dir, 0o755))
	s.path += ":" + dir
	begun := filepath.Join(dir, "begun")
	must(t, unix.Mkfifo(begun, 0o600))
	// It waits until it is killed: ADD's context ends with plexus.
	must(t, os.WriteFile(filepath.Join(dir, "blocker"), []byte("#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\necho x > "+begun+"\nexec sleep 600\n"), 0o755))
	s.nad("third", map[string]any{"cniVersion": "1.1.0", "name": "third", "plugins": []any{map[string]any{"type": "blocker"}}})
	s.pod("three", "second, third")
	p := newPod(t, "three")
	a := s.serve(socket)
	s.mustAdd(agentSandbox, p, "two")
	s.mustDel(agentSandbox, p, "two")
	before, inside := apart(s.world(nil)), links(t, p)
	for range 3 {
		cmd := exec.Command(filepath.Join(binDir(t), "plexus"))
		cmd.Env = s.environ(request{verb: "ADD", sandbox: agentSandbox, netns: p.Path(), ifName: "eth0", pod: "three"})
		cmd.Stdin = bytes.NewReader(s.conf)
		must(t, cmd.Start())
		_ = readFile(t, begun)
		if have := links(t, p); !strings.Contains(have, "eth0") || !strings.Contains(have, "net1") {
			t.Errorf("nothing is there to undo:\n%s", have)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		ctx := deadline(t)
		for len(s.journalled(agentSandbox)) > 0 && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond) // the journal cannot be waited for
		}
		sameWorld(t, before, apart(s.world(nil)))
		sameWorld(t, inside, links(t, p))
		if t.Failed() {
			t.Fatalf("%s", &a.log)
		}
	}
}

// An agent that is told to end in the middle of ADD takes no request any more, answers
// that one, and ends.
func TestAgentEndsInTheMiddle(t *testing.T) {
	s, socket, _ := agentSite(t)
	dir := filepath.Join(s.dir, "slow")
	must(t, os.Mkdir(dir, 0o755))
	s.path += ":" + dir
	begun, goOn := filepath.Join(dir, "begun"), filepath.Join(dir, "goOn")
	must(t, unix.Mkfifo(begun, 0o600))
	must(t, unix.Mkfifo(goOn, 0o600))
	script := "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\necho x > " + begun + "\nread x < " + goOn + "\necho '{\"cniVersion\": \"1.1.0\"}'\n"
	must(t, os.WriteFile(filepath.Join(dir, "slow"), []byte(script), 0o755))
	s.nad("third", map[string]any{"cniVersion": "1.1.0", "name": "third", "plugins": []any{map[string]any{"type": "slow"}}})
	s.pod("three", "second, third")
	p := newPod(t, "three")
	a := s.serve(socket)
	cmd := exec.Command(filepath.Join(binDir(t), "plexus"))
	cmd.Env = s.environ(request{verb: "ADD", sandbox: agentSandbox, netns: p.Path(), ifName: "eth0", pod: "three"})
	cmd.Stdin = bytes.NewReader(s.conf)
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, cmd.Start())
	_ = readFile(t, begun)
	must(t, a.cmd.Process.Signal(syscall.SIGTERM))
	ctx := deadline(t)
	for ctx.Err() == nil {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(5 * time.Millisecond) // the end of listening cannot be waited for
	}
	select {
	case <-a.ended:
		t.Errorf("it ended before it had answered: %s", &a.log)
	default:
	}
	must(t, os.WriteFile(goOn, []byte("x\n"), 0))
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "eth0") {
		t.Errorf("%v %s\n%s", err, &out, &a.log)
	}
	<-a.ended
	s.serve(socket)
	s.mustDel(agentSandbox, p, "three")
}

// Configurations of every length reach plexusd when the agent is away, to the
// last byte.
func TestLongConfigurations(t *testing.T) {
	longConfigurations(t, 64<<10-1, 64<<10, 64<<10+1, 128<<10, 1<<20-1, 1<<20)
}

func longConfigurations(t *testing.T, lengths ...int) {
	s, _, _ := agentSite(t)
	for _, length := range lengths {
		text := append([]byte{}, s.conf...)
		text = append(text, bytes.Repeat([]byte(" "), length-len(text))...)
		if _, _, err := s.call(request{verb: "DEL", sandbox: agentSandbox, pod: "two", conf: text}); err != nil {
			t.Errorf("%d bytes: %v", length, err)
		}
		text[length-1] = 'x' // the last byte is heard
		_, _, err := s.call(request{verb: "DEL", sandbox: agentSandbox, pod: "two", conf: text})
		says(t, err, "configuration")
	}
}

// The agent is killed at any time, over and over, while pods come and go: none
// leaves anything.
func TestAgentKilledAnyTime(t *testing.T) {
	s, socket, _ := agentSite(t)
	var pods []*node.Pod
	for i := range 4 {
		pods = append(pods, newPod(t, fmt.Sprintf("any%d", i)))
	}
	a := s.serve(socket)
	s.mustAdd(agentSandbox, pods[0], "two")
	s.mustDel(agentSandbox, pods[0], "two")
	before := apart(s.world(nil))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+37*i%200) * time.Millisecond): // the time is the fault
			}
			_ = syscall.Kill(a.cmd.Process.Pid, syscall.SIGKILL)
			<-a.ended
			a = s.start(socket)
		}
	}()
	for round := range 6 {
		errs := make(chan error, len(pods))
		for i, p := range pods {
			go func() {
				id := fmt.Sprintf("%012x", 0xa000+i)
				_, err := s.add(id, p, "two")
				var failed *cniError
				if errors.As(err, &failed) && failed.Code == 11 {
					err = nil
				}
				errs <- errors.Join(err, s.del(id, p, "two"))
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
	a.kill()
	for i, p := range pods { // orphans of a killed agent may have been at work
		must(t, s.del(fmt.Sprintf("%012x", 0xa000+i), p, "two"))
	}
	ctx := deadline(t)
	for ctx.Err() == nil && strings.Count(apart(s.world(nil)), "kind=veth") > strings.Count(before, "kind=veth") {
		time.Sleep(5 * time.Millisecond) // the kernel removes the other end late
	}
	sameWorld(t, before, apart(s.world(nil)))
}
