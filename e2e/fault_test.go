package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/plexus-cni/plexus/rig/fault"
	"github.com/plexus-cni/plexus/rig/node"
)

// faulty makes a request with a fault. It returns the steps that were begun,
// none if the process was killed.
func (s *site) faulty(r request, kind string, at int) ([]string, error) {
	s.t.Helper()
	if r.ifName == "" {
		r.ifName = "eth0"
	}
	file := filepath.Join(node.Dir(), "steps")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(s.environ(r), fault.Env(kind, at, file)...)
	cmd.Stdin = bytes.NewReader(s.conf)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil, err
	}
	data, errRead := os.ReadFile(file)
	if errRead != nil {
		s.t.Fatalf("%v: %s", errRead, out.String())
	}
	if err != nil {
		failed := &cniError{}
		if json.Unmarshal(out.Bytes(), failed) != nil || failed.Msg == "" {
			s.t.Fatalf("no CNI error but %q", out.String())
		}
		err = failed
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), err
}

// newThreeNetworks has a pod of three networks: the cluster network by an
// executable, a vhost-user port in a bridge that plexus makes, and a conflist
// that mixes a built-in of userspace-cni's dialect with an executable.
func newThreeNetworks(t *testing.T) (*site, *node.Pod) {
	v := startOVS(t)
	s := newVhostSite(t, v)
	s.installRecorder()
	s.nad("mixed", map[string]any{
		"cniVersion": "1.0.0", "name": "mixed",
		"plugins": []any{
			vhost(v, s, map[string]any{
				"cniVersion": nil, "bridge": "br-mixed", "trunk": []any{7, map[string]int{"minID": 10, "maxID": 12}},
				"ipam": map[string]any{"type": "static", "addresses": []any{map[string]string{"address": "192.168.9.9/24"}}},
			}),
			map[string]any{"type": recorder},
		},
	})
	s.pod("three", "fast, mixed")
	p := newPod(t, "three")
	s.mustAdd("warmup1", p, "three")
	s.mustDel("warmup1", p, "three")
	return s, p
}

const faultySandbox = "0123456789abcdef"

// Every step of ADD is failed in turn: ADD reports it and the node is as it
// was, without a DEL.
func TestAddFailsAtEveryStep(t *testing.T) {
	s, p := newThreeNetworks(t)
	before := s.world(vswitch.running)
	add := request{verb: "ADD", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for at := 1; ; at++ {
		steps, err := s.faulty(add, "fail", at)
		if err == nil {
			if len(steps) != at-1 || at < 10 {
				t.Fatalf("ADD succeeded with a fault at step %d, steps: %q", at, steps)
			}
			s.mustDel(faultySandbox, p, "three")
			sameWorld(t, before, s.world(vswitch.running))
			t.Logf("%d steps failed in turn: %q", at-1, steps)
			return
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("injected failure at step %d,", at)) {
			t.Errorf("step %d: the error does not tell: %v", at, err)
		}
		sameWorld(t, before, s.world(vswitch.running))
		s.mustDel(faultySandbox, p, "three")
		if t.Failed() {
			t.Fatalf("after a failure at step %d of %q", at, steps)
		}
	}
}

// The process is killed between any two steps of ADD: DEL, which knows nothing
// but the journal, restores the node.
func TestAddKilledAtEveryStep(t *testing.T) {
	s, p := newThreeNetworks(t)
	before := s.world(vswitch.running)
	add := request{verb: "ADD", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for at := 1; ; at++ {
		_, err := s.faulty(add, "kill", at)
		s.mustDel(faultySandbox, p, "three")
		sameWorld(t, before, s.world(vswitch.running))
		if t.Failed() {
			t.Fatalf("after a kill at step %d", at)
		}
		if err == nil {
			t.Logf("killed at %d steps", at-1)
			return
		}
	}
}

// Every step of DEL is failed, or the process killed there: the next DEL
// finishes.
func TestDelCutShortAtEveryStep(t *testing.T) {
	s, p := newThreeNetworks(t)
	before := s.world(vswitch.running)
	del := request{verb: "DEL", sandbox: faultySandbox, netns: p.Path(), pod: "three"}
	for _, fault := range []string{"fail", "kill"} {
		for at := 1; ; at++ {
			s.mustAdd(faultySandbox, p, "three")
			_, err := s.faulty(del, fault, at)
			s.mustDel(faultySandbox, p, "three")
			sameWorld(t, before, s.world(vswitch.running))
			if t.Failed() {
				t.Fatalf("after %s of DEL at step %d: %v", fault, at, err)
			}
			if err == nil {
				t.Logf("%s at %d steps", fault, at-1)
				break
			}
		}
	}
}
