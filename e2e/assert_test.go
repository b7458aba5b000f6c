package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plexus-cni/plexus/rig/node"
	"github.com/plexus-cni/plexus/rig/ovs"
)

// says wants an error with a CNI code and message that has all the parts.
func says(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("it succeeded, want an error that says %q", parts)
		return
	}
	var answer *cniError
	if !errors.As(err, &answer) {
		t.Errorf("no CNI error: %v", err)
		return
	}
	if answer.Code == 0 {
		t.Errorf("error without a code: %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(answer.Msg+answer.Details, part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// hasCode wants a CNI error with that code.
func hasCode(t testing.TB, err error, code uint) {
	t.Helper()
	var answer *cniError
	if !errors.As(err, &answer) || answer.Code != code {
		t.Errorf("error %v, want one with code %d", err, code)
	}
}

// noPanic wants that plexus wrote no stack trace to standard error.
func noPanic(t testing.TB, stderr string) {
	t.Helper()
	if strings.Contains(stderr, "panic") || strings.Contains(stderr, "goroutine ") {
		t.Errorf("plexus panicked:\n%s", stderr)
	}
}

// must ends a test whose surroundings do not do what they should.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	must(t, err)
	return string(data)
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

// vsctl runs ovs-vsctl, words separated by blanks.
func vsctl(t testing.TB, v *ovs.Switch, command string) string {
	t.Helper()
	out, err := v.VSCtl(deadline(t), strings.Fields(command)...)
	must(t, err)
	return out
}

// inPod runs a command in a pod, words separated by blanks.
func inPod(t testing.TB, p *node.Pod, command string) string {
	t.Helper()
	out, err := p.Exec(deadline(t), strings.Fields(command)...)
	must(t, err)
	return out
}

// links is the network state inside a pod.
func links(t testing.TB, p *node.Pod) string {
	t.Helper()
	text, err := p.Snapshot(t.Context())
	must(t, err)
	return text
}

// portOf is the name of the vhost-user port of a sandbox's interface.
func portOf(t testing.TB, v *ovs.Switch, sandbox, ifName string) string {
	t.Helper()
	out := vsctl(t, v, "--bare --columns=name find Interface external_ids:plexus-sandbox="+sandbox+" external_ids:plexus-ifname="+ifName)
	if out == "" || strings.Contains(out, "\n") {
		t.Fatalf("OVS has ports %q for %s of sandbox %s, want one", out, ifName, sandbox)
	}
	return out
}

// without leaves the lines of a world out that have a text in them.
func without(world, text string) string {
	var kept strings.Builder
	for line := range strings.Lines(world) {
		if !strings.Contains(line, text) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// becomesWorld waits for what the kernel does late: the links of a namespace
// that has gone.
func (s *site) becomesWorld(v *ovs.Switch, before string) {
	s.t.Helper()
	ctx := deadline(s.t)
	after := s.world(v)
	for strings.Count(after, "kind=veth") > strings.Count(before, "kind=veth") && ctx.Err() == nil {
		after = s.world(v)
	}
	sameWorld(s.t, before, after)
}

// vhostSite is newVhostSite that leaves nothing in the switch even when the test
// fails.
func vhostSite(t testing.TB, v *ovs.Switch) *site {
	t.Helper()
	s := newVhostSite(t, v)
	t.Cleanup(func() {
		if t.Failed() {
			_ = s.gc()
		}
	})
	return s
}

// journalFile is the journal of a sandbox.
func (s *site) journalFile(sandbox string) string {
	return filepath.Join(s.dataDir, "sandboxes", sandbox+".json")
}

func (s *site) mustCheck(sandbox string, p *node.Pod, pod string) {
	s.t.Helper()
	if err := s.check(sandbox, p, pod); err != nil {
		s.t.Fatalf("CHECK %s: %v", pod, err)
	}
}

// on is the site in a subtest.
func (s *site) on(t testing.TB) *site {
	there := *s
	there.t = t
	return &there
}

// withConf is the site with keys of its configuration changed; nil removes one.
func (s *site) withConf(keys map[string]any) *site {
	s.t.Helper()
	there := *s
	there.conf = changed(s.t, s.conf, keys)
	return &there
}

// changed is a JSON object with keys changed; nil removes one.
func changed(t testing.TB, object []byte, keys map[string]any) []byte {
	t.Helper()
	all := map[string]any{}
	decode(t, object, &all)
	for k, value := range keys {
		if value == nil {
			delete(all, k)
			continue
		}
		all[k] = value
	}
	return jsonOf(t, all)
}

func decode(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
}

// sandboxID is a container ID of a test, unlike those of other tests.
func sandboxID(n int) string { return fmt.Sprintf("%03dc0ffee%03d", n, n) }
