package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
)

// A row names both the sandbox and the folder that is its own: that the two go
// together does not make a folder of the host the sandbox's.
func TestTamperedSandboxAndFolder(t *testing.T) {
	r := newRig(t)
	host := tempDir(t) + "/host"
	write(t, host+"/etc/passwd", "root")
	state := map[string]any{"port": "vhu1", "ovsdb": r.address, "bridge": testBridge, "mode": "client", "file": "sock", "gid": -1, "dir": host + "/etc", "own": true}
	r.vsctl("add-br", testBridge, "--", "add-port", testBridge, "vhu1", "--", "set", "Interface", "vhu1",
		"external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox=etc", "external_ids:plexus-ifname=net1",
		fmt.Sprintf("external_ids:plexus-state=%s", toJSON(t, string(toJSON(t, state)))))
	wantError(t, newDelegate(t).Sweep(bounded(t), testOwner, []json.RawMessage{r.config(nil)}, keepNone), "vhu1")
	if _, err := os.Stat(host + "/etc/passwd"); err != nil {
		t.Errorf("a folder of the host was removed: %v", err)
	}
}

// A request that is given up ends there and then, even while another one is
// still connecting to the same OVSDB.
func TestCancelledWhileAnotherConnects(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			accepted <- conn // and never a word
		}
	}()
	config := r.config(map[string]any{"ovsdb": "unix:" + path})
	first, given := make(chan error, 1), make(chan error, 1)
	go func() { first <- d.Ready(bounded(t), config) }()
	conn := <-accepted
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	go func() { given <- d.Ready(ctx, config) }()
	wantErrorIn(t, given, first, "a request that is given up waits for another one's connection", context.Canceled.Error())
}

// serverEnv is the variable by which a child of this test is told what to
// talk to.
const serverEnv = "PLEXUS_TEST_OVSDB"

// Whatever answers at the address that a configuration names, plexus lives on:
// a message that is neither a request nor an answer is an error. A child talks
// to it, as this process would not survive.
func TestAnswerWithoutID(t *testing.T) {
	if address := os.Getenv(serverEnv); address != "" {
		wantError(t, newDelegate(t).Ready(bounded(t), toJSON(t, map[string]any{"ovsdb": address, "bridge": testBridge})), address)
		return
	}
	path := tempDir(t) + "/db.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			_, _ = conn.Write([]byte("{}\n"))
		}
	}()
	child := exec.CommandContext(bounded(t), "/proc/self/exe", "-test.run=^TestAnswerWithoutID$")
	child.Env = append(os.Environ(), serverEnv+"=unix:"+path)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v: %.400s", err, out)
	}
}
