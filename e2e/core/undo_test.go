package core

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
)

// undoSite has a pod of three networks, each a chain of a recorder, a plugin
// that changes the pod's namespace, and a recorder. The recorder at place p of
// the six fails the verb that the file told(p) holds.
func undoSite(t *testing.T) (s *site.Site, log string, told func(place int) string) {
	s = site.New(t, nil)
	s.InstallRecorder()
	log = filepath.Join(s.Dir, "log")
	told = func(place int) string { return filepath.Join(s.Dir, fmt.Sprintf("fail%d", place)) }
	tell := func(place int) map[string]any {
		return map[string]any{"type": site.Recorder, "log": log, "fail": told(place)}
	}
	main := []map[string]any{
		site.Plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipam": s.HostLocal("10.244.0.0/16")}),
		site.Plugin("ptp", map[string]any{"ipam": s.HostLocal("10.65.0.0/24")}),
		site.Plugin("bridge", map[string]any{"bridge": "cni-u", "isGateway": true, "ipam": s.HostLocal("10.66.0.0/24")}),
	}
	var lists []map[string]any
	for i, name := range []string{"cluster", "second", "third"} {
		lists = append(lists, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{tell(2 * i), main[i], tell(2*i + 1)}})
	}
	s = s.With(map[string]any{"delegates": []any{lists[0]}})
	s.NAD("second", lists[1])
	s.NAD("third", lists[2])
	s.Pod("three", "second, third")
	return s, log, told
}

// Whichever of three networks fails, at its beginning or its end: the networks
// before it are undone, last first, and the pod is as it was.
func TestUndoInReverse(t *testing.T) {
	s, log, told := undoSite(t)
	p := site.NewPod(t, "three")
	s.MustAdd("warmup2", p, "three")
	s.MustDel("warmup2", p, "three")
	must.Do(t, os.Remove(log))
	before, inside := s.World(nil), site.Links(t, p)
	for place := range 6 {
		t.Run(fmt.Sprintf("place %d", place), func(t *testing.T) {
			s := s.On(t)
			must.WriteFile(t, told(place), "ADD")
			_, err := s.Add(site.FaultySandbox, p, "three")
			site.Says(t, err, "add "+site.ThreeNames[place/2], "told to fail")
			must.Do(t, os.Remove(told(place)))
			var want []string
			for i := range place + 1 {
				want = append(want, "ADD "+site.ThreeNames[i/2])
			}
			for i := place | 1; i >= 0; i-- { // the failed network's whole chain is undone
				want = append(want, "DEL "+site.ThreeNames[i/2])
			}
			if got := site.Recorded(t, log); !slices.Equal(got, want) {
				t.Errorf("commands %q, want %q", got, want)
			}
			must.Do(t, os.Remove(log))
			site.SameWorld(t, before, s.World(nil))
			site.SameWorld(t, inside, site.Links(t, p))
		})
	}
}

// An undo that fails itself stops none of the others. It is reported beside the
// cause, and DEL asks those that failed alone.
func TestUndoThatFails(t *testing.T) {
	s, log, told := undoSite(t)
	p := site.NewPod(t, "three")
	s.MustAdd("warmup3", p, "three")
	s.MustDel("warmup3", p, "three")
	must.Do(t, os.Remove(log))
	before, inside := s.World(nil), site.Links(t, p)
	must.WriteFile(t, told(5), "ADD")
	must.WriteFile(t, told(2), "DEL")
	_, err := s.Add(site.FaultySandbox, p, "three")
	site.Says(t, err, "add net2 (network default/third)", "undo net1 (network default/second)", "told to fail")
	must.Do(t, os.Remove(log))
	site.Says(t, s.Del(site.FaultySandbox, p, "three"), "undo net1 (network default/second)")
	must.Do(t, os.Remove(told(2)))
	s.MustDel(site.FaultySandbox, p, "three")
	if got, want := site.Recorded(t, log), []string{"DEL net1", "DEL net1", "DEL net1", "DEL net1"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	must.Do(t, os.Remove(log))
	must.Do(t, os.Remove(told(5)))
	site.SameWorld(t, before, s.World(nil))
	site.SameWorld(t, inside, site.Links(t, p))
}

// When everything is attached and the status cannot be published, everything is
// undone.
func TestUndoOfAFailedPublish(t *testing.T) {
	s, log, _ := undoSite(t)
	p := site.NewPod(t, "three")
	s.MustAdd("warmup4", p, "three")
	s.MustDel("warmup4", p, "three")
	must.Do(t, os.Remove(log))
	fillUp(t, s.Manifests)
	before, inside := s.World(nil), site.Links(t, p)
	_, err := s.Add(site.FaultySandbox, p, "three")
	site.Says(t, err, "publish", "default/three", "no space left on device")
	want := []string{"ADD eth0", "ADD eth0", "ADD net1", "ADD net1", "ADD net2", "ADD net2", "DEL net2", "DEL net2", "DEL net1", "DEL net1", "DEL eth0", "DEL eth0"}
	if got := site.Recorded(t, log); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	must.Do(t, os.Remove(log))
	site.SameWorld(t, before, s.World(nil))
	site.SameWorld(t, inside, site.Links(t, p))
}

// failingIPAM fails ADD of the network that the file "fail" beside it names.
const failingIPAM = `#!/bin/sh
dir=$(dirname "$0")
config=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME" >> "$dir/asked"
[ "$CNI_COMMAND" = ADD ] || exit 0
case $config in
*"\"name\":\"$(cat "$dir/fail")\""*) echo '{"code": 7, "msg": "told to fail"}'; exit 1 ;;
esac
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.79.0.7/24"}]}'
`

// Built-in delegates that are added at the same time are undone all the same,
// whichever of them fails, those that were made beside it too.
func TestUndoInParallel(t *testing.T) {
	v := site.OVS(t)
	s := site.NewVhostSwept(t, v).With(map[string]any{"parallel": true})
	dir := filepath.Join(s.Dir, "ipams")
	must.Do(t, os.Mkdir(dir, 0o755))
	must.Do(t, os.WriteFile(filepath.Join(dir, "failing"), []byte(failingIPAM), 0o755))
	s.Path += ":" + dir
	names := []string{"p1", "p2", "p3"}
	for _, name := range names {
		s.NAD(name, site.Vhost(v, s, map[string]any{"name": name, "bridge": "br-" + name, "ipam": map[string]any{"type": "failing"}}))
	}
	s.Pod("beside", "p1, p2, p3")
	p := site.NewPod(t, "beside")
	must.WriteFile(t, filepath.Join(dir, "fail"), "none")
	s.MustAdd("warmup7", p, "beside")
	s.MustDel("warmup7", p, "beside")
	for i, name := range names {
		must.WriteFile(t, filepath.Join(dir, "fail"), name)
		must.Do(t, os.Remove(filepath.Join(dir, "asked")))
		before, inside := site.Without(s.World(v), "/ipams"), site.Links(t, p)
		_, err := s.Add(site.FaultySandbox, p, "beside")
		site.Says(t, err, fmt.Sprintf("add net%d (network default/%s)", i+1, name), "told to fail")
		if got, want := undone(t, filepath.Join(dir, "asked")), []string{"DEL net3", "DEL net2", "DEL net1"}; !slices.Equal(got, want) {
			t.Errorf("%s fails: undone %q, want %q", name, got, want)
		}
		site.SameWorld(t, before, site.Without(s.World(v), "/ipams"))
		site.SameWorld(t, inside, site.Links(t, p))
	}
}

// undone are the DELs of a file of "VERB ifname" lines.
func undone(t *testing.T, file string) []string {
	t.Helper()
	return slices.DeleteFunc(site.Recorded(t, file), func(command string) bool { return !strings.HasPrefix(command, "DEL") })
}

// fillUp lets a folder be on a file system that has no space left.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must.Do(t, err)
	texts := map[string]string{}
	for _, e := range entries {
		texts[e.Name()] = must.ReadFile(t, filepath.Join(dir, e.Name()))
	}
	must.Do(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must.Do(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	for name, text := range texts {
		must.WriteFile(t, filepath.Join(dir, name), text)
	}
	err = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 128<<10), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%s is not full: %v", dir, err)
	}
}
