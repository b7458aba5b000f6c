package core

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// The runtime knows two of three sandboxes: GC removes the third, whichever it
// is, from the vswitches, the addresses, the namespaces and the journal, and
// nothing of the others.
func TestGCOfOneAmongThree(t *testing.T) {
	v := site.OVS(t)
	api, state := site.VPP(t)
	s := site.NewVhostSwept(t, v)
	s.InstallRecorder()
	log := filepath.Join(s.Dir, "log")
	s.NAD("memory", site.MemifNAD(api, s, map[string]any{"bridgeDomain": map[string]any{"name": "three"}, "ipam": s.HostLocal("192.168.71.0/24")}))
	s.ChainNAD("told",
		site.Plugin("ptp", map[string]any{"ipam": s.HostLocal("10.67.0.0/24")}), map[string]any{"type": site.Recorder, "log": log})
	names := []string{"one", "two", "three"}
	pods, ids := map[string]*node.Pod{}, map[string]string{}
	var all []site.AttachmentID
	for i, name := range names {
		s.Pod(name, "fast, memory, told")
		pods[name], ids[name] = site.NewPod(t, name), site.SandboxID(670+i)
		s.MustAdd(ids[name], pods[name], name)
		all = append(all, site.AttachmentID{ContainerID: ids[name], IfName: "eth0"})
	}
	everything := func() string { return noSizes(s.World(v)) + state() }
	must.Do(t, s.GC(all...))
	for i, name := range names {
		t.Run("without "+name, func(t *testing.T) {
			s := s.On(t)
			with := everything()
			s.MustDel(ids[name], pods[name], name)
			without1 := everything()
			fresh := site.Links(t, pods[name])
			s.MustAdd(ids[name], pods[name], name)
			var others []string
			for _, other := range names {
				if other != name {
					others = append(others, site.Links(t, pods[other]))
				}
			}
			must.Do(t, os.Remove(log))
			must.Do(t, s.GC(slices.Delete(slices.Clone(all), i, i+1)...))
			gone := everything()
			for _, mark := range []string{ids[name], name + ".status.json"} {
				if !strings.Contains(with, mark) || strings.Contains(gone, mark) {
					t.Errorf("the world has %q: before GC %v, after it %v", mark, strings.Contains(with, mark), strings.Contains(gone, mark))
				}
			}
			site.SameWorld(t, site.Without(without1, log), site.Without(gone, log))
			site.SameWorld(t, fresh, site.Links(t, pods[name]))
			if _, err := os.Stat(s.JournalFile(ids[name])); err == nil {
				t.Error("its journal is left")
			}
			if got := site.Recorded(t, log); len(got) != 2 || got[0] != "DEL net3" || !strings.HasPrefix(got[1], "GC") {
				t.Errorf("the recorder got %q, want DEL net3, GC", got)
			}
			for _, other := range names {
				if other != name {
					s.MustCheck(ids[other], pods[other], other)
					site.SameWorld(t, others[0], site.Links(t, pods[other]))
					others = others[1:]
				}
			}
			s.MustAdd(ids[name], pods[name], name)
		})
	}
	for _, name := range names {
		s.MustDel(ids[name], pods[name], name)
	}
}

// STATUS names the network that is not ready, whichever of three it is.
func TestStatusOfEach(t *testing.T) {
	s := site.New(t, nil)
	s.InstallRecorder()
	names := []string{"first", "second", "third"}
	fail := func(name string) string { return filepath.Join(s.Dir, "fail-"+name) }
	var delegates []any
	for _, name := range names {
		delegates = append(delegates, map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": []any{
			map[string]any{"type": site.Recorder}, map[string]any{"type": site.Recorder, "fail": fail(name)},
		}})
	}
	s = s.With(map[string]any{"delegates": delegates})
	must.Do(t, s.Status())
	for _, name := range names {
		must.WriteFile(t, fail(name), "STATUS")
		err := s.Status()
		site.Says(t, err, "network "+name+" is not ready", "told to fail")
		site.HasCode(t, err, codeNotReady)
		must.Do(t, os.Remove(fail(name)))
	}
	must.Do(t, s.Status())
}

// CHECK asks each network, and names each that fails.
func TestCheckOfEach(t *testing.T) {
	s, _, told := undoSite(t)
	p := site.NewPod(t, "three")
	s.MustAdd(site.FaultySandbox, p, "three")
	s.MustCheck(site.FaultySandbox, p, "three")
	for _, place := range []int{1, 3, 5} {
		must.WriteFile(t, told(place), "CHECK")
		site.Says(t, s.Check(site.FaultySandbox, p, "three"), "check "+site.ThreeNames[place/2], "told to fail")
		must.Do(t, os.Remove(told(place)))
	}
	must.WriteFile(t, told(0), "CHECK")
	must.WriteFile(t, told(4), "CHECK")
	site.Says(t, s.Check(site.FaultySandbox, p, "three"), "check eth0 (network cluster)", "check net2 (network default/third)")
	must.Do(t, os.Remove(told(0)))
	must.Do(t, os.Remove(told(4)))
	s.MustDel(site.FaultySandbox, p, "three")
}
