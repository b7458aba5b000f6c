package hung

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/plexus-cni/plexus/agent"
	"github.com/plexus-cni/plexus/rig/must"
	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/site"
)

// verbLimit is what any verb may take while a vswitch hangs.
const verbLimit = 10 * time.Second

// hungSite is a site with pods that a vswitch which hangs has to do with.
type hungSite struct {
	*site.Site
	pods []hungPod
}

type hungPod struct {
	*node.Pod
	name, sandbox string
}

// newHungSite gives the site eleven pods of a port each, the first one of four. Ten will
// be attached.
func newHungSite(t *testing.T, s *site.Site, network string) *hungSite {
	t.Helper()
	h := &hungSite{Site: s}
	for i := range 11 {
		p := hungPod{name: fmt.Sprint("hung", i), sandbox: fmt.Sprintf("a%011d%012d", i, i)}
		p.Pod = site.NewPod(t, p.name)
		networks := network
		if i == 0 {
			networks = strings.Repeat(network+", ", 3) + network
		}
		s.Pod(p.name, networks)
		h.pods = append(h.pods, p)
	}
	return h
}

func (h *hungSite) attached() []hungPod { return h.pods[:10] }

// together does the same with each pod at once, and wants each to end in time.
func (h *hungSite) together(what string, pods []hungPod, do func(hungPod) error) {
	h.T.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	var longest time.Duration
	for _, p := range pods {
		all.Go(func() {
			begun := time.Now()
			err := do(p)
			took := time.Since(begun)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, took)
			if err != nil {
				h.T.Errorf("%s %s: %v", what, p.name, err)
			}
		})
	}
	all.Wait()
	h.T.Logf("%s of %d pods: the longest took %s", what, len(pods), longest.Round(time.Millisecond))
	if longest > verbLimit {
		h.T.Errorf("%s took %s", what, longest)
	}
}

// tryAgain wants the error that tells a runtime to try again, about an endpoint.
func tryAgain(err error, words ...string) error {
	var failed *site.Error
	if !errors.As(err, &failed) || failed.Code != 11 {
		return fmt.Errorf("want code 11, got %w", err)
	}
	for _, w := range words {
		if !strings.Contains(failed.Msg, w) {
			return fmt.Errorf("%w: it does not say %q", err, w)
		}
	}
	return nil
}

// plain wires pods that need no vswitch, and unwires them. It is called before a vswitch
// is stopped too, so that the log has both times.
func (h *hungSite) plain() {
	h.T.Helper()
	var pods []hungPod
	for i := range 3 {
		p := hungPod{name: fmt.Sprint("plain", i), sandbox: fmt.Sprintf("f%011d%012d", i, i)}
		p.Pod = site.NewPod(h.T, p.name)
		pods = append(pods, p)
	}
	h.together("ADD and DEL without a vswitch", pods, func(p hungPod) error {
		if _, err := h.Add(p.sandbox, p.Pod, ""); err != nil {
			return err
		}
		return h.Del(p.sandbox, p.Pod, "")
	})
	for _, p := range pods {
		must.Do(h.T, p.Close())
	}
}

// home removes all pods, some time after a vswitch has gone on, and wants the world to be
// as before.
func (h *hungSite) home(unchanged func() error) {
	h.T.Helper()
	begun := time.Now()
	var err error
	for time.Since(begun) < verbLimit {
		err = nil
		for _, p := range h.pods {
			err = errors.Join(err, h.Del(p.sandbox, p.Pod, p.name))
		}
		if err == nil {
			err = unchanged()
		}
		if err == nil {
			h.T.Logf("everything is undone %s later", time.Since(begun).Round(time.Millisecond))
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.T.Error(err)
}

// explain asks the agent, in time.
func (h *hungSite) explain(socket, pod string) (x agent.Explanation) {
	h.T.Helper()
	begun := time.Now()
	conn, err := net.Dial("unix", socket)
	must.Do(h.T, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/explain?pod=default/%s HTTP/1.0\r\n\r\n", pod)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must.Do(h.T, err)
	defer response.Body.Close()
	must.Do(h.T, json.NewDecoder(response.Body).Decode(&x))
	took := time.Since(begun)
	h.T.Logf("explain took %s", took.Round(time.Millisecond))
	if took > verbLimit {
		h.T.Errorf("explain took %s", took)
	}
	return x
}

// differs compares two worlds.
func differs(before, after string) error {
	if before != after {
		return fmt.Errorf("the world has changed\nbefore:\n%s\nafter:\n%s", before, after)
	}
	return nil
}

// withAgent runs a test with an agent and without.
func withAgent(t *testing.T, test func(t *testing.T, serve func(*site.Site) (*site.Site, string))) {
	t.Run("agent", func(t *testing.T) {
		test(t, func(s *site.Site) (*site.Site, string) {
			socket := filepath.Join(node.Dir(), fmt.Sprintf("hung%d.sock", time.Now().UnixNano()))
			s = s.On(t).With(map[string]any{"agent": map[string]any{"socket": socket}, "confDir": nil})
			s.Serve(socket)
			return s, socket
		})
	})
	t.Run("alone", func(t *testing.T) {
		test(t, func(s *site.Site) (*site.Site, string) { return s.On(t), "" })
	})
}

// VPP hangs: DEL of ten pods ends in time, with the code for trying again, and pods that
// need no VPP are wired and unwired. When VPP goes on, everything is undone.
func TestHungVPP(t *testing.T) {
	withAgent(t, func(t *testing.T, serve func(*site.Site) (*site.Site, string)) {
		v := site.NewMortalVPP(t)
		pid := v.Process.(interface{ PID() int }).PID()
		s, socket := serve(site.NewMemif(t, v.API()))
		h := newHungSite(t, s, "blue")
		before, state := s.World(nil), v.State()
		h.together("ADD", h.attached(), func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return err
		})
		h.plain()
		must.Do(t, syscall.Kill(pid, syscall.SIGSTOP))
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
		if socket != "" {
			x := h.explain(socket, h.pods[0].name)
			if len(x.Datapath) != 5 || x.Datapath[0].Facts["link"]["name"] != "eth0" || !strings.Contains(x.Datapath[4].Differences, v.API()+" is unreachable") {
				t.Errorf("explain: %+v", x.Datapath)
			}
		}
		var others sync.WaitGroup
		others.Go(h.plain)
		h.together("DEL", h.attached(), func(p hungPod) error { return tryAgain(h.Del(p.sandbox, p.Pod, p.name), "VPP at "+v.API()) })
		others.Wait()
		h.together("ADD of a hung VPP", h.pods[10:], func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return tryAgain(err, "VPP at "+v.API())
		})
		must.Do(t, syscall.Kill(pid, syscall.SIGCONT))
		h.home(func() error { return errors.Join(differs(before, s.World(nil)), differs(state, v.State())) })
	})
}

// ovs-vswitchd hangs: it is not needed to remove ports, and ADD says that it is to be tried
// again.
func TestHungVswitchd(t *testing.T) {
	withAgent(t, func(t *testing.T, serve func(*site.Site) (*site.Site, string)) {
		v := site.OVS(t)
		s, _ := serve(site.NewVhost(t, v))
		h := newHungSite(t, s, "fast")
		before := s.World(v)
		h.together("ADD", h.attached(), func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return err
		})
		h.plain()
		must.Do(t, v.PauseVswitchd())
		t.Cleanup(func() { _ = v.ResumeVswitchd() })
		var others sync.WaitGroup
		others.Go(h.plain)
		h.together("ADD", h.pods[10:], func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return tryAgain(err, "ovs-vswitchd", v.OVSDB())
		})
		h.together("ADD once more", h.pods[10:], func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return tryAgain(err, "ovs-vswitchd", v.OVSDB())
		})
		others.Wait()
		h.together("DEL", h.attached(), func(p hungPod) error { return h.Del(p.sandbox, p.Pod, p.name) })
		must.Do(t, v.ResumeVswitchd())
		h.home(func() error { return differs(before, s.World(v)) })
	})
}

// ovsdb-server hangs, and ovs-vswitchd with it.
func TestHungOVSDB(t *testing.T) {
	withAgent(t, func(t *testing.T, serve func(*site.Site) (*site.Site, string)) {
		v := site.OVS(t)
		s, _ := serve(site.NewVhost(t, v))
		h := newHungSite(t, s, "fast")
		before := s.World(v)
		h.together("ADD", h.attached(), func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return err
		})
		h.plain()
		resume := func() error { return errors.Join(v.ResumeOVSDB(), v.ResumeVswitchd()) }
		must.Do(t, errors.Join(v.PauseVswitchd(), v.PauseOVSDB()))
		t.Cleanup(func() { _ = resume() })
		var others sync.WaitGroup
		others.Go(h.plain)
		h.together("DEL", h.attached(), func(p hungPod) error { return tryAgain(h.Del(p.sandbox, p.Pod, p.name), "OVSDB at "+v.OVSDB()) })
		h.together("ADD of a hung OVSDB", h.pods[10:], func(p hungPod) error {
			_, err := h.Add(p.sandbox, p.Pod, p.name)
			return tryAgain(err, "OVSDB at "+v.OVSDB())
		})
		others.Wait()
		must.Do(t, resume())
		h.home(func() error { return differs(before, s.World(v)) })
	})
}
