package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
)

// bound is what a test waits for at most; it is no measure.
func bound(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// running is an agent of a test, without an API server.
type running struct {
	t      testing.TB
	socket string
	data   string
	log    *logged
	stop   func() error // ends it, and says how
}

// logged is a log that is read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serveAt lets an agent serve a socket and returns when it does.
func serveAt(t testing.TB, socket, data string) *running {
	t.Helper()
	log := &logged{}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Serve(ctx, Settings{
			Socket: socket, DataDir: data, ConfDir: filepath.Join(data, "net.d"), Standalone: true, Node: "n",
			Reconcile: time.Hour, Grace: time.Hour, Log: slog.New(slog.NewTextHandler(log, nil)), Stderr: io.Discard,
		}, func() { close(ready) })
	}()
	stop := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the agent ends: %v\n%s", err, log)
	case <-bound(t).Done():
		t.Fatalf("the agent does not serve\n%s", log)
	}
	return &running{t: t, socket: socket, data: data, log: log, stop: stop}
}

func serving(t testing.TB) *running {
	t.Helper()
	dir := t.TempDir()
	return serveAt(t, filepath.Join(dir, "a.sock"), filepath.Join(dir, "data"))
}

// dial is a connection to the agent, which ends with the test.
func (a *running) dial() net.Conn {
	a.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(bound(a.t), "unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// say sends a text as it is and returns all that comes back.
func (a *running) say(text string) string {
	a.t.Helper()
	conn := a.dial()
	_, _ = io.WriteString(conn, text) // the agent may have had enough before the end
	_ = conn.(*net.UnixConn).CloseWrite()
	answer, _ := io.ReadAll(conn) // reset by a peer that had enough: what came is what counts
	return string(answer)
}

// serves wants that the agent answers VERSION, and has not panicked.
func (a *running) serves() {
	a.t.Helper()
	status, answer := a.post(asked("", "version=1", "id=x", "as=plexus", "CNI_COMMAND=VERSION"))
	if status != 200 || answer.Status != 0 || !strings.Contains(string(answer.Stdout), `"1.1.0"`) {
		a.t.Errorf("VERSION: %d %+v", status, answer)
	}
	if log := a.log.String(); strings.Contains(log, "panic") {
		a.t.Errorf("it panicked:\n%s", log)
	}
}

// asked is the body of a request.
func asked(stdin string, pairs ...string) string {
	return strings.Join(pairs, "\x00") + "\x00\x00" + stdin
}

// post is POST /v1/cni as plexus makes it.
func (a *running) post(body string) (int, CNIAnswer) {
	a.t.Helper()
	conn := a.dial()
	_, _ = io.WriteString(conn, plexusRequest(body)) // what is wrong with it the answer says
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		a.t.Fatalf("%v\n%s", err, a.log)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	if r.StatusCode != 200 {
		return r.StatusCode, CNIAnswer{}
	}
	return r.StatusCode, answered(a.t, data)
}

// answered reads the body of an answer.
func answered(t testing.TB, body []byte) CNIAnswer {
	t.Helper()
	var answer CNIAnswer
	pairs, stdout, whole := bytes.Cut(body, []byte("\x00\x00"))
	_, stderr, _ := strings.Cut(string(pairs), "\x00stderr=")
	if _, err := fmt.Sscanf(string(pairs), "version=1\x00status=%d", &answer.Status); err != nil || !whole {
		t.Fatalf("%v: %.300q", err, body)
	}
	answer.Stdout, answer.Stderr = stdout, stderr
	return answer
}

// ask is a request for people.
func (a *running) ask(method, path string) (int, string) {
	a.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socket)
	}}}
	request, err := http.NewRequestWithContext(bound(a.t), method, "http://agent"+path, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := client.Do(request)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return r.StatusCode, string(text)
}

// Later versions and keys that this agent does not know are served; a request
// without a version is refused, with a reason.
func TestVersionsOfRequests(t *testing.T) {
	a := serving(t)
	for _, body := range []string{
		asked("", "version=1", "CNI_COMMAND=VERSION"),
		asked("", "version=2", "CNI_COMMAND=VERSION", "new=x=y", "trace="),
		asked("", "version=99", "CNI_COMMAND=VERSION", "CNI_NEW=x"),
	} {
		if status, answer := a.post(body); status != 200 || answer.Status != 0 || !strings.Contains(string(answer.Stdout), "supportedVersions") {
			t.Errorf("%q: %d %+v", body, status, answer)
		}
	}
	for _, body := range []string{
		`{}`, ``, "\x00", "\x00\x00", "version=1", "version=1\x00", asked("", "CNI_COMMAND=VERSION"), asked("", "version=0"), asked("", "version=-1"), asked("", "version=x"),
		asked("", "version=99999999999999999999"), asked("", "version=1", "x"), asked("", "version=1\n"),
	} {
		text := a.say(fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if !strings.HasPrefix(text, "HTTP/1.0 400") || !strings.Contains(text, "request: ") {
			t.Errorf("%q: %q", body, text)
		}
	}
	a.serves()
}

// What is no request is refused or dropped, and the agent goes on.
func TestGarbageOnTheSocket(t *testing.T) {
	a := serving(t)
	long := strings.Repeat("x", 3<<20)
	for _, text := range []string{
		"", "\x00", "\n\n\n", "GET", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00", long,
		"POST /v1/cni HTTP/1.0\r\n", "POST /v1/cni HTTP/1.0\r\nContent-Length: x\r\n\r\n", "POST /v1/cni HTTP/1.0\r\nContent-Length: -1\r\n\r\n{}",
		"POST /v1/cni HTTP/1.0\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
		"POST /v1/cni HTTP/1.0\r\nContent-Length: 1000\r\n\r\n{\"version\":", "POST /v1/cni HTTP/1.0\r\nContent-Length: 3\r\n\r\n{\"version\": 1}",
		"POST /v1/cni HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "POST /v1/cni HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{",
		"GET /" + long + " HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nX: " + long + "\r\n\r\n",
		"PUT /v1/cni HTTP/1.0\r\n\r\n", "GET /v1/cni HTTP/1.0\r\n\r\n", "POST /v1/../v1/cni HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if answer := a.say(text); strings.HasPrefix(answer, "HTTP/1.0 200") {
			t.Errorf("%.80q: %.200q", text, answer)
		}
		a.serves()
	}
}

// A request of every length ends with an answer.
func TestHugeRequests(t *testing.T) {
	a := serving(t)
	for name, body := range map[string]string{
		"too long":     asked(strings.Repeat("x", maxBody), "version=1"),
		"a long key":   strings.Repeat("x", maxBody-1),
		"many pairs":   strings.Repeat("CNI_X=\x00", maxBody/8),
		"zeros":        strings.Repeat("\x00", maxBody),
		"an odd value": asked("", "version="+strings.Repeat("9", 1<<20)),
	} {
		text := a.say(fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if text != "" && !strings.HasPrefix(text, "HTTP/1.0 400") || len(text) > 1000 { // "": it had enough before the end, and reset
			t.Errorf("%s: %.300q", name, text)
		}
		a.serves()
	}
	// As long as one may be: the longest configuration, all the other keys beside it.
	for stdin, why := range map[string]string{
		strings.Repeat("<", maxStdin):         `"code": 7`,
		strings.Repeat("[", maxStdin):         `"code": 7`,
		strings.Repeat(" ", maxStdin+1):       "more than",
		`{"x": ` + strings.Repeat("[", 20000): `"code"`,
	} {
		status, answer := a.post(asked(stdin, "version=1", "as=plexus", "CNI_COMMAND=STATUS", "CNI_ARGS=K="+strings.Repeat("x", 128<<10)))
		if status != 200 || answer.Status != 1 || !strings.Contains(string(answer.Stdout), why) {
			t.Errorf("%.20q: %d %d %.300s", stdin, status, answer.Status, answer.Stdout)
		}
	}
}

// Bodies that never end, and connections that say nothing, keep nobody from
// being served, and do not keep the agent from ending.
func TestHalfRequests(t *testing.T) {
	a := serving(t)
	for i := range 200 {
		conn := a.dial()
		text := "POST /v1/cni HTTP/1.0\r\nContent-Length: 1000\r\n\r\nversion=1\x00CNI_COMMAND=VERSION\x00\x00"
		if _, err := io.WriteString(conn, text[:i*len(text)/200]); err != nil {
			t.Fatal(err)
		}
	}
	a.serves()
}

// Connections by the thousand: those above what the process may have wait, the
// agent answers when they have gone.
func TestManyConnections(t *testing.T) {
	a := serving(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	most := 10000
	if room := int(limit.Cur)/2 - 200; room < most { // both ends are this process'
		most = room
	}
	var open []net.Conn
	dialing := bound(t)
	for len(open) < most {
		conn, err := (&net.Dialer{}).DialContext(dialing, "unix", a.socket)
		if errors.Is(err, unix.EAGAIN) && dialing.Err() == nil { // plexus' connect would wait (unix(7))
			runtime.Gosched()
			continue
		}
		if err != nil {
			t.Fatalf("connection %d: %v", len(open), err)
		}
		open = append(open, conn)
	}
	t.Logf("%d connections", len(open))
	a.serves()
	for _, conn := range open {
		_ = conn.Close()
	}
	a.serves()
	ctx := bound(t)
	for runtime.NumGoroutine() > 200 {
		if ctx.Err() != nil {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine())
		}
		runtime.Gosched()
	}
}

// The socket is its owner's alone, and who comes by another way is refused by
// what the kernel says of it.
func TestWhoMayConnect(t *testing.T) {
	a := serving(t)
	st, err := os.Stat(a.socket)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Fatalf("mode %v, %v, want a socket of mode 0600", st.Mode(), err)
	}
	if os.Getuid() != 0 {
		t.Fatal("only root can be somebody else")
	}
	const nobody = 65534
	if got := connectAs(t, nobody, a.socket); !errors.Is(got.err, unix.EACCES) {
		t.Errorf("nobody connects: %v, want permission denied", got.err)
	}
	// Given away by mistake.
	for dir := filepath.Dir(a.socket); dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, st.Mode()|0o011); err != nil {
			t.Fatal(err)
		}
		if dir == os.TempDir() {
			break
		}
	}
	if err := os.Chmod(a.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, uid := range []int{nobody, 1000} {
		if got := connectAs(t, uid, a.socket); got.err != nil || got.answer != "" {
			t.Errorf("user %d: %v, answer %q; want no answer", uid, got.err, got.answer)
		}
	}
	if got := connectAs(t, 0, a.socket); got.err != nil || !strings.HasPrefix(got.answer, "HTTP/1.0 200") {
		t.Errorf("root: %v, answer %q", got.err, got.answer)
	}
	a.serves()
}

type heard struct {
	answer string
	err    error
}

// connectAs asks as a user, from a thread that is that user's and ends with it.
func connectAs(t *testing.T, uid int, socket string) heard {
	t.Helper()
	result := make(chan heard)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			result <- heard{err: errno}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			result <- heard{err: err}
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
			result <- heard{err: err}
			return
		}
		_, _ = unix.Write(fd, []byte("GET /healthz HTTP/1.0\r\n\r\n")) // EPIPE: refused already
		var answer []byte
		part := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, part)
			if n <= 0 || err != nil {
				break
			}
			answer = append(answer, part[:n]...)
		}
		result <- heard{answer: string(answer)}
	}()
	return <-result
}

// A socket that a killed agent has left is replaced, in one step: whoever
// connects in a loop is never told that there is none.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "a.sock")
	for _, name := range []string{socket, socket + confirming} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var missing error
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			if _, err := os.Lstat(socket); err != nil {
				missing = err
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range 5 {
		a := serveAt(t, socket, filepath.Join(dir, "data"))
		a.serves()
		if err := a.stop(); err != nil {
			t.Fatalf("%v\n%s", err, a.log)
		}
	}
	close(done)
	watcher.Wait()
	if missing != nil {
		t.Errorf("there was a moment without a socket: %v", missing)
	}
	left, err := filepath.Glob(socket + ".*")
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// A second agent waits until the first has ended, and takes its place.
func TestTwoAgents(t *testing.T) {
	dir := t.TempDir()
	socket, data := filepath.Join(dir, "a.sock"), filepath.Join(dir, "data")
	first := serveAt(t, socket, data)
	before, err := os.Stat(socket)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan *running, 1)
	var group sync.WaitGroup
	group.Go(func() { second <- serveAt(t, socket, data) })
	for range 20 {
		first.serves()
	}
	if now, err := os.Stat(socket); err != nil || !os.SameFile(before, now) || len(second) > 0 {
		t.Fatalf("the second agent serves beside the first: %v", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case b := <-second:
		b.serves()
	case <-bound(t).Done():
		t.Fatal("the second agent never serves")
	}
	group.Wait()
}

// Whatever comes in the addresses of what people ask, there is an answer.
func TestHostileQuestions(t *testing.T) {
	a := serving(t)
	long := strings.Repeat("a", 60000)
	for _, q := range []struct{ method, path string }{
		{"GET", "/v1/history?limit=0"}, {"GET", "/v1/history?limit=-1"}, {"GET", "/v1/history?limit=99999999999999999999"}, {"GET", "/v1/history?limit=x&about=" + long},
		{"GET", "/v1/explain"}, {"GET", "/v1/explain?pod=a"}, {"GET", "/v1/explain?pod=/"}, {"GET", "/v1/explain?pod=../.."}, {"GET", "/v1/explain?pod=" + long + "/" + long},
		{"GET", "/v1/explain?pod=a/b/c"}, {"GET", "/v1/explain?pod=%00/%ff"}, {"POST", "/v1/reclaim"}, {"POST", "/v1/reclaim?sandbox="}, {"POST", "/v1/reclaim?sandbox=../../etc/passwd&force=true"},
		{"POST", "/v1/reclaim?sandbox=%00"}, {"POST", "/v1/reclaim?sandbox=" + long}, {"GET", "/v1/reclaim?sandbox=a"}, {"GET", "/v1/resync"}, {"GET", "/v1/check"}, {"DELETE", "/v1/attachments"}, {"GET", "/"}, {"GET", "/v2/node"},
	} {
		if status, text := a.ask(q.method, q.path); status < 400 || status >= 500 {
			t.Errorf("%s %.60s: %d %.200s", q.method, q.path, status, text)
		}
	}
	for _, path := range []string{"/v1/node", "/v1/attachments", "/v1/history?limit=1000000&about=%00", "/v1/explain?pod=a/b", "/healthz", "/metrics"} {
		if status, text := a.ask("GET", path); status != 200 || len(text) > 1<<20 {
			t.Errorf("%s: %d %.200s", path, status, text)
		}
	}
	a.serves()
}

// The history is a ring; one transaction's steps are bounded, those left out are
// counted.
func TestHistoryIsBounded(t *testing.T) {
	h := &history{now: time.Now}
	for i := range 3 * maxHistory {
		e := h.begin("ADD", fmt.Sprintf("s%d", i), "ns/p")
		for n := range maxSteps + 7 {
			if err := e.step(fmt.Sprintf("net1: step %d", n)); err != nil {
				t.Fatal(err)
			}
		}
		e.end(nil)
	}
	all := h.last("", 1<<30)
	if len(all) != maxHistory || all[0].Sandbox != fmt.Sprintf("s%d", 3*maxHistory-1) || all[maxHistory-1].Sandbox != fmt.Sprintf("s%d", 2*maxHistory) {
		t.Fatalf("%d transactions, from %s", len(all), all[0].Sandbox)
	}
	if len(all[0].Steps) != maxSteps || all[0].Left != 7 || all[0].Took <= 0 {
		t.Errorf("%d steps, %d left out, %v ms", len(all[0].Steps), all[0].Left, all[0].Took)
	}
	if got := h.last("ns/p", 3); len(got) != 3 {
		t.Errorf("of a pod: %d", len(got))
	}
	if got := h.last(fmt.Sprintf("s%d", 3*maxHistory-1), 3); len(got) != 1 {
		t.Errorf("of a sandbox: %d", len(got))
	}
}

// However things are called, the names of steps that Prometheus gets are few: no
// sandbox, pod, port, path, address or number is among them.
func TestStepNamesAreFew(t *testing.T) {
	hostile := []string{"net1", "a: b", "x y z", "ns/pod", "plain", "UPPER", "über", "/run/a b", "\x00", "", ": ", "undo: ", "a, b: c", "vhu0123456789a", strings.Repeat("q", 300)}
	names := map[string]bool{}
	for i := range 1000 {
		for _, h := range append(hostile, fmt.Sprintf("n%d", i)) {
			for _, format := range []string{
				"journal: write sandbox %s", "journal: remove sandbox %s", "publish network-status of pod %s", "retract network-status of pod %s",
				"net1: add br%[1]s0", "net1: insert ports into OVSDB at %s", "net1: make folder %s", "net1: link the socket to %s", "net1: delete port %s", "net1: ipam %s: allocate",
			} {
				names[stepName(fmt.Sprintf(format, h))] = true
			}
		}
	}
	if len(names) > 40 {
		t.Errorf("%d names: %v", len(names), names)
	}
	for name := range names {
		if name == "" || len(name) > 60 || strings.ContainsAny(name, "/0123456789:\x00") {
			t.Errorf("name %q", name)
		}
	}
}

// record is a sandbox of one pod with one attachment by a delegate that only a
// test has.
func record(sandbox, uid, netns string) *delegates.Record {
	c := json.RawMessage(`{"cniVersion":"1.1.0","name":"node","type":"plexus","delegates":[{"type":"passthru"}]}`)
	return &delegates.Record{Sandbox: sandbox, Transactions: []*delegates.Transaction{{
		Network: "node", IfName: "eth0", Phase: delegates.PhaseAttached, Started: time.Unix(1700000000, 0).UTC(), Netns: netns, NetnsID: "4:17", Conf: c,
		Pod: &conf.Pod{Namespace: "ns", Name: "pod", UID: uid},
		Attachments: []*delegates.Entry{{
			Network: conf.Network{Name: "one", IfName: "eth0", Default: true, List: conf.List{CNIVersion: "1.1.0", Name: "one", Plugins: []json.RawMessage{json.RawMessage(`{"type":"passthru"}`)}}},
			Result:  json.RawMessage(`{"cniVersion":"1.1.0"}`),
		}},
	}}}
}

// write puts records into an agent's journal.
func write(t testing.TB, data string, records ...*delegates.Record) {
	t.Helper()
	for _, rec := range records {
		if err := delegates.OpenJournal(data).Write(context.Background(), rec); err != nil {
			t.Fatal(err)
		}
	}
}

// A journal file that cannot be used hides none of the others, and is named.
func TestDamagedFileBesideOthers(t *testing.T) {
	a := serving(t)
	write(t, a.data, record("aaaa", "u1", "/none"), record("cccc", "u2", "/none"))
	if err := os.WriteFile(filepath.Join(a.data, "sandboxes", "bbbb.json"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	var found []delegates.Finding
	status, text := a.ask("POST", "/v1/resync")
	if err := json.Unmarshal([]byte(text), &found); status != 200 || err != nil || len(found) != 2 {
		t.Errorf("resync: %d %v %s", status, err, text)
	}
	var all Attachments
	_, text = a.ask("GET", "/v1/attachments")
	if err := json.Unmarshal([]byte(text), &all); err != nil || len(all.Sandboxes) != 2 || len(all.Damaged) != 1 || !strings.Contains(all.Damaged[0], "bbbb.json") {
		t.Errorf("attachments: %v %s", err, text)
	}
	var info NodeInfo
	_, text = a.ask("GET", "/v1/node")
	if err := json.Unmarshal([]byte(text), &info); err != nil || info.Sandboxes != 2 || info.Damaged != 1 || info.Attachments != 2 {
		t.Errorf("node: %v %s", err, text)
	}
}

// An unfinished request is undone when the agent begins; what is whole stays.
func TestUnfinishedIsUndoneAtTheBeginning(t *testing.T) {
	dir := t.TempDir()
	whole, half, removing := record("whole", "u1", "/none"), record("half", "u2", "/none"), record("removing", "u3", "/none")
	half.Transactions[0].Phase, removing.Transactions[0].Phase = delegates.PhaseAdding, delegates.PhaseRemoving
	data := filepath.Join(dir, "data")
	write(t, data, whole, half, removing)
	a := serveAt(t, filepath.Join(dir, "a.sock"), data)
	if status, text := a.ask("POST", "/v1/resync"); status != 200 {
		t.Fatal(text)
	}
	left, err := delegates.OpenJournal(data).Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "whole" {
		t.Errorf("left: %v %v", left, err)
	}
	if _, text := a.ask("GET", "/metrics"); !strings.Contains(text, `plexus_reconcile_findings_total{kind="unfinished"} 2`) {
		t.Errorf("metrics do not tell:\n%s", text)
	}
}

// A sandbox is undone by an operator: one that is there, by enough of its ID.
func TestReclaim(t *testing.T) {
	a := serving(t)
	write(t, a.data, record("abc1", "u1", "/none"), record("abc2", "u2", "/none"))
	for _, c := range []struct {
		sandbox string
		want    int
	}{{"abc", 404}, {"abd", 404}, {"abc10", 404}, {"abc1", 200}} {
		if status, text := a.ask("POST", "/v1/reclaim?sandbox="+c.sandbox); status != c.want {
			t.Errorf("%s: %d %s", c.sandbox, status, text)
		}
	}
	left, err := delegates.OpenJournal(a.data).Sandboxes()
	if err != nil || len(left) != 1 || left[0] != "abc2" {
		t.Errorf("left: %v %v", left, err)
	}
}
