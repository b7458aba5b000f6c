package ovsdpdk

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// watch starts a Watch, whose result comes by the channel.
func watch(ctx context.Context, d *Delegate, place string) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(ctx, place) }()
	return ended
}

func wantWatching(t *testing.T, ended <-chan error, while string) {
	t.Helper()
	select {
	case err := <-ended:
		t.Fatalf("Watch ends while %s: %v", while, err)
	default:
	}
}

// Watch stays as long as the server does, answers its echo, and returns when
// there is one again and its vswitch is up.
func TestWatch(t *testing.T) {
	held, cut, asked, up := make(chan question), make(chan bool), make(chan question), make(chan bool)
	address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		switch nth {
		case 0:
			says(conn, `{"id": "echo", "method": "echo", "params": []}`)
			held <- next(in)
			<-cut
			_ = conn.Close()
		case 1: // not ready yet
			next(in)
			_ = conn.Close()
		default:
			q := next(in)
			asked <- q
			<-up
			says(conn, `{"id": %s, "result": [{}], "error": null}`, q.ID)
		}
	})
	ended := watch(bounded(t), newDelegate(t), address)
	if q := <-held; string(q.ID) != `"echo"` || string(q.Result) != `[]` {
		t.Errorf("the answer to an echo: %+v", q)
	}
	wantWatching(t, ended, "the server is there")
	close(cut)
	if q := <-asked; q.Method != "transact" {
		t.Errorf("the new server is asked to %s", q.Method)
	}
	wantWatching(t, ended, "the vswitch is not up")
	close(up)
	wantErrorNone(t, <-ended)
}

// ovsdb-server is restarted with an empty database: Watch returns when
// ovs-vswitchd has come to know it.
func TestWatchEmptyDatabase(t *testing.T) {
	r := newRig(t)
	asked := r.wire.arm(1, hold)
	ended := watch(bounded(t), newDelegate(t), r.address)
	r.lose()
	<-asked
	wantWatching(t, ended, "DPDK is not initialised")
	r.wire.letGo()
	r.vsctl("init", "--", "set", "Open_vSwitch", ".", "dpdk_initialized=true")
	wantErrorNone(t, <-ended)
}

// lose restarts ovsdb-server with a database that knows nothing, not even of a
// vswitch.
func (r *rig) lose() {
	r.t.Helper()
	if err := r.StopOVSDB(); err != nil {
		r.t.Fatal(err)
	}
	r.emptyDB()
	if err := r.StartOVSDB(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// Watch ends with its context, wherever it is.
func TestWatchEnds(t *testing.T) {
	d := newDelegate(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, place := range []string{newRig(t).address, "unix:" + filepath.Join(tempDir(t), "none.sock")} {
		if err := d.Watch(ctx, place); err != context.Canceled {
			t.Errorf("%s: %v", place, err)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan bool)
	ended := watch(ctx, d, newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		if nth == 0 {
			_ = conn.Close()
			return
		}
		next(in) // what it asks of a server that was away
		cancel()
		next(in) // until the connection ends
		close(gone)
	}))
	if err := <-ended; err != context.Canceled {
		t.Errorf("while it asks the server: %v", err)
	}
	<-gone
}

// The endpoint is the OVSDB's address.
func TestEndpoint(t *testing.T) {
	for config, want := range map[string]string{
		`{"bridge": "br0"}`: "unix:/run/openvswitch/db.sock",
		`{"bridge": "br0", "ovsdb": "tcp:127.0.0.1:6640"}`:   "tcp:127.0.0.1:6640",
		`{"bridge": "br0", "ovsdb": "unix:/run/x/../db.so"}`: "unix:/run/x/../db.so",
	} {
		if got := mustParse(t, newDelegate(t), []byte(config)).Endpoint(); got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
	for _, place := range []string{"", "ssl:1.2.3.4:6640", "unix:db.sock", "tcp:localhost", "unix:/" + strings.Repeat("x", 200)} {
		wantError(t, newDelegate(t).Watch(bounded(t), place), "want ")
	}
}
