package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// undoSite has a pod of three networks, each a chain of a recorder, a plugin
// that changes the pod's namespace, and a recorder. The recorder at place p of
// the six fails the verb that the file told(p) holds.
func undoSite(t *testing.T) (s *site, log string, told func(place int) string) {
	s = newSite(t, nil)
	s.installRecorder()
	log = filepath.Join(s.dir, "log")
	told = func(place int) string { return filepath.Join(s.dir, fmt.Sprintf("fail%d", place)) }
	tell := func(place int) map[string]any {
		return map[string]any{"type": recorder, "log": log, "fail": told(place)}
	}
	main := []map[string]any{
		plugin("bridge", map[string]any{"bridge": "cni0", "isDefaultGateway": true, "ipam": s.hostLocal("10.244.0.0/16")}),
		plugin("ptp", map[string]any{"ipam": s.hostLocal("10.65.0.0/24")}),
		plugin("bridge", map[string]any{"bridge": "cni-u", "isGateway": true, "ipam": s.hostLocal("10.66.0.0/24")}),
	}
	var lists []map[string]any
	for i, name := range []string{"cluster", "second", "third"} {
		lists = append(lists, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{tell(2 * i), main[i], tell(2*i + 1)}})
	}
	s = s.withConf(map[string]any{"delegates": []any{lists[0]}})
	s.nad("second", lists[1])
	s.nad("third", lists[2])
	s.pod("three", "second, third")
	return s, log, told
}

// interfaces of the three networks.
var threeNames = []string{"eth0", "net1", "net2"}

// Whichever of three networks fails, at its beginning or its end: the networks
// before it are undone, last first, and the pod is as it was.
func TestUndoInReverse(t *testing.T) {
	s, log, told := undoSite(t)
	p := newPod(t, "three")
	s.mustAdd("warmup2", p, "three")
	s.mustDel("warmup2", p, "three")
	must(t, os.Remove(log))
	before, inside := s.world(nil), links(t, p)
	for place := range 6 {
		t.Run(fmt.Sprintf("place %d", place), func(t *testing.T) {
			s := s.on(t)
			writeFile(t, told(place), "ADD")
			_, err := s.add(faultySandbox, p, "three")
			says(t, err, "add "+threeNames[place/2], "told to fail")
			must(t, os.Remove(told(place)))
			var want []string
			for i := range place + 1 {
				want = append(want, "ADD "+threeNames[i/2])
			}
			for i := place | 1; i >= 0; i-- { // the failed network's whole chain is undone
				want = append(want, "DEL "+threeNames[i/2])
			}
			if got := recorded(t, log); !slices.Equal(got, want) {
				t.Errorf("commands %q, want %q", got, want)
			}
			must(t, os.Remove(log))
			sameWorld(t, before, s.world(nil))
			sameWorld(t, inside, links(t, p))
		})
	}
}

// An undo that fails itself stops none of the others. It is reported beside the
// cause, and DEL asks those that failed alone.
func TestUndoThatFails(t *testing.T) {
	s, log, told := undoSite(t)
	p := newPod(t, "three")
	s.mustAdd("warmup3", p, "three")
	s.mustDel("warmup3", p, "three")
	must(t, os.Remove(log))
	before, inside := s.world(nil), links(t, p)
	writeFile(t, told(5), "ADD")
	writeFile(t, told(2), "DEL")
	_, err := s.add(faultySandbox, p, "three")
	says(t, err, "add net2 (network default/third)", "undo net1 (network default/second)", "told to fail")
	must(t, os.Remove(log))
	says(t, s.del(faultySandbox, p, "three"), "undo net1 (network default/second)")
	must(t, os.Remove(told(2)))
	s.mustDel(faultySandbox, p, "three")
	if got, want := recorded(t, log), []string{"DEL net1", "DEL net1", "DEL net1", "DEL net1"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	must(t, os.Remove(log))
	must(t, os.Remove(told(5)))
	sameWorld(t, before, s.world(nil))
	sameWorld(t, inside, links(t, p))
}

// When everything is attached and the status cannot be published, everything is
// undone.
func TestUndoOfAFailedPublish(t *testing.T) {
	s, log, _ := undoSite(t)
	p := newPod(t, "three")
	s.mustAdd("warmup4", p, "three")
	s.mustDel("warmup4", p, "three")
	must(t, os.Remove(log))
	fillUp(t, s.manifests)
	before, inside := s.world(nil), links(t, p)
	_, err := s.add(faultySandbox, p, "three")
	says(t, err, "publish", "default/three", "no space left on device")
	want := []string{"ADD eth0", "ADD eth0", "ADD net1", "ADD net1", "ADD net2", "ADD net2", "DEL net2", "DEL net2", "DEL net1", "DEL net1", "DEL eth0", "DEL eth0"}
	if got := recorded(t, log); !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
	must(t, os.Remove(log))
	sameWorld(t, before, s.world(nil))
	sameWorld(t, inside, links(t, p))
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
	v := startOVS(t)
	s := vhostSite(t, v).withConf(map[string]any{"parallel": true})
	dir := filepath.Join(s.dir, "ipams")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "failing"), []byte(failingIPAM), 0o755))
	s.path += ":" + dir
	names := []string{"p1", "p2", "p3"}
	for _, name := range names {
		s.nad(name, vhost(v, s, map[string]any{"name": name, "bridge": "br-" + name, "ipam": map[string]any{"type": "failing"}}))
	}
	s.pod("beside", "p1, p2, p3")
	p := newPod(t, "beside")
	writeFile(t, filepath.Join(dir, "fail"), "none")
	s.mustAdd("warmup7", p, "beside")
	s.mustDel("warmup7", p, "beside")
	for i, name := range names {
		writeFile(t, filepath.Join(dir, "fail"), name)
		must(t, os.Remove(filepath.Join(dir, "asked")))
		before, inside := without(s.world(v), "/ipams"), links(t, p)
		_, err := s.add(faultySandbox, p, "beside")
		says(t, err, fmt.Sprintf("add net%d (network default/%s)", i+1, name), "told to fail")
		if got, want := undone(t, filepath.Join(dir, "asked")), []string{"DEL net3", "DEL net2", "DEL net1"}; !slices.Equal(got, want) {
			t.Errorf("%s fails: undone %q, want %q", name, got, want)
		}
		sameWorld(t, before, without(s.world(v), "/ipams"))
		sameWorld(t, inside, links(t, p))
	}
}

// undone are the DELs of a file of "VERB ifname" lines.
func undone(t *testing.T, file string) []string {
	t.Helper()
	return slices.DeleteFunc(recorded(t, file), func(command string) bool { return !strings.HasPrefix(command, "DEL") })
}

// fillUp lets a folder be on a file system that has no space left.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	texts := map[string]string{}
	for _, e := range entries {
		texts[e.Name()] = readFile(t, filepath.Join(dir, e.Name()))
	}
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	for name, text := range texts {
		writeFile(t, filepath.Join(dir, name), text)
	}
	err = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 128<<10), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("%s is not full: %v", dir, err)
	}
}
