package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
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
