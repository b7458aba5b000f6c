package ovsdpdk

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/endpoint"
)

// followed are the reports of a Watch, and its end.
type followed struct {
	t       *testing.T
	reports chan error
	ended   chan error
}

// follow starts a Watch.
func follow(ctx context.Context, t *testing.T, d *Delegate, place string) *followed {
	f := &followed{t, make(chan error, 100), make(chan error, 1)}
	go func() { f.ended <- d.Watch(ctx, place, func(err error) { f.reports <- err }) }()
	return f
}

// want waits for a report that says the words, or without words for one that the vswitch
// works.
func (f *followed) want(words ...string) {
	f.t.Helper()
	timeout := time.After(time.Minute) // bounds a hang; it is no measure
	for last := error(nil); ; {
		select {
		case err := <-f.reports:
			last = err
			if err == nil && len(words) == 0 || err != nil && len(words) > 0 && strings.Contains(err.Error(), words[0]) {
				return
			}
		case err := <-f.ended:
			f.t.Fatalf("Watch ends: %v", err)
		case <-timeout:
			f.t.Fatalf("the last report is %v, want %q", last, words)
		}
	}
}

// wantQuiet wants no report so far.
func (f *followed) wantQuiet(while string) {
	f.t.Helper()
	select {
	case err := <-f.reports:
		f.t.Fatalf("a report while %s: %v", while, err)
	default:
	}
}

// rowsOf is what a monitor says of a vswitch that has acted on everything.
const rowsOf = `{"Open_vSwitch": {"u": {"initial": {"next_cfg": 1, "cur_cfg": 1, "dpdk_initialized": true}}}}`

// Watch is silent as long as the server is there, and answers its echo. It says so when the
// server goes, and when there is one again that ovs-vswitchd acts on.
func TestWatch(t *testing.T) {
	held, cut, up := make(chan question), make(chan bool), make(chan bool)
	address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		switch nth {
		case 0:
			q := next(in)
			says(conn, `{"id": %s, "result": %s, "error": null}`, q.ID, rowsOf)
			says(conn, `{"id": "echo", "method": "echo", "params": []}`)
			for string(q.ID) != `"echo"` {
				q = next(in)
			}
			held <- q
			<-cut
			_ = conn.Close()
		case 1: // not ready yet
			next(in)
			_ = conn.Close()
		default:
			for q := next(in); q.Method != ""; q = next(in) {
				switch q.Method {
				case "monitor_cond":
					says(conn, `{"id": %s, "result": %s, "error": null}`, q.ID, rowsOf)
				case "transact":
					says(conn, `{"id": %s, "result": [{"count": 1}, {"rows": [{"next_cfg": 2, "cur_cfg": 1}]}], "error": null}`, q.ID)
					<-up
					says(conn, `{"id": null, "method": "update2", "params": [null, {"Open_vSwitch": {"u": {"modify": {"next_cfg": 2, "cur_cfg": 2}}}}]}`)
				case "echo":
					says(conn, `{"id": %s, "result": [], "error": null}`, q.ID)
				}
			}
		}
	})
	f := follow(bounded(t), t, newDelegate(t), address)
	if q := <-held; string(q.Result) != `[]` {
		t.Errorf("the answer to an echo: %+v", q)
	}
	close(cut)
	f.want("it closed the connection")
	f.want("it has not acted on OVSDB since it was started")
	f.wantQuiet("the vswitch is not up")
	close(up)
	f.want()
}

// ovsdb-server is restarted with an empty database: it works again when ovs-vswitchd has come
// to know it.
func TestWatchEmptyDatabase(t *testing.T) {
	r := newRig(t)
	f := follow(bounded(t), t, newDelegate(t), r.OVSDB())
	r.lose()
	f.want("it has not initialised DPDK")
	r.vsctl("init", "--", "set", "Open_vSwitch", ".", "dpdk_initialized=true")
	f.want("it has not acted on OVSDB since it was started")
	r.vsctl("set", "Open_vSwitch", ".", "cur_cfg=1000000000")
	f.want()
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

// A port that ovs-vswitchd closes, for whatever reason, is reason to compare; one that it never
// opened, or that is not of plexus, is none.
func TestWatchClosedPort(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev", "--", "add-port", testBridge, "uplink", "--", "set", "Interface", "uplink", "ofport=3")
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	f := follow(bounded(t), t, newDelegate(t), r.address)
	r.vsctl("set", "Interface", "uplink", "ofport=-1")
	r.vsctl("set", "Interface", portName(a), "ofport=2")
	r.vsctl("set", "Interface", portName(a), "ofport=-1")
	f.want()
	r.vsctl("clear", "Interface", portName(a), "ofport")
	mustDetach(t, d, a)
	f.wantQuiet("the port was closed before")
}

// Watch ends with its context, wherever it is.
func TestWatchEnds(t *testing.T) {
	d := newDelegate(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ignored := func(error) {}
	for _, place := range []string{newRig(t).address, "unix:" + filepath.Join(tempDir(t), "none.sock")} {
		if err := d.Watch(ctx, place, ignored); err != context.Canceled {
			t.Errorf("%s: %v", place, err)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	gone := make(chan bool)
	address := newStandIn(t, func(nth int, conn net.Conn, in *json.Decoder) {
		if nth == 0 {
			_ = conn.Close()
			return
		}
		next(in) // what it asks of a server that was away
		cancel()
		next(in) // until the connection ends
		close(gone)
	})
	if err := d.Watch(ctx, address, ignored); err != context.Canceled {
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
	for _, place := range []string{"", "ssl:1.2.3.4", "unix:db.sock", "tcp:localhost", "unix:/" + strings.Repeat("x", 200)} {
		wantError(t, newDelegate(t).Watch(bounded(t), place, func(error) {}), "want ")
	}
}

// An OVSDB that hangs is reported, and the vswitch behind one that goes on.
func TestWatchSilentOVSDB(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	f := follow(bounded(t), t, newDelegate(t), r.OVSDB())
	r.vsctl("set", "Open_vSwitch", ".", "external_ids:x=y")
	if err := r.PauseOVSDB(); err != nil {
		t.Fatal(err)
	}
	f.want("no answer within " + endpoint.PulseLimit.String())
	if err := r.ResumeOVSDB(); err != nil {
		t.Fatal(err)
	}
	f.want()
}
