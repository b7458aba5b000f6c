package vppmemif

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/conf"
	"github.com/plexus-cni/plexus/delegates/userspace"
	"github.com/plexus-cni/plexus/rig/standin"
	"github.com/plexus-cni/plexus/shareddir"
)

// vhost are the keys of a vhost-user interface in userspace-cni's words, and the rig's API
// socket.
func vhost(r *rig, mode string) map[string]any {
	return map[string]any{
		"socket": nil, "type": "userspace", "sharedDir": r.dir,
		"host":      map[string]any{"engine": "vpp", "iftype": "vhostuser", "netType": "bridge", "vhost": map[string]any{"mode": mode}, "bridge": map[string]any{"bridgeName": "blue"}},
		"container": map[string]any{"engine": "vpp", "iftype": "vhostuser", "netType": "interface"},
	}
}

// vhost-user on VPP: the stand-in has the interface and its place in the bridge
// domain, but no frames pass it.
func TestVhostUser(t *testing.T) {
	for mode, pod := range map[string]string{"server": "client", "client": "server", "": "client"} {
		t.Run("mode "+mode, func(t *testing.T) {
			r := newRig(t, standin.Options{})
			a := r.attachment(sandboxA, vhost(r, mode))
			d := newDelegate(t)
			before := r.world()
			raw, err := d.prepare(bounded(t), a)
			if err != nil {
				t.Fatal(err)
			}
			same(t, before, r.world())
			result, err := add(bounded(t), d, a, raw)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(r.dir, shareddir.OwnName(sandboxA), "vhost-"+sandboxA[:12]+"-net1.sock")
			if got := result.Interfaces[0].SocketPath; got != path {
				t.Errorf("socketPath %q, want %q", got, path)
			}
			said, err := d.describe(a, raw)
			if err != nil {
				t.Fatal(err)
			}
			if i := said.DeviceInfo; i.Type != "vhost-user" || i.Memif != nil || *i.VhostUser != (conf.VhostDevice{Mode: pod, Path: path}) {
				t.Errorf("device-info %+v", i)
			}
			var config struct {
				Config userspace.Side `json:"config"`
			}
			data, err := os.ReadFile(filepath.Join(r.dir, shareddir.OwnName(sandboxA), "configData-"+sandboxA[:12]+"-net1.json"))
			if err == nil {
				err = json.Unmarshal(data, &config)
			}
			if v := config.Config.Vhost; err != nil || v.Mode != pod || v.SocketFile != filepath.Base(path) {
				t.Errorf("configuration %s: %v", data, err)
			}
			if err := d.check(bounded(t), a, raw); err != nil {
				t.Error(err)
			}
			if !strings.Contains(r.State(), path) {
				t.Errorf("not in the stand-in:\n%s", r.State())
			}
			// Another one on the same socket is refused, and changes nothing.
			keys := vhost(r, mode)
			keys["host"].(map[string]any)["vhost"] = map[string]any{"mode": mode, "socketfile": filepath.Base(path)}
			other := a
			other.Conf, other.IfName = r.attachment(sandboxA, keys).Conf, "net2"
			now := r.world()
			_, err = d.prepare(bounded(t), other)
			wantError(t, err, path, "is used by")
			same(t, now, r.world())
			r.Close()
			r.start(standin.Options{})
			wantError(t, d.check(bounded(t), a, raw), path, "gone")
			mustDel(t, d, a, raw)
			mustDel(t, d, a, raw)
			same(t, before, r.world())
		})
	}
}

// Without the plugin vhost-user memif works, and vhost-user says what is missing.
func TestVhostUserMissing(t *testing.T) {
	r := newRig(t, standin.Options{CRC: map[string]string{"create_vhost_user_if_v2": "", "sw_interface_vhost_user_dump": ""}})
	a := r.attachment(sandboxA, vhost(r, "server"))
	_, err := newDelegate(t).prepare(bounded(t), a)
	wantError(t, err, "create_vhost_user_if_v2", "does not speak")
	m := r.attachment(sandboxA, nil)
	d := newDelegate(t)
	mustDel(t, d, m, mustAttach(t, d, m))
}

// A plugin that VPP has not loaded is named, and the line of VPP's startup configuration.
func TestPluginMissing(t *testing.T) {
	for module, c := range map[string]struct {
		keys func(r *rig) map[string]any
		file string
	}{
		"memif":      {func(*rig) map[string]any { return nil }, "memif_plugin.so"},
		"vhost_user": {func(r *rig) map[string]any { return vhost(r, "server") }, "vhost_plugin.so"},
	} {
		r := newRig(t, standin.Options{Version: "25.10-x", Without: []string{module}})
		d, a := newDelegate(t), r.attachment(sandboxA, nil)
		if module == "memif" {
			wantError(t, d.ready(bounded(t), a.Conf), c.file)
		} else {
			mustDel(t, d, a, mustAttach(t, d, a))
		}
		before := r.world()
		_, err := d.prepare(bounded(t), r.attachment(sandboxA, c.keys(r)))
		wantError(t, err, "VPP 25.10-x", "plugin "+c.file+" { enable }")
		if err != nil && strings.Contains(err.Error(), "does not speak") {
			t.Error(err)
		}
		same(t, before, r.world())
	}
}

// A sweep finds vhost-user interfaces by their tags.
func TestVhostUserSweep(t *testing.T) {
	r := newRig(t, standin.Options{})
	a := r.attachment(sandboxA, vhost(r, "server"))
	d := newDelegate(t)
	before := r.world()
	raw, err := d.prepare(bounded(t), a)
	if err == nil {
		_, err = add(bounded(t), d, a, raw)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := r.sweep(d, func(string, string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	same(t, before, r.world())
}

func TestVhostUserRefused(t *testing.T) {
	for says, change := range map[string]func(host map[string]any){
		"host.iftype":           func(h map[string]any) { h["iftype"] = "tap" },
		"host.vhost.mode":       func(h map[string]any) { h["vhost"] = map[string]any{"mode": "both"} },
		"host.vhost.socketfile": func(h map[string]any) { h["vhost"] = map[string]any{"mode": "client", "socketfile": "../x"} },
		"host.vhost.group":      func(h map[string]any) { h["vhost"] = map[string]any{"mode": "client", "group": "nobody-here"} },
	} {
		r := newRig(t, standin.Options{})
		keys := vhost(r, "server")
		change(keys["host"].(map[string]any))
		a := r.attachment(sandboxA, keys)
		before := r.world()
		_, err := newDelegate(t).prepare(bounded(t), a)
		wantError(t, err, says)
		same(t, before, r.world())
	}
}
