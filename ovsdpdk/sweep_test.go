package ovsdpdk

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/delegates"
)

func keepNone(string, string) bool { return false }

// A bridge that somebody else made is not removed although createBridge is set.
func TestForeignBridgeStays(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A port that somebody else has put into our bridge keeps the bridge; the next
// one of ours takes it away once that port is gone.
func TestForeignPortKeepsOurBridge(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	r.vsctl("add-port", testBridge, "uplink")
	mustDetach(t, d, a)
	if ports := r.vsctl("list-ports", testBridge); ports != "uplink" {
		t.Errorf("ports %q, want the foreign one", ports)
	}
	mustAttach(t, d, a)
	r.vsctl("del-port", "uplink")
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A port removed by hand does not keep DEL from removing our empty bridge.
func TestRowRemovedByHand(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	r.vsctl("del-port", portName(a))
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
	mustAttach(t, d, a)
	r.vsctl("del-br", testBridge)
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A port moved to another bridge by hand is found there.
func TestPortMovedByHand(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", "br-other", "--", "set", "Bridge", "br-other", "datapath_type=netdev")
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	port := r.vsctl("get", "Port", portName(a), "_uuid")
	r.vsctl("remove", "Bridge", testBridge, "ports", port, "--", "add", "Bridge", "br-other", "ports", port)
	wantError(t, a.Network.Check(bounded(t), a), portName(a), "no longer in bridge "+testBridge)
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// Without state DEL goes by the marks, and takes that one attachment alone.
func TestDetachByMarks(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			c := w.begin(t)
			empty := c.world()
			mustAttach(t, c.d, c.a)
			one := c.world()
			b := sibling(c.a, "net2")
			mustAttach(t, c.d, b)
			mustDetach(t, w.delegate(t), unrecorded(b))
			sameWorld(t, one, c.world())
			b = sibling(c.a, "net1")
			b.Owner = "/var/lib/other"
			mustDetach(t, w.delegate(t), b)
			sameWorld(t, one, c.world())
			mustDetach(t, w.delegate(t), unrecorded(c.a))
			sameWorld(t, empty, c.world())
		})
	}
	d := newDelegate(t)
	mustDetach(t, d, &delegates.Attachment{}) // its configuration is refused: it never was
	for _, state := range []string{`{}`, `{`} {
		wantError(t, d.Detach(bounded(t), only(&delegates.Attachment{State: json.RawMessage(state)}))[0], "recorded state")
	}
}

// Sweep removes our attachments that are not to be kept, and nothing else.
func TestSweep(t *testing.T) {
	r := newRig(t)
	empty := r.world()
	d := newDelegate(t)
	endpoints := []string{r.address, r.address, "/run/vpp/api.sock"}
	theirs := r.attachment(d, "their-sandbox", nil)
	theirs.Owner = "/var/lib/other"
	mustAttach(t, d, theirs)
	r.vsctl("add-port", testBridge, "nobodys", "--", "set", "Interface", "nobodys", "external_ids:plexus-sandbox=gone")
	foreign := r.world()
	kept, gone := r.attachment(d, "kept-sandbox", nil), r.attachment(d, "gone-sandbox", nil)
	other := sibling(kept, "net2")
	mustAttach(t, d, kept)
	withKept := r.world()
	mustAttach(t, d, gone)
	mustAttach(t, d, other)

	asked := map[string]bool{}
	err := r.sweep(newDelegate(t), endpoints, func(sandbox, ifName string) bool {
		asked[sandbox+"/"+ifName] = true
		return sandbox == kept.Sandbox && ifName == "net1"
	})
	if err != nil {
		t.Error(err)
	}
	sameWorld(t, withKept, r.world())
	if len(asked) != 3 || asked["their-sandbox/net1"] {
		t.Errorf("asked about %v, want our three", asked)
	}
	if err := kept.Network.Check(bounded(t), kept); err != nil {
		t.Error(err)
	}
	if err := r.sweep(newDelegate(t), endpoints, keepNone); err != nil {
		t.Error(err)
	}
	sameWorld(t, foreign, r.world())
	r.vsctl("del-port", "nobodys")
	mustDetach(t, d, theirs)
	sameWorld(t, empty, r.world())
}

// An OVSDB that is not there has nothing to sweep; one that does not answer is
// reported, and the others are swept all the same.
func TestSweepPlaces(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	mustAttach(t, d, r.attachment(d, sandbox, nil))
	absent := "unix:/run/nowhere/db.sock"
	dead := "unix:" + tempDir(t) + "/db.sock"
	socketAt(t, strings.TrimPrefix(dead, "unix:"))
	wantError(t, r.sweep(d, []string{absent, dead, r.address}, keepNone), dead)
	sameWorld(t, before, r.world())
	if err := r.sweep(d, []string{absent}, keepNone); err != nil {
		t.Error(err)
	}
}

// A row whose state cannot be read is reported by name, and does not keep the
// others from being swept.
func TestSweepUnreadableState(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d := newDelegate(t)
	for i, text := range []string{
		"", "garbage", "{}", "[]", "null", `{"port":"x"}`, `{"port":7}`, `{"port":"another","ovsdb":"x","bridge":"b"}`,
		`{"port":"P","ovsdb":"x","file":"../../etc/passwd"}`, `{"port":"P","ovsdb":"x","file":"f","config":"../x"}`,
	} {
		name := "bad" + string(rune('a'+i))
		state := toJSON(t, strings.ReplaceAll(text, `"P"`, `"`+name+`"`))
		r.vsctl("add-port", testBridge, name, "--", "set", "Interface", name, "external_ids:plexus-owner="+testOwner,
			"external_ids:plexus-sandbox=gone", "external_ids:plexus-ifname=net1", "external_ids:plexus-state="+string(state))
	}
	before := r.world()
	mustAttach(t, d, r.attachment(d, sandbox, nil))
	err := r.sweep(d, []string{r.address}, keepNone)
	for i := range 10 {
		wantError(t, err, "interface bad"+string(rune('a'+i)))
	}
	sameWorld(t, before, r.world())
}

// A bridge of ours that has lost its local port is not removed with the port of
// somebody else in it.
func TestDeletionWithoutLocalPort(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustAttach(t, d, a)
	r.vsctl("add-port", testBridge, "uplink")
	local := r.vsctl("get", "Port", testBridge, "_uuid")
	r.vsctl("remove", "Bridge", testBridge, "ports", local)
	mustDetach(t, d, a)
	if out := r.vsctl("--columns=name", "find", "Port", "name=uplink"); !strings.Contains(out, "uplink") {
		t.Error("somebody else's port went with the bridge")
	}
}
