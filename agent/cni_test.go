package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/plexus-cni/plexus/call"
	"github.com/plexus-cni/plexus/delegates"
)

// An agent that writes a log file has the same number of goroutines after many
// requests as after one.
func TestLogFileLeaksNoGoroutines(t *testing.T) {
	dir := t.TempDir()
	a, _ := unserved(t)
	file := filepath.Join(dir, "log")
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","dataDir":%q,"logFile":%q,"logLevel":"debug","logToStderr":false,"delegates":[{"type":"passthru"}]}`, dir, file)
	ask := func() {
		for _, verb := range []string{"ADD", "DEL"} {
			if answer := handled(t, a, requestBody(stdin, "version=1", "as=plexus", "CNI_COMMAND="+verb, "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net")); answer.Status != 0 {
				t.Fatalf("%s: %s", verb, answer.Stdout)
			}
		}
	}
	ask()
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), "attached") {
		t.Fatalf("the log file has %q, %v", text, err)
	}
	before := runtime.NumGoroutine()
	for range 100 {
		ask()
	}
	if after := runtime.NumGoroutine(); after > before+10 {
		t.Errorf("%d goroutines, %d after 100 requests", before, after)
	}
}

// The agent has refused an ADD, and this process has no other source of pods: it
// does not take the pod for one that asks for nothing.
func TestAddWithoutTheAgentAndWithoutASource(t *testing.T) {
	dir := t.TempDir()
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","dataDir":%q,"agent":{"socket":"/none"},"delegates":[{"type":"passthru"}]}`, dir)
	var out bytes.Buffer
	env := call.Environ("CNI_COMMAND=ADD", "CNI_CONTAINERID=a", "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net", "CNI_ARGS=K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u1")
	status := Answer(t.Context(), call.Call{As: "plexus", Getenv: env, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: io.Discard})
	var e types.Error
	if err := json.Unmarshal(out.Bytes(), &e); status == 0 || err != nil || e.Code != 11 || !strings.Contains(e.Msg, "/none") {
		t.Errorf("%d %s: want code 11", status, &out)
	}
}

// fake is a delegate that has nothing to attach to, so that a test sees what the
// engine and the agent do around one.
type fake struct{ delegates.Base }

// Parse is delegates.Delegate.
func (fake) Parse(string, []byte) (delegates.Network, []string, error) {
	return delegates.BaseNetwork{}, nil, nil
}

// Attach is delegates.Delegate.
func (fake) Attach(_ context.Context, all []*delegates.Attachment) error {
	for _, a := range all {
		a.Result = &types100.Result{CNIVersion: "1.1.0", Interfaces: []*types100.Interface{{Name: a.IfName, Sandbox: a.Netns, SocketPath: "/s"}}, IPs: a.IPAM.IPs}
	}
	return nil
}

// Detach is delegates.Delegate.
func (fake) Detach(_ context.Context, all []*delegates.Attachment) []error {
	return make([]error, len(all))
}

// Lines that plugins write to standard error at the same time are whole: run with -race.
// They go into one buffer of the agent's.
func TestStderrOfParallelPlugins(t *testing.T) {
	a, _ := unserved(t)
	a.engines.delegates = map[string]delegates.Delegate{"ovsdpdk": fake{}, "passthru": fake{}}
	bin, dir := t.TempDir(), t.TempDir()
	line := strings.Repeat("c", 500)
	script := "#!/bin/sh\ncat >/dev/null\nfor i in 1 2 3 4 5 6 7 8 9 10; do echo " + line + " >&2; done\n[ \"$CNI_COMMAND\" = ADD ] && echo '{\"cniVersion\":\"1.1.0\",\"ips\":[{\"address\":\"10.0.0.7/24\"}]}'\nexit 0\n"
	if err := os.WriteFile(filepath.Join(bin, "chatty"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	const networks = 8
	var lists []string
	for i := range networks {
		lists = append(lists, fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n%d","type":"ovsdpdk","ipam":{"type":"chatty"}}`, i))
	}
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"node","type":"plexus","parallel":true,"logLevel":"debug","dataDir":%q,"delegates":[%s]}`, dir, strings.Join(lists, ","))
	body := requestBody(stdin, "version=1", "as=plexus", "CNI_COMMAND=ADD", "CNI_CONTAINERID=aaaa", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0", "CNI_PATH="+bin)
	answer := handled(t, a, body)
	if answer.Status != 0 {
		t.Fatalf("%+v", answer)
	}
	if got := strings.Count(answer.Stderr, line+"\n"); got != 10*networks {
		t.Errorf("%d lines are whole, want %d", got, 10*networks)
	}
}

// Later versions and keys that this agent does not know are served; a request
// without a version is refused, with a reason.
func TestVersionsOfRequests(t *testing.T) {
	a := serving(t)
	for _, body := range []string{
		requestBody("", "version=1", "CNI_COMMAND=VERSION"),
		requestBody("", "version=2", "CNI_COMMAND=VERSION", "new=x=y", "trace="),
		requestBody("", "version=99", "CNI_COMMAND=VERSION", "CNI_NEW=x"),
	} {
		if status, answer := a.post(body); status != 200 || answer.Status != 0 || !strings.Contains(string(answer.Stdout), "supportedVersions") {
			t.Errorf("%q: %d %+v", body, status, answer)
		}
	}
	for _, body := range []string{
		`{}`, ``, "\x00", "\x00\x00", "version=1", "version=1\x00", requestBody("", "CNI_COMMAND=VERSION"), requestBody("", "version=0"), requestBody("", "version=-1"), requestBody("", "version=x"),
		requestBody("", "version=99999999999999999999"), requestBody("", "version=1", "x"), requestBody("", "version=1\n"),
	} {
		text := a.send(fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if !strings.HasPrefix(text, "HTTP/1.0 400") || !strings.Contains(text, "request: ") {
			t.Errorf("%q: %q", body, text)
		}
	}
	a.serves()
}

// A request of every length ends with an answer.
func TestHugeRequests(t *testing.T) {
	a := serving(t)
	for name, body := range map[string]string{
		"too long":     requestBody(strings.Repeat("x", maxBody), "version=1"),
		"a long key":   strings.Repeat("x", maxBody-1),
		"many pairs":   strings.Repeat("CNI_X=\x00", maxBody/8),
		"zeros":        strings.Repeat("\x00", maxBody),
		"an odd value": requestBody("", "version="+strings.Repeat("9", 1<<20)),
	} {
		text := a.send(fmt.Sprintf("POST /v1/cni HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if text != "" && !strings.HasPrefix(text, "HTTP/1.0 400") || len(text) > 1000 { // "": it had enough before the end, and reset
			t.Errorf("%s: %.300q", name, text)
		}
		a.serves()
	}
	// As long as one may be: the longest configuration, all the other keys beside it.
	for stdin, why := range map[string]string{
		strings.Repeat("<", call.MaxStdin):    `"code": 7`,
		strings.Repeat("[", call.MaxStdin):    `"code": 7`,
		strings.Repeat(" ", call.MaxStdin+1):  "more than",
		`{"x": ` + strings.Repeat("[", 20000): `"code"`,
	} {
		status, answer := a.post(requestBody(stdin, "version=1", "as=plexus", "CNI_COMMAND=STATUS", "CNI_ARGS=K="+strings.Repeat("x", 128<<10)))
		if status != 200 || answer.Status != 1 || !strings.Contains(string(answer.Stdout), why) {
			t.Errorf("%.20q: %d %d %.300s", stdin, status, answer.Status, answer.Stdout)
		}
	}
}
