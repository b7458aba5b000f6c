package vpp

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

// What a network asks for and must not have is refused with the key and what is
// allowed; node and vswitch stay as they are, and DEL finds nothing to do.
func TestMemifRefusedConfigurations(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	type keys = map[string]any
	socket := func(k, v any) keys { return keys{"socket": keys{k.(string): v}} }
	abstract := func(file string) keys { return keys{"socket": keys{"abstract": true, "file": file}} }
	blue := keys{"name": "blue"}
	p := site.NewPod(t, "hostile")
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
			s.T = t
			s.NAD("hostile", site.MemifNAD(api, s, c.keys))
			s.Pod("hostile", "hostile")
			unchanged := watch(s, state)
			_, err := s.Add(site.FaultySandbox, p, "hostile")
			site.Says(t, err, c.says...)
			var code uint
			if e, ok := err.(*site.Error); ok {
				code = e.Code
			}
			if code == 11 {
				t.Errorf("the runtime is to try again: %v", err)
			}
			unchanged()
			s.MustDel(site.FaultySandbox, p, "hostile")
			unchanged()
		})
	}
	s.T = t
}

// What a pod, or somebody before it, has planted where plexus and VPP will make
// things is not followed, replaced or removed.
func TestMemifPlanted(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	volume, victim := filepath.Join(s.Dir, "volume"), filepath.Join(s.Dir, "victim")
	must.Do(t, os.Mkdir(volume, 0o755))
	must.Do(t, os.Mkdir(victim, 0o755))
	must.WriteFile(t, filepath.Join(victim, "file"), "precious")
	const sandbox = "fedcba9876543210"
	file := "memif-" + sandbox[:12] + "-net1.sock"
	inVolume, own := filepath.Join(volume, file), filepath.Join(s.Dir, "memif", shareddir.OwnName(sandbox))
	symlink := func(to, at string) func(*testing.T) {
		return func(t *testing.T) { must.Do(t, os.Symlink(to, at)) }
	}
	p := site.NewPod(t, "victim")
	for name, c := range map[string]struct {
		volume string
		plant  func(*testing.T)
		at     string
		says   string
	}{
		"link to a file":           {volume, symlink(filepath.Join(victim, "file"), inVolume), inVolume, "is no socket"},
		"link to nothing":          {volume, symlink(filepath.Join(victim, "new"), inVolume), inVolume, "is no socket"},
		"link to a folder":         {volume, symlink(victim, inVolume), inVolume, "is no socket"},
		"file":                     {volume, func(t *testing.T) { must.WriteFile(t, inVolume, "mine") }, inVolume, "is no socket"},
		"folder":                   {volume, func(t *testing.T) { must.Do(t, os.Mkdir(inVolume, 0o755)) }, inVolume, "is no socket"},
		"link for the volume":      {volume + "-link", symlink(victim, volume+"-link"), volume + "-link", "symbolic link"},
		"file for the volume":      {volume + "-file", func(t *testing.T) { must.WriteFile(t, volume+"-file", "") }, volume + "-file", "no folder"},
		"link for the own folder":  {"", symlink(victim, own), own, "symbolic link"},
		"file for the own folder":  {"", func(t *testing.T) { must.WriteFile(t, own, "") }, own, "no folder"},
		"something in the own one": {"", func(t *testing.T) { must.Do(t, os.MkdirAll(filepath.Join(own, "x"), 0o755)) }, own, "has not put there"},
		"socket that is listened at": {volume, func(t *testing.T) {
			l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: inVolume})
			must.Do(t, err)
			l.SetUnlinkOnClose(false)
			t.Cleanup(func() { l.Close() })
		}, inVolume, file},
	} {
		t.Run(name, func(t *testing.T) {
			s.T = t
			if c.volume == "" {
				s.Pod("victim", "blue")
			} else {
				s.PodWithVolume("victim", "blue", c.volume)
			}
			c.plant(t)
			t.Cleanup(func() { _ = os.RemoveAll(c.at) })
			unchanged := watch(s, state)
			_, err := s.Add(sandbox, p, "victim")
			site.Says(t, err, c.says)
			unchanged()
			s.MustDel(sandbox, p, "victim")
			unchanged()
		})
	}
	s.T = t
	// Without any of it the pod is taken.
	s.PodWithVolume("victim", "blue", volume)
	unchanged := watch(s, state)
	s.MustAdd(sandbox, p, "victim")
	s.MustDel(sandbox, p, "victim")
	unchanged()
}

// What is planted once the pod is attached is not followed by DEL either.
func TestMemifPlantedBeforeDel(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	volume, victim := filepath.Join(s.Dir, "volume"), filepath.Join(s.Dir, "victim")
	must.Do(t, os.Mkdir(volume, 0o755))
	must.Do(t, os.Mkdir(victim, 0o755))
	precious := filepath.Join(victim, "memif-"+site.FaultySandbox[:12]+"-net1.sock")
	l, err := net.Listen("unix", precious)
	must.Do(t, err)
	t.Cleanup(func() { l.Close() })
	s.PodWithVolume("victim", "blue", volume)
	p := site.NewPod(t, "victim")
	stateBefore := state()
	for name, plant := range map[string]func(){
		"at the socket": func() {
			name := filepath.Join(volume, filepath.Base(precious))
			removeFiles(t, name)
			must.Do(t, os.Symlink(precious, name))
		},
		"at the folder": func() {
			must.Do(t, os.Rename(volume, volume+"-moved"))
			must.Do(t, os.Symlink(victim, volume))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.T = t
			s.MustAdd(site.FaultySandbox, p, "victim")
			plant()
			if err := s.Check(site.FaultySandbox, p, "victim"); err == nil {
				t.Error("CHECK does not notice")
			}
			err := s.Del(site.FaultySandbox, p, "victim")
			if name == "at the socket" {
				must.Do(t, err)
			}
			if after := state(); after != stateBefore {
				t.Errorf("left in the vswitch:\n%s", after)
			}
			if _, err := os.Lstat(precious); err != nil {
				t.Errorf("DEL followed a link: %v", err)
			}
			if name == "at the folder" { // as it was: DEL finishes
				removeFiles(t, volume)
				must.Do(t, os.Rename(volume+"-moved", volume))
				s.MustDel(site.FaultySandbox, p, "victim")
			}
			_ = os.Remove(filepath.Join(volume, filepath.Base(precious)))
		})
	}
	s.T = t
}

// A socket that another pod uses is refused; that pod keeps its link, also when
// the refused one is deleted.
func TestMemifSocketOfAnotherPod(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	volume := filepath.Join(s.Dir, "volume")
	must.Do(t, os.Mkdir(volume, 0o755))
	s.NAD("fixed", site.MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.NAD("fixedclient", site.MemifNAD(api, s, map[string]any{"role": "client", "bridgeDomain": map[string]any{"name": "blue"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.NAD("fixedid", site.MemifNAD(api, s, map[string]any{"id": 5, "bridgeDomain": map[string]any{"name": "red"}, "socket": map[string]any{"file": "fixed.sock"}}))
	s.PodWithVolume("first", "fixed", volume)
	first, second := site.NewPod(t, "first"), site.NewPod(t, "second")
	empty := state()
	s.MustAdd("first0000001", first, "first")
	other := attachMemif(t, s, "other", "blue")
	socket := filepath.Join(volume, "fixed.sock")
	peer := dial(t, socket, memif.Options{})
	for _, network := range []string{"fixed", "fixedclient", "fixedid"} {
		s.PodWithVolume("second", network, volume)
		unchanged := watch(s, state)
		_, err := s.Add("second000001", second, "second")
		site.Says(t, err, socket, "is used by", "socket.file")
		unchanged()
		if err := s.Del("second000001", second, "second"); err != nil {
			t.Errorf("DEL of the refused pod: %v", err)
		}
		unchanged()
		passes(t, peer, other.peers[0])
	}
	// Twice in one pod: likewise, and nothing stays of the first one.
	s.PodWithVolume("second", "fixed, fixedid", filepath.Join(s.Dir, "volume2"))
	unchanged := watch(s, state)
	_, err := s.Add("second000001", second, "second")
	site.Says(t, err, "fixed.sock")
	unchanged()
	s.MustDel("second000001", second, "second")
	unchanged()
	must.Do(t, s.Check("first0000001", first, "first"))
	peer.Close()
	other.detach(t, s)
	s.MustDel("first0000001", first, "first")
	if after := state(); after != empty {
		t.Errorf("left in the vswitch:\n%s", after)
	}
}

// What a pod's annotation says names no file, whatever it says.
func TestMemifHostileAnnotations(t *testing.T) {
	api, state := site.VPP(t)
	s := site.NewMemif(t, api)
	p := site.NewPod(t, "hostile")
	for _, name := range []string{"../x", "a/b", "..", "sixteen-bytes-xy", "a b", "a\nb"} {
		s.Pod("hostile", string(must.JSON(t, []any{map[string]any{"name": "blue", "interface": name}})))
		unchanged := watch(s, state)
		_, err := s.Add(site.FaultySandbox, p, "hostile")
		site.Says(t, err, "interface")
		unchanged()
		s.MustDel(site.FaultySandbox, p, "hostile")
		unchanged()
	}
	// What is for other plugins has no effect on this one.
	s.Pod("hostile", string(must.JSON(t, []any{map[string]any{"name": "blue", "cni-args": map[string]any{
		"socket": map[string]any{"file": "../x"}, "apiSocket": "/etc/x", "bridgeDomain": map[string]any{"name": "red"},
	}}})))
	unchanged := watch(s, state)
	r := s.MustAdd(site.FaultySandbox, p, "hostile")
	short := site.FaultySandbox[:12]
	if got, want := r.Interfaces[len(r.Interfaces)-1].SocketPath, filepath.Join(s.Dir, "memif", shareddir.OwnName(site.FaultySandbox), "memif-"+short+"-net1.sock"); got != want {
		t.Errorf("socketPath %s, want %s", got, want)
	}
	if text := state(); text != "" && (!strings.Contains(text, "bd/name/blue") || strings.Contains(text, "bd/name/red")) {
		t.Errorf("state:\n%s", text)
	}
	s.MustDel(site.FaultySandbox, p, "hostile")
	unchanged()
}
