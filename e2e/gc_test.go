package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
)

// The runtime knows two of three sandboxes: GC removes the third, whichever it
// is, from the vswitches, the addresses, the namespaces and the journal, and
// nothing of the others.
func TestGCOfOneAmongThree(t *testing.T) {
	v := startOVS(t)
	api, state := vppAPI(t)
	s := vhostSite(t, v)
	s.installRecorder()
	log := filepath.Join(s.dir, "log")
	s.nad("memory", memifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "three"}, "ipam": s.hostLocal("192.168.71.0/24")}))
	s.chainNAD("told",
		plugin("ptp", map[string]any{"ipam": s.hostLocal("10.67.0.0/24")}), map[string]any{"type": recorder, "log": log})
	names := []string{"one", "two", "three"}
	pods, ids := map[string]*node.Pod{}, map[string]string{}
	var all []attachmentID
	for i, name := range names {
		s.pod(name, "fast, memory, told")
		pods[name], ids[name] = newPod(t, name), sandboxID(670+i)
		s.mustAdd(ids[name], pods[name], name)
		all = append(all, attachmentID{ids[name], "eth0"})
	}
	everything := func() string { return noSizes(s.world(v)) + state() }
	must(t, s.gc(all...))
	for i, name := range names {
		t.Run("without "+name, func(t *testing.T) {
			s := s.on(t)
			with := everything()
			s.mustDel(ids[name], pods[name], name)
			without1 := everything()
			fresh := links(t, pods[name])
			s.mustAdd(ids[name], pods[name], name)
			var others []string
			for _, other := range names {
				if other != name {
					others = append(others, links(t, pods[other]))
				}
			}
			must(t, os.Remove(log))
			must(t, s.gc(slices.Delete(slices.Clone(all), i, i+1)...))
			gone := everything()
			for _, mark := range []string{ids[name], name + ".status.json"} {
				if !strings.Contains(with, mark) || strings.Contains(gone, mark) {
					t.Errorf("the world has %q: before GC %v, after it %v", mark, strings.Contains(with, mark), strings.Contains(gone, mark))
				}
			}
			sameWorld(t, without(without1, log), without(gone, log))
			sameWorld(t, fresh, links(t, pods[name]))
			if _, err := os.Stat(s.journalFile(ids[name])); err == nil {
				t.Error("its journal is left")
			}
			if got := recorded(t, log); len(got) != 2 || got[0] != "DEL net3" || !strings.HasPrefix(got[1], "GC") {
				t.Errorf("the recorder got %q, want DEL net3, GC", got)
			}
			for _, other := range names {
				if other != name {
					s.mustCheck(ids[other], pods[other], other)
					sameWorld(t, others[0], links(t, pods[other]))
					others = others[1:]
				}
			}
			s.mustAdd(ids[name], pods[name], name)
		})
	}
	for _, name := range names {
		s.mustDel(ids[name], pods[name], name)
	}
}

// STATUS names the network that is not ready, whichever of three it is.
func TestStatusOfEach(t *testing.T) {
	s := newSite(t, nil)
	s.installRecorder()
	names := []string{"first", "second", "third"}
	fail := func(name string) string { return filepath.Join(s.dir, "fail-"+name) }
	var delegates []any
	for _, name := range names {
		delegates = append(delegates, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{
			map[string]any{"type": recorder}, map[string]any{"type": recorder, "fail": fail(name)},
		}})
	}
	s = s.withConf(map[string]any{"delegates": delegates})
	must(t, s.status())
	for _, name := range names {
		writeFile(t, fail(name), "STATUS")
		err := s.status()
		says(t, err, "network "+name+" is not ready", "told to fail")
		hasCode(t, err, codeNotReady)
		must(t, os.Remove(fail(name)))
	}
	must(t, s.status())
}

// CHECK asks each network, and names each that fails.
func TestCheckOfEach(t *testing.T) {
	s, _, told := undoSite(t)
	p := newPod(t, "three")
	s.mustAdd(faultySandbox, p, "three")
	s.mustCheck(faultySandbox, p, "three")
	for _, place := range []int{1, 3, 5} {
		writeFile(t, told(place), "CHECK")
		says(t, s.check(faultySandbox, p, "three"), "check "+threeNames[place/2], "told to fail")
		must(t, os.Remove(told(place)))
	}
	writeFile(t, told(0), "CHECK")
	writeFile(t, told(4), "CHECK")
	says(t, s.check(faultySandbox, p, "three"), "check eth0 (network cluster)", "check net2 (network default/third)")
	must(t, os.Remove(told(0)))
	must(t, os.Remove(told(4)))
	s.mustDel(faultySandbox, p, "three")
}
