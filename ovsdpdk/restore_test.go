package ovsdpdk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mustRestore wants things to be made, in words that begin like these.
func (c *trial) mustRestore(want ...string) {
	c.t.Helper()
	made, err := c.a.Network.Restore(bounded(c.t), c.a)
	if err != nil {
		c.t.Errorf("Restore: %v", err)
	}
	if !slices.EqualFunc(made, want, strings.HasPrefix) {
		c.t.Errorf("Restore made %q, want %q", made, want)
	}
}

// attached is an attachment made in this way.
func (w way) attached(t testing.TB) *trial {
	c := w.begin(t)
	c.upTo("Restore")
	return c
}

// wayOf is a way by its name.
func wayOf(name string) way {
	return ways[slices.IndexFunc(ways, func(w way) bool { return w.name == name })]
}

// ovsdb-server comes back with an empty database: the port is as it was, as is
// what its DEL leaves.
func TestRestoreEmptyDatabase(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			c := w.begin(t)
			before := c.world()
			c.upTo("Restore")
			attached := c.world()
			s := decoded(t, c.a.State)
			c.mustRestore()
			c.lose()
			c.vsctl("init", "--", "set", "Open_vSwitch", ".", "dpdk_initialized=true", "cur_cfg=1000000000")
			c.mustRestore("bridge "+s.Bridge, "port "+s.Port+" on bridge "+s.Bridge)
			sameWorld(t, attached, c.world())
			wantErrorNone(t, c.do(bounded(t), "Check"))
			if s.Mode == modeServer {
				c.wantLinked(s)
			}
			c.mustRestore()
			mustDetach(t, c.d, c.a)
			sameWorld(t, before, c.world())
		})
	}
}

func decoded(t testing.TB, raw []byte) *state {
	t.Helper()
	s, err := decodeState(raw, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantLinked wants the pod to see the socket that the vswitch listens at.
func (c *trial) wantLinked(s *state) {
	c.t.Helper()
	origin, err := os.Lstat(filepath.Join(filepath.Dir(strings.TrimPrefix(c.address, "unix:")), s.Port))
	if err != nil {
		c.t.Fatal(err)
	}
	if at, err := os.Lstat(s.Place(s.File)); err != nil || !os.SameFile(at, origin) {
		c.t.Errorf("%s is not the vswitch's socket: %v", s.Place(s.File), err)
	}
}

// Somebody deleted the port, and others are in the bridge.
func TestRestorePortAlone(t *testing.T) {
	c := ways[0].attached(t)
	b := c.attachment(c.d, "another-sandbox", nil)
	mustAttach(t, c.d, b)
	port := portName(c.a)
	c.vsctl("del-port", port)
	c.mustRestore("port " + port + " on bridge " + testBridge)
	wantErrorNone(t, c.do(bounded(t), "Check"))
	wantErrorNone(t, b.Network.Check(bounded(t), b))
}

// A port that is there is not touched, however it was changed: nothing but
// questions goes to OVSDB.
func TestRestoreLeavesAlone(t *testing.T) {
	c := ways[0].attached(t)
	port := portName(c.a)
	c.vsctl("set", "Port", port, "tag=8", "--", "set", "Interface", port, "mtu_request=1400", "ofport=-1")
	if err := os.Chmod(decoded(t, c.a.State).Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	changed := c.world()
	c.wire.arm(0, "")
	c.mustRestore()
	if diff := cmp.Diff([]string{"select Interface, select Bridge"}, c.wire.seen()); diff != "" {
		t.Errorf("transactions, (-want +got):\n%s", diff)
	}
	sameWorld(t, changed, c.world())
	wantError(t, c.do(bounded(t), "Check"), "vlan tag is 8, was 7")
}

// A port of our name that somebody else made is reported and left alone.
func TestRestoreForeign(t *testing.T) {
	c := ways[0].attached(t)
	port := portName(c.a)
	c.vsctl("set", "Interface", port, "external_ids:plexus-owner=/var/lib/other")
	before := c.world()
	_, err := c.a.Network.Restore(bounded(t), c.a)
	wantError(t, err, port, "not this attachment's", "marks of ownership")
	sameWorld(t, before, c.world())
}

// A bridge that plexus is not to make is missed, not made.
func TestRestoreForeignBridge(t *testing.T) {
	r := newRig(t)
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	d := newDelegate(t)
	a := r.attachment(d, sandbox, map[string]any{"createBridge": nil})
	mustAttach(t, d, a)
	r.vsctl("del-br", testBridge)
	before := r.world()
	_, err := a.Network.Restore(bounded(t), a)
	wantError(t, err, "no bridge "+testBridge)
	sameWorld(t, before, r.world())
	r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
	made, err := a.Network.Restore(bounded(t), a)
	if want := []string{"port " + portName(a) + " on bridge " + testBridge}; err != nil || !slices.Equal(made, want) {
		t.Errorf("made %q, %v, want %q", made, err, want)
	}
}

// Files that are gone, as from a tmpfs that was emptied, are made again; the
// port stays as it is.
func TestRestoreFiles(t *testing.T) {
	for way, files := range map[string][]string{"client": {"folder "}, "server": {"folder ", "link "}, "userspace": {"folder ", "file "}} {
		t.Run(way, func(t *testing.T) {
			c := wayOf(way).attached(t)
			attached := c.world()
			s := decoded(t, c.a.State)
			remove(t, s.Dir)
			c.mustRestore(files...)
			sameWorld(t, attached, c.world())
			if s.Config != "" {
				data, err := os.ReadFile(s.Place(s.Config))
				if err != nil {
					t.Fatal(err)
				}
				remove(t, s.Place(s.Config))
				c.mustRestore("file " + s.Place(s.Config))
				if again, err := os.ReadFile(s.Place(s.Config)); err != nil || string(again) != string(data) {
					t.Errorf("the configuration is %q, was %q: %v", again, data, err)
				}
			}
			write(t, s.Dir+"/of-the-pod", "x")
			c.mustRestore()
			if !exists(s.Dir + "/of-the-pod") {
				t.Error("what the pod has in its folder is gone")
			}
		})
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// A short path is made again; a volume that is gone is not: it was the pod's.
func TestRestoreVolume(t *testing.T) {
	c := wayOf("volume").attached(t)
	s := decoded(t, c.a.State)
	removeShort(t, s.Link)
	c.mustRestore("short path " + s.Link)
	wantErrorNone(t, c.do(bounded(t), "Check"))
	remove(t, s.Dir)
	c.vsctl("del-port", s.Port)
	before := c.world()
	_, err := c.a.Network.Restore(bounded(t), c.a)
	wantError(t, err, "volume "+s.Dir, "gone")
	sameWorld(t, before, c.world())
	mustDetach(t, c.d, c.a)
}

// A folder that was replaced by a link is neither followed nor taken away.
func TestRestoreFollowsNothing(t *testing.T) {
	c := wayOf("server").attached(t)
	s := decoded(t, c.a.State)
	elsewhere := tempDir(t)
	remove(t, s.Dir)
	symlink(t, elsewhere, s.Dir)
	_, err := c.a.Network.Restore(bounded(t), c.a)
	wantError(t, err, s.Dir, "symbolic link")
	if exists(elsewhere + "/" + s.File) {
		t.Error("the link was followed")
	}
}

// A vswitch that was restarted listens at a new socket: the pod sees that one.
// One that does not listen yet is named.
func TestRestoreLink(t *testing.T) {
	c := wayOf("server").attached(t)
	s := decoded(t, c.a.State)
	c.mustRestore()
	origin := filepath.Join(filepath.Dir(strings.TrimPrefix(c.address, "unix:")), s.Port)
	remove(t, origin)
	_, err := c.a.Network.Restore(bounded(t), c.a)
	wantError(t, err, "does not listen for port "+s.Port, origin)
	listen(t, origin)
	c.mustRestore("link " + s.Place(s.File) + " to the socket of port " + s.Port)
	c.wantLinked(s)
}

// A record that is none is refused.
func TestRestoreRefuses(t *testing.T) {
	r := newRig(t)
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	a.State = []byte(`{}`)
	_, err := a.Network.Restore(bounded(t), a)
	wantError(t, err, "recorded state")
}
