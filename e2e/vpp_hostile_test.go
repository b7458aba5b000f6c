package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/shareddir"
)

// podWithVolume is a pod whose container has a folder of the host as volume
// shared-dir.
func (s *site) podWithVolume(name, networks, dir string) {
	s.t.Helper()
	s.manifest(name+".pod.yaml", fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  annotations:
    k8s.v1.cni.cncf.io/networks: %q
spec:
  containers:
  - name: app
    volumeMounts:
    - {name: shared-dir, mountPath: /shared}
  volumes:
  - name: shared-dir
    hostPath: {path: %q}
`, name, networks, dir))
}

// What a network asks for and must not have is refused with the key and what is
// allowed; node and vswitch stay as they are, and DEL finds nothing to do.
func TestMemifRefusedConfigurations(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	type keys = map[string]any
	socket := func(k, v any) keys { return keys{"socket": keys{k.(string): v}} }
	abstract := func(file string) keys { return keys{"socket": keys{"abstract": true, "file": file}} }
	blue := keys{"name": "blue"}
	p := newPod(t, "hostile")
	for name, c := range map[string]struct {
		keys keys
		says []string
	}{
		"file above":             {socket("file", "../x"), []string{`"socket.file"`, "file name without a folder"}},
		"absolute file":          {socket("file", "/etc/x"), []string{`"socket.file"`, "file name without a folder"}},
		"file in a folder":       {socket("file", "a/b"), []string{`"socket.file"`, "file name without a folder"}},
		"file dot":               {socket("file", "."), []string{`"socket.file"`, "file name without a folder"}},
		"file dot dot":           {socket("file", ".."), []string{`"socket.file"`, "file name without a folder"}},
		"file with NUL":          {socket("file", "a\x00b"), []string{`"socket.file"`}},
		"file of two lines":      {socket("file", "a\nb"), []string{`"socket.file"`, "control character"}},
		"file of 251 bytes":      {socket("file", strings.Repeat("f", 251)), []string{`"socket.file"`, "at most"}},
		"file of 100 bytes":      {socket("file", strings.Repeat("f", 100)), []string{`"socket.file"`, "at most 106"}},
		"abstract with a netns":  {abstract("x,netns_name=/run/netns/other"), []string{`"socket.file"`}},
		"abstract of 200 bytes":  {abstract(strings.Repeat("f", 200)), []string{`"socket.file"`, "at most"}},
		"abstract and folder":    {keys{"socket": keys{"abstract": true, "dir": "/run/x"}}, []string{`"socket.abstract"`, "dir"}},
		"relative folder":        {socket("dir", "x/y"), []string{`"socket.dir"`, "absolute path"}},
		"folder above":           {socket("dir", "/run/../etc"), []string{`"socket.dir"`, "absolute path"}},
		"unknown group":          {socket("group", "nosuchgroup"), []string{`"socket.group"`, "nosuchgroup"}},
		"permissions":            {socket("permissions", "888"), []string{`"socket.permissions"`, "octal"}},
		"role":                   {keys{"role": "master"}, []string{`"role"`, "server", "client"}},
		"mode":                   {keys{"mode": "punt"}, []string{`"mode"`, "ethernet", "ip"}},
		"misspelt role":          {keys{"rol": "client"}, []string{`"rol"`, `"role"`}},
		"misspelt bridge domain": {keys{"brigeDomain": blue}, []string{`"brigeDomain"`, `"bridgeDomain"`}},
		"misspelt file":          {socket("fil", "x"), []string{`"socket.fil"`, `"socket.file"`}},
		"domain 2^24":            {keys{"bridgeDomain": keys{"id": 1 << 24}}, []string{`"bridgeDomain.id"`, "1 to 16777215"}},
		"domain -1":              {keys{"bridgeDomain": keys{"id": -1}}, []string{`"bridgeDomain.id"`, "0 or more"}},
		"domain 2^32":            {keys{"bridgeDomain": keys{"id": 1 << 32}}, []string{`"bridgeDomain.id"`, "in range"}},
		"domain without name":    {keys{"bridgeDomain": keys{}}, []string{`"bridgeDomain"`, "id or name"}},
		"domain of both":         {keys{"bridgeDomain": keys{"id": 1, "name": "x"}}, []string{`"bridgeDomain"`, "id or name"}},
		"domain of 33 bytes":     {keys{"bridgeDomain": keys{"name": strings.Repeat("b", 33)}}, []string{`"bridgeDomain.name"`, "at most 32"}},
		"domain and mode ip":     {keys{"bridgeDomain": blue, "mode": "ip"}, []string{`"bridgeDomain"`, "mode"}},
		"domain and addresses":   {keys{"bridgeDomain": blue, "addresses": []any{"10.0.0.1/24"}}, []string{`"bridgeDomain"`, "addresses"}},
		"vlan 4095":              {keys{"bridgeDomain": blue, "vlan": 4095}, []string{`"vlan"`, "1 to 4094"}},
		"vlan -1":                {keys{"bridgeDomain": blue, "vlan": -1}, []string{`"vlan"`, "1 to 4094"}},
		"vlan without domain":    {keys{"vlan": 5}, []string{`"vlan"`, "bridgeDomain"}},
		"ring size":              {keys{"ringSize": 1000}, []string{`"ringSize"`, "power of 2"}},
		"secret":                 {keys{"secret": strings.Repeat("s", 24)}, []string{`"secret"`, "at most 23"}},
		"mac":                    {keys{"mac": "01:00:00:00:00:01"}, []string{`"mac"`, "multicast"}},
		"address":                {keys{"addresses": []any{"10.0.0.1"}}, []string{`"addresses[0]"`, "prefix"}},
		"relative API socket":    {keys{"apiSocket": "api.sock"}, []string{`"apiSocket"`, "absolute path"}},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.nad("hostile", memifNAD(api, s, c.keys))
			s.pod("hostile", "hostile")
			unchanged := watch(s, state)
			_, err := s.add(faultySandbox, p, "hostile")
			says(t, err, c.says...)
			var code uint
			if e, ok := err.(*cniError); ok {
				code = e.Code
			}
			if code == 11 {
				t.Errorf("the runtime is to try again: %v", err)
			}
			unchanged()
			s.mustDel(faultySandbox, p, "hostile")
			unchanged()
		})
	}
	s.t = t
}

// What a pod, or somebody before it, has planted where plexus and VPP will make
// things is not followed, replaced or removed.
func TestMemifPlanted(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	volume, victim := filepath.Join(s.dir, "volume"), filepath.Join(s.dir, "victim")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.Mkdir(victim, 0o755))
	writeFile(t, filepath.Join(victim, "file"), "precious")
	const sandbox = "fedcba9876543210"
	file := "memif-" + sandbox[:12] + "-net1.sock"
	inVolume, own := filepath.Join(volume, file), filepath.Join(s.dir, "memif", shareddir.OwnName(sandbox))
	symlink := func(to, at string) func(*testing.T) {
		return func(t *testing.T) { must(t, os.Symlink(to, at)) }
	}
	p := newPod(t, "victim")
	for name, c := range map[string]struct {
		volume string
		plant  func(*testing.T)
		at     string
		says   string
	}{
		"link to a file":           {volume, symlink(filepath.Join(victim, "file"), inVolume), inVolume, "is no socket"},
		"link to nothing":          {volume, symlink(filepath.Join(victim, "new"), inVolume), inVolume, "is no socket"},
		"link to a folder":         {volume, symlink(victim, inVolume), inVolume, "is no socket"},
		"file":                     {volume, func(t *testing.T) { writeFile(t, inVolume, "mine") }, inVolume, "is no socket"},
		"folder":                   {volume, func(t *testing.T) { must(t, os.Mkdir(inVolume, 0o755)) }, inVolume, "is no socket"},
		"link for the volume":      {volume + "-link", symlink(victim, volume+"-link"), volume + "-link", "symbolic link"},
		"file for the volume":      {volume + "-file", func(t *testing.T) { writeFile(t, volume+"-file", "") }, volume + "-file", "no folder"},
		"link for the own folder":  {"", symlink(victim, own), own, "symbolic link"},
		"file for the own folder":  {"", func(t *testing.T) { writeFile(t, own, "") }, own, "no folder"},
		"something in the own one": {"", func(t *testing.T) { must(t, os.MkdirAll(filepath.Join(own, "x"), 0o755)) }, own, "has not put there"},
		"socket that is listened at": {volume, func(t *testing.T) {
			l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: inVolume})
			must(t, err)
			l.SetUnlinkOnClose(false)
			t.Cleanup(func() { l.Close() })
		}, inVolume, file},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if c.volume == "" {
				s.pod("victim", "blue")
			} else {
				s.podWithVolume("victim", "blue", c.volume)
			}
			c.plant(t)
			t.Cleanup(func() { _ = os.RemoveAll(c.at) })
			unchanged := watch(s, state)
			_, err := s.add(sandbox, p, "victim")
			says(t, err, c.says)
			unchanged()
			s.mustDel(sandbox, p, "victim")
			unchanged()
		})
	}
	s.t = t
	// Without any of it the pod is taken.
	s.podWithVolume("victim", "blue", volume)
	unchanged := watch(s, state)
	s.mustAdd(sandbox, p, "victim")
	s.mustDel(sandbox, p, "victim")
	unchanged()
}

// What is planted once the pod is attached is not followed by DEL either.
func TestMemifPlantedBeforeDel(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	volume, victim := filepath.Join(s.dir, "volume"), filepath.Join(s.dir, "victim")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.Mkdir(victim, 0o755))
	precious := filepath.Join(victim, "memif-"+faultySandbox[:12]+"-net1.sock")
	l, err := net.Listen("unix", precious)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	s.podWithVolume("victim", "blue", volume)
	p := newPod(t, "victim")
	stateBefore := state()
	for name, plant := range map[string]func(){
		"at the socket": func() {
			name := filepath.Join(volume, filepath.Base(precious))
			removeFiles(t, name)
			must(t, os.Symlink(precious, name))
		},
		"at the folder": func() {
			must(t, os.Rename(volume, volume+"-moved"))
			must(t, os.Symlink(victim, volume))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			s.mustAdd(faultySandbox, p, "victim")
			plant()
			if err := s.check(faultySandbox, p, "victim"); err == nil {
				t.Error("CHECK does not notice")
			}
			err := s.del(faultySandbox, p, "victim")
			if name == "at the socket" {
				must(t, err)
			}
			if after := state(); after != stateBefore {
				t.Errorf("left in the vswitch:\n%s", after)
			}
			if _, err := os.Lstat(precious); err != nil {
				t.Errorf("DEL followed a link: %v", err)
			}
			if name == "at the folder" { // as it was: DEL finishes
				removeFiles(t, volume)
				must(t, os.Rename(volume+"-moved", volume))
				s.mustDel(faultySandbox, p, "victim")
			}
			_ = os.Remove(filepath.Join(volume, filepath.Base(precious)))
		})
	}
	s.t = t
}

// A socket that another pod uses is refused; that pod keeps its link, also when
// the refused one is deleted.
func TestMemifSocketOfAnotherPod(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	volume := filepath.Join(s.dir, "volume")
	must(t, os.Mkdir(volume, 0o755))
	s.nad("fixed", memifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.nad("fixedclient", memifNAD(api, s, map[string]any{"role": "client", "bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.nad("fixedid", memifNAD(api, s, map[string]any{"id": 5, "bridgeDomain": map[string]any{"name": "red"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.podWithVolume("first", "fixed", volume)
	first, second := newPod(t, "first"), newPod(t, "second")
	empty := state()
	s.mustAdd("first0000001", first, "first")
	other := attachMemif(t, s, "other", "blue")
	socket := filepath.Join(volume, "fixed.sock")
	peer := dial(t, socket, memif.Options{})
	for _, network := range []string{"fixed", "fixedclient", "fixedid"} {
		s.podWithVolume("second", network, volume)
		unchanged := watch(s, state)
		_, err := s.add("second000001", second, "second")
		says(t, err, socket, "is used by", "socket.file")
		unchanged()
		if err := s.del("second000001", second, "second"); err != nil {
			t.Errorf("DEL of the refused pod: %v", err)
		}
		unchanged()
		passes(t, peer, other.peers[0])
	}
	// Twice in one pod: likewise, and nothing stays of the first one.
	s.podWithVolume("second", "fixed, fixedid", filepath.Join(s.dir, "volume2"))
	unchanged := watch(s, state)
	_, err := s.add("second000001", second, "second")
	says(t, err, "fixed.sock")
	unchanged()
	s.mustDel("second000001", second, "second")
	unchanged()
	must(t, s.check("first0000001", first, "first"))
	peer.Close()
	other.detach(t, s)
	s.mustDel("first0000001", first, "first")
	if after := state(); after != empty {
		t.Errorf("left in the vswitch:\n%s", after)
	}
}

// What a pod's annotation says names no file, whatever it says.
func TestMemifHostileAnnotations(t *testing.T) {
	api, state := vppAPI(t)
	s := newMemifSite(t, api)
	p := newPod(t, "hostile")
	for _, name := range []string{"../x", "a/b", "..", "sixteen-bytes-xy", "a b", "a\nb"} {
		s.pod("hostile", string(jsonOf(t, []any{map[string]any{"name": "blue", "interface": name}})))
		unchanged := watch(s, state)
		_, err := s.add(faultySandbox, p, "hostile")
		says(t, err, "interface")
		unchanged()
		s.mustDel(faultySandbox, p, "hostile")
		unchanged()
	}
	// What is for other plugins has no effect on this one.
	s.pod("hostile", string(jsonOf(t, []any{map[string]any{"name": "blue", "cni-args": map[string]any{
		"socket": map[string]any{"file": "../x"}, "apiSocket": "/etc/x", "bridgeDomain": map[string]any{"name": "red"},
	}}})))
	unchanged := watch(s, state)
	r := s.mustAdd(faultySandbox, p, "hostile")
	short := faultySandbox[:12]
	if got, want := r.Interfaces[len(r.Interfaces)-1].SocketPath, filepath.Join(s.dir, "memif", shareddir.OwnName(faultySandbox), "memif-"+short+"-net1.sock"); got != want {
		t.Errorf("socketPath %s, want %s", got, want)
	}
	if text := state(); text != "" && (!strings.Contains(text, "bd/name/blue") || strings.Contains(text, "bd/name/red")) {
		t.Errorf("state:\n%s", text)
	}
	s.mustDel(faultySandbox, p, "hostile")
	unchanged()
}
