package ovsdpdk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/shareddir"
)

// watched fails the test if owners, modes, names or contents below a folder change.
func watched(t *testing.T, dir string) {
	t.Helper()
	look := func() string {
		tree, err := node.Tree(dir)
		if err != nil {
			t.Error(err)
		}
		return fmt.Sprintf("%sgroup %d\n", tree, gidOf(t, dir))
	}
	before := look()
	t.Cleanup(func() { sameWorld(t, before, look()) })
}

// A row that carries plexus' marks is believed about itself alone: its state is
// never a licence to remove files, or to give a folder another group.
func TestRowsAreNoLicence(t *testing.T) {
	for name, c := range map[string]struct {
		sandbox string
		state   map[string]any
	}{
		"a folder of the node as the sandbox's own":    {"kubelet", map[string]any{"dir": "HOST/kubelet", "own": true, "file": "sock"}},
		"a socket of the node":                         {sandbox, map[string]any{"dir": "HOST/containerd", "file": "containerd.sock"}},
		"a group":                                      {sandbox, map[string]any{"dir": "HOST/kubelet", "file": "sock", "was": 1000}},
		"an empty folder of the node":                  {sandbox, map[string]any{"dir": "HOST/empty", "file": "sock", "made": true}},
		"a configuration file elsewhere":               {sandbox, map[string]any{"dir": "HOST/kubelet", "file": "sock", "config": "configData-x.json"}},
		"a folder of the former form of an own folder": {"0123456789abffff", map[string]any{"dir": "HOST/0123456789ab", "own": true, "file": "sock"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			host := tempDir(t) + "/host"
			for _, file := range []string{"kubelet/config.yaml", "kubelet/configData-x.json", "0123456789ab/file"} {
				write(t, host+"/"+file, "the node's")
			}
			for _, dir := range []string{"empty", "containerd"} {
				if err := os.Mkdir(host+"/"+dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			socketAt(t, host+"/containerd/containerd.sock")
			socketAt(t, host+"/0123456789ab/sock")
			for _, dir := range []string{host, host + "/kubelet", host + "/empty"} {
				watched(t, dir)
			}
			port := portName(&delegates.Attachment{Owner: testOwner, Sandbox: c.sandbox, IfName: "net1"})
			state := map[string]any{"port": port, "ovsdb": r.address, "bridge": testBridge, "mode": "client", "gid": -1}
			for k, v := range c.state {
				if text, ok := v.(string); ok && k == "dir" {
					v = host + text[len("HOST"):]
				}
				state[k] = v
			}
			r.vsctl("add-br", testBridge, "--", "set", "Bridge", testBridge, "datapath_type=netdev")
			before := r.world()
			r.vsctl("add-port", testBridge, port, "--", "set", "Interface", port,
				"external_ids:plexus-owner="+testOwner, "external_ids:plexus-sandbox="+c.sandbox, "external_ids:plexus-ifname=net1",
				fmt.Sprintf("external_ids:plexus-state=%s", toJSON(t, string(toJSON(t, state)))))
			bounds := conf.Bounds{SocketDirs: []string{host}}
			if err := errors.Join(newDelegate(t).Sweep(bounded(t), testOwner, []string{r.address}, bounds, keepNone)...); err != nil {
				t.Errorf("the row is in the way of Sweep: %v", err)
			}
			sameWorld(t, before, r.world())
		})
	}
}

// A name that the NAD gives the socket replaces nothing in a pod's hostPath, and
// the undo of the ADD that is refused removes nothing.
func TestSocketFileReplacesNothing(t *testing.T) {
	for _, mode := range []string{"client", "server"} {
		for _, recorded := range []bool{true, false} {
			r := newRig(t)
			volume := tempDir(t) + "/volume"
			write(t, volume+"/passwd", "root")
			watched(t, volume)
			d := newDelegate(t)
			a := shared(r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"mode": mode, "socketFile": "passwd"}}), volume)
			wantError(t, attach(t, d, a), volume+"/passwd", `"vhost.socketFile"`)
			if !recorded {
				a = unrecorded(a)
			}
			mustDetach(t, d, a)
		}
	}
}

// A link that a pod leaves at its shared folder does not keep it from being
// deleted, and is not followed.
func TestLinkAtFolderEndsWithDel(t *testing.T) {
	for _, own := range []bool{true, false} {
		r := newRig(t)
		host := tempDir(t)
		socketAt(t, host+"/sock")
		write(t, host+"/file", "the node's")
		watched(t, host)
		d := newDelegate(t)
		a := r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketDir": r.dir, "socketFile": "sock"}})
		if !own {
			a = shared(a, r.dir+"/volume")
		}
		mustAttach(t, d, a)
		s, err := decodeState(a.State, a.Sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(s.Dir); err != nil {
			t.Fatal(err)
		}
		symlink(t, host, s.Dir)
		mustDetach(t, d, a)
		if to, err := os.Readlink(s.Dir); err != nil || to != host {
			t.Errorf("the link of the pod is gone: %v", err)
		}
	}
}

// A state that a former plexus has recorded, with a folder of 12 digits, is in force.
func TestStateOfFormerForm(t *testing.T) {
	r := newRig(t)
	before := r.world()
	d := newDelegate(t)
	a := r.attachment(d, sandbox, nil)
	mustPrepare(t, a)
	a.State = json.RawMessage(strings.ReplaceAll(string(a.State), shareddir.OwnName(sandbox), sandbox[:12]))
	wantErrorNone(t, d.Attach(bounded(t), only(a)))
	s, err := decodeState(a.State, sandbox)
	if err != nil || s.Dir != r.dir+"/"+sandbox[:12] || !exists(s.Dir) {
		t.Fatalf("%+v, %v", s, err)
	}
	wantErrorNone(t, a.Network.Check(bounded(t), a))
	if err := os.Remove(s.Dir); err != nil {
		t.Fatal(err)
	}
	if made, err := a.Network.Restore(bounded(t), a); err != nil || len(made) != 1 || !exists(s.Dir) {
		t.Errorf("Restore made %q, %v", made, err)
	}
	mustDetach(t, d, a)
	sameWorld(t, before, r.world())
}

// A DEL of an ADD that was refused, which has no record, removes no socket of the node.
func TestRefusedDelLeavesSockets(t *testing.T) {
	r := newRig(t)
	volume := tempDir(t)
	socketAt(t, volume+"/stopped.sock")
	watched(t, volume)
	d := newDelegate(t)
	a := shared(r.attachment(d, sandbox, map[string]any{"vhost": map[string]any{"socketFile": "stopped.sock"}}), volume)
	mustDetach(t, d, unrecorded(a))
}
