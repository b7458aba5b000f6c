package ovsdpdk

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/e2e/node"
)

// The tests of the files pending_*.go say what has to be and is not yet.

// Without state DEL finds the folder of an attachment that has no rows: none
// yet, or none any more.
func TestEveryTransactFailsOrphans(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { w.eachFault(t, true) })
	}
}

// Two ports that leave at once, each seeing the other: the bridge goes too.
func TestTwoLeaveAtOnce(t *testing.T) {
	r := newRig(t)
	before := r.world()
	a, b := r.attachment("first-to-leave", nil), r.attachment("second-to-leave", nil)
	d, other := newDelegate(t), newDelegate(t)
	rawA, rawB := mustAttach(t, d, a), mustAttach(t, other, b)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- d.Del(bounded(t), a, rawA) }()
	<-hit
	mustDel(t, other, b, rawB)
	r.wire.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	sameWorld(t, before, r.world())
}

func TestManyLeaveAtOnce(t *testing.T) {
	r := newRig(t)
	for range 3 {
		crowd(t, r, atOnce)
	}
}

// A bridge made by somebody between the look and the insertion is no failure,
// whatever other bridges there are.
func TestBridgeMadeMeanwhile(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-unrelated")
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	hit := r.wire.arm(2, hold)
	done := make(chan error)
	go func() { done <- addAndSettle(t, d, a, raw) }()
	<-hit
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	r.wire.letGo()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mustDel(t, d, a, raw)
}

// A name that is taken, as long as it is, is called that.
func TestNameOfBridgeTaken(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-other", "--", "add-port", "br-other", testBridge)
	d, a := newDelegate(t), r.attachment(sandbox, nil)
	raw := mustPrepare(t, d, a)
	wantError(t, addAndSettle(t, d, a, raw), testBridge, "constraint violation")
	r.vsctl("del-br", "br-other")
	wantErrorNone(t, addAndSettle(t, d, a, raw))
	mustDel(t, d, a, raw)
}

func wantErrorNone(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// One request that is given up keeps no other one waiting.
func TestCancelledRequestBlocksNobody(t *testing.T) {
	c := ways[0].begin(t)
	d := c.d
	if err := d.Ready(bounded(t), c.a.Conf); err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	hit := c.wire.arm(1, neverAnswer)
	go func() { slow <- d.Ready(bounded(t), c.a.Conf) }()
	<-hit
	ctx, cancel := context.WithCancel(t.Context())
	hit = c.wire.arm(1, neverAnswer)
	given := make(chan error, 1)
	go func() { given <- d.Ready(ctx, c.a.Conf) }()
	<-hit
	c.wire.arm(0, "")
	cancel()
	wantErrorIn(t, given, slow, "a request that is given up ends only when another one does", context.Canceled.Error())
	next := make(chan error, 1)
	go func() { next <- d.Ready(bounded(t), c.a.Conf) }()
	wantErrorIn(t, next, slow, "a request waits for one that has nothing to do with it")
}

// wantErrorIn takes what comes of a request that must end before another one,
// with an error that says the words; without words with none.
func wantErrorIn(t *testing.T, first, second <-chan error, what string, words ...string) {
	t.Helper()
	select {
	case err := <-first:
		if len(words) > 0 {
			wantError(t, err, words...)
		} else if err != nil {
			t.Error(err)
		}
	case <-second:
		t.Fatal(what)
	}
}

// An OVSDB that does not answer keeps nobody from another one.
func TestDeadOVSDBBlocksNobody(t *testing.T) {
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
	dead, alive := make(chan error, 1), make(chan error, 1)
	go func() { dead <- d.Ready(bounded(t), r.config(map[string]any{"ovsdb": "unix:" + path})) }()
	conn := <-accepted
	defer conn.Close()
	go func() { alive <- d.Ready(bounded(t), r.config(nil)) }()
	wantErrorIn(t, alive, dead, "a request waits for another one's connection")
}

// A restart of ovsdb-server between two requests costs no request.
func TestOVSDBRestarts(t *testing.T) {
	r := newRig(t)
	r.address = r.OVSDB()
	d, config := newDelegate(t), r.config(nil)
	wantErrorNone(t, d.Ready(bounded(t), config))
	c := d.db.at(r.address).client
	if err := r.StopOVSDB(); err != nil {
		t.Fatal(err)
	}
	for c.CurrentEndpoint() != "" { // until the client has seen it
		if bounded(t).Err() != nil {
			t.Fatal("the connection is not seen to be cut")
		}
	}
	if err := r.StartOVSDB(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.vsctl("set", "Open_vSwitch", ".", "dpdk_initialized=true")
	wantErrorNone(t, d.Ready(bounded(t), config))
}

// An answer that is too short is told with the address.
func TestShortAnswerNamesOVSDB(t *testing.T) {
	c := ways[0].begin(t)
	c.wire.arm(1, answerShort)
	wantError(t, c.d.Ready(bounded(t), c.a.Conf), "OVSDB at "+c.address)
}

// A state that was tampered with leads to no file that is not plexus's.
func TestTamperedState(t *testing.T) {
	for name, keys := range map[string]map[string]any{
		"a folder of the host":       {"dir": "HOST", "own": true},
		"a folder made for a volume": {"dir": "HOST/empty", "made": true, "file": "../x"},
		"a relative folder":          {"dir": "run", "own": true},
		"the root":                   {"dir": "HOST/..", "own": true},
		"a file as configuration":    {"dir": "HOST", "config": "passwd"},
		"a file as short link":       {"dir": "HOST/none", "link": "HOST/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			host := tempDir(t) + "/host"
			write(t, host+"/passwd", "root")
			if err := os.Mkdir(host+"/empty", 0o755); err != nil {
				t.Fatal(err)
			}
			before, err := node.Tree(host)
			if err != nil {
				t.Fatal(err)
			}
			all := map[string]any{"port": "vhu1", "ovsdb": r.address, "bridge": testBridge, "mode": "client", "file": "sock", "gid": -1}
			for k, v := range keys {
				if text, ok := v.(string); ok {
					v = strings.ReplaceAll(text, "HOST", host)
				}
				all[k] = v
			}
			r.vsctl("add-br", testBridge, "--", "add-port", testBridge, "vhu1", "--", "set", "Interface", "vhu1",
				"external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox="+sandbox, "external_ids:plexus-ifname=net1",
				fmt.Sprintf("external_ids:plexus-state=%s", toJSON(t, string(toJSON(t, all)))))
			wantError(t, newDelegate(t).Sweep(bounded(t), testOwner, []json.RawMessage{r.config(nil)}, keepNone), "vhu1")
			after, err := node.Tree(host)
			if err != nil {
				t.Fatal(err)
			}
			sameWorld(t, before, after)
		})
	}
}

// Nothing that a pod leaves in its folder keeps it from being deleted.
func TestPodCannotBlockDel(t *testing.T) {
	for _, volume := range []bool{false, true} {
		c := ways[2].begin(t)
		dir := c.dir + "/" + sandbox[:12]
		if volume {
			c.a, dir = shared(c.a, c.dir+"/volume"), c.dir+"/volume"
		}
		raw := mustAttach(t, c.d, c.a)
		name := dir + "/" + configurationFile(c.a)
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		write(t, name+"/not/empty", "")
		mustDel(t, c.d, c.a, raw)
		if exists(name) {
			t.Error("what stands at the configuration's name is left")
		}
		_ = os.Remove(strings.TrimPrefix(c.address, "unix:"))
	}
}

// Two ports of one pod for a volume: its group goes back with the last.
func TestGroupStaysForTheOther(t *testing.T) {
	r := newRig(t)
	group, gid := anyGroup(t)
	volume := r.dir + "/volume"
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	d := newDelegate(t)
	a := shared(r.attachment(sandbox, map[string]any{"vhost": map[string]any{"group": group}}), volume)
	b := a
	b.IfName = "net2"
	var all []conf.Prepared
	for _, a := range []conf.Attachment{a, b} {
		all = append(all, conf.Prepared{Attachment: a, State: mustPrepare(t, d, a)})
	}
	for i, p := range all {
		wantErrorNone(t, addAndSettle(t, d, p.Attachment, p.State))
		if i > 0 && gidOf(t, volume) != gid {
			t.Errorf("group %d, want %d", gidOf(t, volume), gid)
		}
	}
	mustDel(t, d, a, all[0].State)
	if gidOf(t, volume) != gid {
		t.Errorf("group %d while a port remains, want %d", gidOf(t, volume), gid)
	}
	mustDel(t, d, b, all[1].State)
	if gidOf(t, volume) != 0 {
		t.Errorf("group %d, want it as it was", gidOf(t, volume))
	}
}
