package vpp

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/plexus-cni/plexus/rig/memif"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/site"
	"github.com/plexus-cni/plexus/shareddir"
)

const (
	scalePods = 200
	atOnce    = 8
)

var socketLine = regexp.MustCompile(`(?m)^socket (.+) id=(\d+) listening$`)

// 200 pods are attached, eight at a time, with four memifs each, the cluster
// network's among them: VPP numbers 800 sockets, of which the 21st and the
// 300th work like the first, and nothing is left when all pods have gone.
func TestMemifScaleOfExecutables(t *testing.T) {
	scale(t, func(s *site.Site, r site.Request) ([]byte, error) {
		out, _, err := s.Call(r)
		return out, err
	})
}

// The same within one process.
func TestMemifScaleInProcess(t *testing.T) {
	scale(t, (*site.Site).InProcess)
}

func scale(t *testing.T, do func(*site.Site, site.Request) ([]byte, error)) {
	api, state := site.VPP(t)
	s := site.New(t, nil)
	blue, red := map[string]any{"name": "blue"}, map[string]any{"name": "red"}
	cluster := site.MemifNAD(api, s, map[string]any{"name": "cluster", "bridgeDomain": blue})
	s.Conf = must.JSON(t, map[string]any{
		"cniVersion": "1.1.0", "name": "node", "type": "plexus", "manifests": s.Manifests, "dataDir": s.DataDir, "endpoints": []string{api}, "socketDirs": site.SocketDirs, "delegates": []any{cluster},
	})
	s.NAD("blue", site.MemifNAD(api, s, map[string]any{"bridgeDomain": blue}))
	s.NAD("red", site.MemifNAD(api, s, map[string]any{"bridgeDomain": red}))
	var pods []*site.StormPod
	for n := range scalePods {
		p := &site.StormPod{Id: fmt.Sprintf("%012x", 0x5ca1e000+n), Name: fmt.Sprintf("scale%d", n)}
		p.Pod = site.NewPod(t, p.Name)
		s.Pod(p.Name, "red, blue, red")
		pods = append(pods, p)
	}
	inTurns(s, pods[:1], "ADD", do)
	inTurns(s, pods[:1], "DEL", do)
	if t.Failed() {
		t.FailNow()
	}
	unchanged := watch(s, state)

	inTurns(s, pods, "ADD", do)
	if t.Failed() {
		t.FailNow()
	}
	text := state()
	sockets := map[string]string{} // by number
	for _, m := range socketLine.FindAllStringSubmatch(text, -1) {
		sockets[m[2]] = m[1]
	}
	if domains := strings.Count(text, "\nbridge-domain ") + strings.Count(text[:min(len(text), 14)], "bridge-domain "); domains != 2 || len(sockets) > 0 && len(sockets) != 4*scalePods {
		t.Errorf("%d sockets listen in %d bridge domains, want %d in 2", len(sockets), domains, 4*scalePods)
	}
	files, err := filepath.Glob(filepath.Join(s.Dir, "memif", "*", "*.sock"))
	must.Do(t, err)
	if len(files) != 4*scalePods {
		t.Errorf("%d socket files, want %d", len(files), 4*scalePods)
	}
	if len(sockets) == 0 { // a VPP, which chooses numbers of its own
		sockets = map[string]string{"1": files[0], "21": files[20], "300": files[299]}
	}
	// The first pod's eth0 is in blue and its net1 in red; so is everyone's.
	partner := map[string]*memif.Peer{}
	last := filepath.Join(s.Dir, "memif", shareddir.OwnName(pods[len(pods)-1].Id), "memif-"+pods[len(pods)-1].Id+"-%s.sock")
	partner["blue"], partner["red"] = dial(t, fmt.Sprintf(last, "net2"), memif.Options{}), dial(t, fmt.Sprintf(last, "net3"), memif.Options{})
	for _, id := range []string{"1", "21", "300"} {
		domain, other := "blue", "red"
		if strings.HasSuffix(sockets[id], "-net1.sock") || strings.HasSuffix(sockets[id], "-net3.sock") {
			domain, other = other, domain
		}
		before := partner[other].Received()
		peer := dial(t, sockets[id], memif.Options{})
		// Both addresses are learned before many frames come: VPP 26.06 does not
		// survive it when it has no buffer left to flood so many members.
		for _, way := range [][2]*memif.Peer{{peer, partner[domain]}, {partner[domain], peer}} {
			if got, err := memif.Transfer(must.Deadline(t), way[0], way[1], 1, memif.Traffic{}); err != nil || got != 1 {
				t.Errorf("the first frame: %d passed, %v", got, err)
			}
		}
		passes(t, peer, partner[domain])
		if now := partner[other].Received(); now != before {
			t.Errorf("%d frames of socket %s crossed from one bridge domain to another", now-before, id)
		}
		peer.Close()
	}
	partner["blue"].Close()
	partner["red"].Close()

	inTurns(s, pods, "DEL", do)
	unchanged()
	if left, err := filepath.Glob(filepath.Join(s.Dir, "memif", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
	for _, p := range pods {
		if err := os.Remove(filepath.Join(s.Manifests, p.Name+".pod.yaml")); err != nil {
			t.Error(err)
		}
		must.Do(t, p.Close())
	}
}

// inTurns does a verb to all the pods, some of them at once.
func inTurns(s *site.Site, pods []*site.StormPod, verb string, do func(*site.Site, site.Request) ([]byte, error)) {
	s.T.Helper()
	errs := make([]error, len(pods))
	next := make(chan int)
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for i := range next {
				p := pods[i]
				_, errs[i] = do(s, site.Request{Verb: verb, Sandbox: p.Id, Netns: p.Path(), Pod: p.Name})
			}
		})
	}
	for i := range pods {
		next <- i
	}
	close(next)
	group.Wait()
	for i, err := range errs {
		if err != nil {
			s.T.Errorf("%s %s: %v", verb, pods[i].Name, err)
		}
	}
}
